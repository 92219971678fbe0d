"""Between stages 2 and 3: tokens and actions of all frames, computed once and stored.

    python -m train.encode --data runs/my-world/data --run runs/my-world

In: a run folder with a finished tokenizer and latent action model, and frames. Out: token shards in
the run folder, tied by a fingerprint to both. The dynamics stage does this by itself where there
are none; this command replaces those that are there.
"""

import hashlib
import shlex
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import tyro
from accelerate import PartialState
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from genie.configs import config_from_dict
from genie.data.card import SPLITS
from genie.data.clips import FrameStore, TokenStore
from genie.errors import UserError
from genie.frames import to_float
from genie.latent_action import LatentActionConfig, LatentActionModel
from genie.machine import autocast, best_device
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel
from genie.tokenizer import Tokenizer, TokenizerConfig
from genie.world import make_latent_action
from train.errors import one_line_errors
from train.loop.provenance import python_name
from train.loop.run_folder import load_finished, read_description
from train.presets import StageConfig

ENCODE_FRAMES = 120  # of a scene, encoded at once
SCENES_AT_ONCE = {"cuda": 16}  # a GPU has hardly begun with one; a CPU gains nothing

ActionModel = LatentActionModel | STLatentActionModel


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Compute tokens and actions anew."""

    data: str
    """Prepared folder (python -m train.prepare)."""
    run: Path
    """Run folder with the two finished stages."""
    replay: str | None = None
    """Prepared folder of an old game, if the dynamics replays one."""


def main(config: EncodeConfig) -> None:
    """Replace the token shards of both splits, and of the replayed data.

    Raises:
        UserError: if a stage has not finished, or something cannot be read or written; what was
            there stays then.
    """
    stores = {split: FrameStore.open(config.data, split) for split in SPLITS}
    if config.replay:
        stores["replay"] = FrameStore.open(config.replay, "train")
    nets = load_encoders(config.run)
    for name, store in stores.items():
        folder = config.run / "tokens" / name
        encode(*nets, store).save(folder, fingerprint(*nets, store))
        print(f"{folder}: {len(store)} frames")


def load_encoders(run: Path) -> tuple[Tokenizer, ActionModel]:
    """The two finished stages of a run folder.

    Raises:
        UserError: if one has not finished.
    """
    nets = []
    for stage, kind, make in (
        ("tokenizer", TokenizerConfig, Tokenizer),
        ("latent_action", LatentActionConfig | STLatentActionConfig, make_latent_action),
    ):
        values = read_description(run / stage)["model"]
        net = make(config_from_dict(kind, values, where=str(run / stage / "config.json")))
        nets.append(load_finished(net, run / stage))
    return nets[0], nets[1]


def open_tokens(
    config: StageConfig,
    tokenizer: Tokenizer,
    latent_action: ActionModel,
    store: FrameStore,
    name: str | None = None,
) -> TokenStore:
    """Tokens and actions of a split, computed by the main process where there are none yet.

    Args:
        name: of their folder; default: the split's.

    Raises:
        UserError: if those that are there come from other nets or frames.
    """
    folder = config.run / "tokens" / (name or store.split)
    wanted = fingerprint(tokenizer, latent_action, store)
    # The others wait for as long as it takes.
    state = PartialState(cpu=best_device().type == "cpu", timeout=timedelta(days=1))
    with state.main_process_first():
        if not folder.exists():
            encode(tokenizer, latent_action, store).save(folder, wanted)
    stored = TokenStore.open(folder, wanted, store.scene_starts)
    if stored is None:
        words = [python_name(), "-m", "train.encode", "--data", config.data, "--run", config.run]
        words += ["--replay", config.replay] if config.replay else []
        command = shlex.join(map(str, words))
        raise UserError(
            f"{folder} is damaged, or holds tokens of other nets or frames than those of "
            f"{config.run}: compute them anew with: {command}"
        )
    return stored


@torch.no_grad()  # not inference_mode, which would mark the nets that are moved in here for good
def encode(
    tokenizer: Tokenizer,
    latent_action: ActionModel,
    store: FrameStore,
    scenes_at_once: int | None = None,
) -> TokenStore:
    """Compute the tokens and actions of a split.

    Args:
        scenes_at_once: stretches of frames in one batch; None takes what suits the device.
    """
    tokens = torch.zeros(len(store), tokenizer.config.num_tokens, dtype=torch.int32)
    actions = torch.zeros(len(store), dtype=torch.int32)
    device = best_device()
    tokenizer.to(device), latent_action.to(device)
    pieces = _pieces(store, max(tokenizer.config.reach, latent_action.config.reach))
    pieces.sort(key=lambda piece: piece[2] - piece[0])
    at_once = scenes_at_once or SCENES_AT_ONCE.get(device.type, 1)
    batches = [pieces[first : first + at_once] for first in range(0, len(pieces), at_once)]
    for batch in tqdm(batches, desc=f"encode {store.split}", mininterval=1):
        # Padded behind the end, which no frame before it sees: both nets are causal.
        clips = pad_sequence([store.read(lead, stop) for lead, _, stop in batch], batch_first=True)
        frames = to_float(clips.to(device))
        with autocast(device):
            codes = tokenizer.encode(frames).int().cpu()
            found = latent_action.infer(frames).int().cpu()
        for row, (lead, start, stop) in enumerate(batch):
            tokens[start:stop] = codes[row, start - lead : stop - lead]
            # The action into the first kept frame belongs to the row before it.
            first = max(lead, start - 1)
            actions[first : stop - 1] = found[row, first - lead : stop - 1 - lead]
    return TokenStore(tokens, actions, store.scene_starts)


def fingerprint(tokenizer: Tokenizer, latent_action: ActionModel, store: FrameStore) -> str:
    """Ties tokens to the frames that they stand for and to the nets that made them."""
    digest = hashlib.sha256(store.fingerprint.encode())
    for net in (tokenizer, latent_action):
        for name, tensor in net.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _pieces(store: FrameStore, reach: int) -> list[tuple[int, int, int]]:
    """(first row read, first row kept, end) of stretches that cover all scenes.

    What is read before the first row kept is all that can change how that row is encoded.
    """
    pieces = []
    for first, end in zip(store.scene_starts[:-1], store.scene_starts[1:], strict=True):
        for start in range(int(first), int(end), ENCODE_FRAMES):
            stop = min(start + ENCODE_FRAMES, int(end))
            pieces.append((max(int(first), start - reach), start, stop))
    return pieces


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(EncodeConfig, description=__doc__))
