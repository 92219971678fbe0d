"""Held-out clips, and a world's rollouts, reconstructions and latent actions for them.

In: a world and held-out videos. Out: uint8 frames and action ids, on the CPU. Rollouts are
free-running: they depend on one prompt frame and the actions only.
Does not measure, and does not know the true actions.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from genie.data.card import game_of
from genie.data.clips import Clips, FrameStore
from genie.errors import UserError
from genie.frames import to_float, to_uint8
from genie.world import World

HISTORY = 3  # true frames before the prompt, which only the latent action model sees
BATCH = 32


def check_seed(seed: int) -> None:
    """Refuse a seed that not every random generator accepts.

    Raises:
        UserError: if it is negative or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed is {seed}: give 0 to {2**32 - 1}")


def check_sizes(world: World, store: FrameStore) -> None:
    """Refuse frames of another size than the world's.

    Raises:
        UserError: if the sizes differ.
    """
    if tuple(world.size) != tuple(store.size):
        wanted, got = ("x".join(map(str, size)) for size in (world.size, store.size))
        raise UserError(
            f"the world takes frames of {wanted} but the data has {got}: "
            "prepare the videos again at the world's size"
        )


def draw_clips(
    store: FrameStore, num_clips: int, horizon: int, seed: int
) -> tuple[UInt8[Tensor, "b t 3 h w"], np.ndarray]:
    """Draw clips as `draw_rows` does.

    Returns:
        The clips, and the number of the video that each comes from.

    Raises:
        UserError: if no video is long enough.
    """
    return read_clips(store, draw_rows(store, num_clips, horizon, seed), horizon)


def draw_rows(store: FrameStore, num_clips: int, horizon: int, seed: int) -> np.ndarray:
    """Draw the rows at which clips begin: `HISTORY` frames, the prompt and `horizon` more frames.

    Clips overlap only if there would be fewer than `num_clips` otherwise.

    Raises:
        UserError: if no video is long enough, or a number is out of range.
    """
    check_seed(seed)
    if num_clips < 1 or horizon < 1:
        raise UserError(f"num_clips is {num_clips} and horizon {horizon}: give 1 or more of each")
    num_frames = HISTORY + 1 + horizon
    longest = int(np.diff(store.scene_starts).max(initial=0))
    if longest < num_frames:
        raise UserError(
            f"the longest held-out scene{_of_game(store)} has {longest} frames but {num_frames} "
            "are needed: give longer or more held-out videos, or a smaller --horizon"
        )
    clips = Clips(store, num_frames, stride=num_frames)
    if len(clips) < num_clips:
        clips = Clips(store, num_frames)
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    return np.array([clips.row(i) for i in order[:num_clips].tolist()])


def _of_game(store: FrameStore) -> str:
    game = game_of(store.video_names[0])
    return f" of {game}" if game else ""


def read_clips(
    store: FrameStore, rows: np.ndarray, horizon: int
) -> tuple[UInt8[Tensor, "b t 3 h w"], np.ndarray]:
    """Read the clips that begin at these rows; also return the number of each clip's video."""
    num_frames = HISTORY + 1 + horizon
    clips = torch.stack([store.read(row, row + num_frames) for row in rows.tolist()])
    return clips, find_videos(store, rows)


def find_videos(store: FrameStore, rows: np.ndarray) -> np.ndarray:
    """Return the number of the video that holds each row of the store."""
    return np.searchsorted(store.video_starts, rows, side="right") - 1


def reconstruct(world: World, clips: UInt8[Tensor, "b t 3 h w"]) -> UInt8[Tensor, "b t 3 h w"]:
    """Encode and decode clips with the tokenizer, each clip as a whole."""
    return torch.cat(
        [
            to_uint8(world.tokenizer.decode(world.tokenizer.encode(frames))).cpu()
            for frames in _as_floats(world, clips, "tokenizer")
        ]
    )


def infer(world: World, clips: UInt8[Tensor, "b t 3 h w"]) -> Int[Tensor, "b t-1"]:
    """Return the latent actions of every transition."""
    batches = _as_floats(world, clips, "latent actions")
    return torch.cat([world.latent_action.infer(frames).cpu() for frames in batches])


def _as_floats(world: World, clips: Tensor, doing: str) -> Iterator[Tensor]:
    for batch in tqdm(clips.split(BATCH), desc=doing, leave=False, disable=None):
        yield to_float(batch.to(world.device))


def roll(
    world: World,
    prompts: UInt8[Tensor, "b 3 h w"],
    actions: Int[Tensor, "b s"],
    seed: int,
    doing: str,
) -> UInt8[Tensor, "b s 3 h w"]:
    """Generate one rollout from each prompt frame, given nothing else but `actions`."""
    pairs = list(zip(prompts.split(BATCH), actions.split(BATCH), strict=True))
    return torch.cat(
        [
            world.rollout(prompt[:, None], taken, seed=seed + number).cpu()
            for number, (prompt, taken) in enumerate(
                tqdm(pairs, desc=doing, leave=False, disable=None)
            )
        ]
    )
