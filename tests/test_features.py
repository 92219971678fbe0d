"""The small network for distances between sets of frames: shipped weights and how they are made."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import HEIGHT, WIDTH, scrolling_ground

from genie import video
from genie.data import FrameStore
from genie.errors import UserError
from genie.metrics import frechet_distance
from genie.parts import FrameOptions
from genie.preparing import prepare
from train import features


def ground(seed: int, count: int = 240) -> torch.Tensor:
    """Views of several patchworks, uint8 (n, 3, h, w)."""
    frames = [torch.from_numpy(scrolling_ground(count // 8, seed + i)[0].copy()) for i in range(8)]
    return torch.cat(frames).movedim(-1, 1)


def test_frames_that_look_worse_are_further_away():
    real = features.features_of(ground(0))
    other = ground(100)
    floor = frechet_distance(features.features_of(other), real)
    for blur in (3, 5):
        soft = F.avg_pool2d(other.float(), blur, stride=1, padding=blur // 2).byte()
        further = frechet_distance(features.features_of(soft), real)
        assert further > 1.5 * floor
        floor = further / 1.5  # the stronger blur is further still than the weaker


def test_features_do_not_depend_on_who_is_beside():
    frames = ground(3)
    together = features.features_of(frames)
    assert together.shape == (240, features.WIDTH)
    torch.testing.assert_close(together[7:8], features.features_of(frames[7:8]))


def test_the_network_learns_to_find_pairs_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(features, "SCENES", 4)
    for number in range(6):
        frames, _ = scrolling_ground(32, number)
        for split in ("train", "heldout"):
            path = tmp_path / "videos" / split / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            video.write(path, list(frames), fps=12.0, lossless=True)
    options = FrameOptions(size=(HEIGHT, WIDTH))
    prepare([tmp_path / "videos"], tmp_path / "data", options, workers=1)
    out = tmp_path / "weights.safetensors"
    features.main(features.FeaturesConfig(data=tmp_path / "data", out=out, num_steps=40))
    monkeypatch.setattr(features, "WEIGHTS", out)
    features.load_features.cache_clear()
    trained = features.load_features()
    features.load_features.cache_clear()
    torch.manual_seed(0)
    pairs = next(features._pairs(FrameStore.open(tmp_path / "data", "heldout"), seed=1))
    assert trained.loss(pairs) < 0.8 * features.Features().loss(pairs)


def test_too_few_videos_are_refused(prepared_folder: Path):
    with pytest.raises(UserError, match="24 scenes of 16 frames"):
        features.fit(FrameStore.open(prepared_folder, "train"), 1, seed=0)
