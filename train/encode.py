"""Between stages 2 and 3: tokens and actions of all frames, computed once and stored.

    python -m train.encode --data runs/my-world/data --run runs/my-world

In: a run folder with a finished tokenizer and latent action model, and frames. Out: stored tokens
in the run folder, with a fingerprint of the nets and the frames. The dynamics stage computes tokens
that are missing by itself; this command replaces those that exist.
"""

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from accelerate import PartialState
from torch import nn
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

ENCODE_FRAMES = 120  # frames of a scene that are encoded at once
SCENES_AT_ONCE = {"cuda": 16}  # one does not keep a GPU busy; a CPU gains nothing from several

Net = TypeVar("Net", bound=nn.Module)
ActionModel = LatentActionModel | STLatentActionModel


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Compute tokens and actions again."""

    data: str
    """Prepared folder (python -m train.prepare)."""
    run: Path
    """Run folder with the two finished stages."""
    replay: str | None = None
    """Prepared folder of an old game, if the dynamics replays one."""


def main(config: EncodeConfig) -> None:
    """Replace the stored tokens of both splits, and of the replayed data.

    Raises:
        UserError: if a stage has not finished, or something cannot be read or written; tokens that
            have not been replaced yet stay as they are.
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
    """Load the nets of the two finished stages of a run folder.

    Raises:
        UserError: if one has not finished.
    """
    kind = LatentActionConfig | STLatentActionConfig
    return (
        _load_encoder(run / "tokenizer", TokenizerConfig, Tokenizer),
        _load_encoder(run / "latent_action", kind, make_latent_action),
    )


def open_tokens(
    config: StageConfig,
    tokenizer: Tokenizer,
    latent_action: ActionModel,
    store: FrameStore,
    name: str | None = None,
) -> TokenStore:
    """Open the tokens and actions of a split, which the main process computes if there are none.

    Args:
        name: of their folder; default: the split's.

    Raises:
        UserError: if the stored ones come from other nets or frames.
    """
    folder = config.run / "tokens" / (name or store.split)
    wanted = fingerprint(tokenizer, latent_action, store)
    # The other processes wait for as long as the main one needs.
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


@torch.no_grad()  # not inference_mode: nets moved to a device there could not be changed later
def encode(
    tokenizer: Tokenizer,
    latent_action: ActionModel,
    store: FrameStore,
    scenes_at_once: int | None = None,
) -> TokenStore:
    """Compute the tokens and actions of a split.

    Args:
        scenes_at_once: pieces of scenes in one batch; None takes what suits the device.
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
        # Padding after the end changes no frame before it, since both nets are causal.
        clips = pad_sequence([store.read(lead, stop) for lead, _, stop in batch], batch_first=True)
        frames = to_float(clips.to(device))
        with autocast(device):
            codes = tokenizer.encode(frames).int().cpu()
            found = latent_action.infer(frames).int().cpu()
        for row, (lead, start, stop) in enumerate(batch):
            tokens[start:stop] = codes[row, start - lead : stop - lead]
            # The action that leads to frame `start` is stored in the row before it.
            first = max(lead, start - 1)
            actions[first : stop - 1] = found[row, first - lead : stop - 1 - lead]
    return TokenStore(tokens, actions, store.scene_starts)


def _load_encoder(folder: Path, kind: Any, make: Callable[[Any], Net]) -> Net:
    values = read_description(folder)["model"]
    net = make(config_from_dict(kind, values, where=str(folder / "config.json")))
    return load_finished(net, folder)


def fingerprint(tokenizer: Tokenizer, latent_action: ActionModel, store: FrameStore) -> str:
    """Identify the frames that tokens stand for, and the nets that computed them."""
    digest = hashlib.sha256(store.fingerprint.encode())
    for net in (tokenizer, latent_action):
        for name, tensor in net.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _pieces(store: FrameStore, reach: int) -> list[tuple[int, int, int]]:
    """Split all scenes into pieces: (first row to read, first row to store, end).

    The rows read before the first stored one are all those that its encoding depends on.
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
