"""Clips that lie on the device give the batches of a loader, and so the same net."""

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_train import loop_config, on_one_core, open_stores, small_trainer, to_its_end  # noqa: F401
from torch.utils.data import ConcatDataset, DataLoader

from genie.data import clips
from genie.data.clips import Clips, FrameStore, starts
from train.loop.clip_order import Pool, StepSampler
from train.loop.resident import ResidentBatches, ResidentClips, fit_on_device
from train.loop.trainer import Replay


def alike(found, wanted) -> bool:
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    return all(alike(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("net", ["tokenizer", "dynamics"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_are_a_loaders(net: str, accumulation: int, prepared_folder: Path):
    """Of one data set, and of two one after the other."""
    train, heldout = (Clips(store, 5) for store in open_stores(prepared_folder)[net])
    for parts in ([train], [train, heldout]):
        pools = [Pool(len(part), 4) for part in parts]
        sampler = StepSampler(pools, loop_config(accumulation=accumulation), first_step=1)
        resident = ResidentBatches(ResidentClips(parts, torch.device("cpu")), sampler)
        loaded = DataLoader(ConcatDataset(parts), batch_sampler=sampler)
        pairs = list(islice(zip(resident, loaded, strict=True), 30))
        assert len(pairs) == 30
        assert all(alike(found, wanted) for found, wanted in pairs), "another batch"


def test_frames_come_whole_in_pieces(prepared_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where the videos of a game are scattered over the rows."""
    store = FrameStore.open(prepared_folder, "train")
    monkeypatch.setattr(clips, "BROUGHT_BYTES", 7 * 3 * store.size[0] * store.size[1])
    some = store._only([0, 2])
    for each in (store, some):
        (frames,) = each.make_room(len(each), torch.device("cpu"))
        each.bring((frames,))
        edges = zip(each.video_starts[:-1], each.video_starts[1:], strict=True)
        wanted = torch.cat([each.read(int(a), int(b)) for a, b in edges])
        assert torch.equal(frames, wanted)
    lengths = np.diff(store.video_starts)[[0, 2]].tolist()
    assert np.array_equal(some.video_starts, starts(lengths))


@pytest.mark.parametrize("net", ["latent_action", "dynamics"])
def test_a_net_learns_the_same(net: str, prepared_folder: Path, tmp_path: Path):
    """With an old game among the new one's, and interrupted half way."""
    stores = open_stores(prepared_folder)
    replay = {"replay": Replay(Clips(stores[net][1], 5), 0.25)}
    found = {}
    for resident in ("no", "yes"):
        folder = tmp_path / resident
        values = {"resident": resident, "num_steps": 6, "batch_size": 4, "save_every": 3}
        if resident == "yes":  # a run may go on otherwise than it began
            first = small_trainer(stores, folder, net, options=replay, **values)
            first._stops = lambda _, first=first: first.step == 3
            with pytest.raises(SystemExit):
                first.run()
        trainer = small_trainer(stores, folder, net, options=replay, **values)
        to_its_end(trainer)
        found[resident] = trainer.net.state_dict()
    for name, tensor in found["no"].items():
        assert torch.equal(found["yes"][name], tensor), f"{name} differs"


def test_clips_stay_on_a_gpu_that_has_the_room(
    prepared_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    parts = [Clips(store, 5) for store in open_stores(prepared_folder)["tokenizer"]]
    num_bytes = sum(3 * 32 * 48 * len(part.store) for part in parts)
    for memory, fits in ((3 * num_bytes, True), (2 * num_bytes, False)):
        gpu = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, gpu=gpu: gpu)
        assert fit_on_device(parts, torch.device("cuda")) == fits
    assert not fit_on_device(parts, torch.device("cpu")), "there, loading costs little"
