"""Never-seen patches: how much of what a world draws looks like nothing in the game.

In: frames. Out: shares of patches in percent. A patch is a quarter of the frame high
and wide, anywhere in it; it is looked up among patches of real frames of *other* videos. It is
strange by as much as it is further from the nearest of them than that one is from the rest, and
counts as never seen if it is stranger than 95 % of the patches of real frames are. Walls that run
ragged, holes and blobs show here, and only here: PSNR prefers a blur to a definite wall somewhere
else, and a distance between distributions of features averages over places. (A distance that is not
held beside the neighbour's own prefers a blur, too: in a game full of detail real patches are far
from one another, and a smear is far from none.)
Source: precision by nearest neighbours, each with a radius of its own (Kynkäänniemi et al. 2019,
arXiv:1904.06991), of patches in pixels instead of pictures in a network's features.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from genie import video
from genie.data import FrameStore
from train.rollouts import find_videos

SIDE = 8  # pixels of a patch when it is compared
FRAME_SHARE = 4  # patches are that part of a frame's shorter side
NUM_KNOWN = 100_000
NUM_ASKED = 8_000
PATCHES_A_FRAME = 10  # that are known
USUAL = 0.95  # of the patches of real frames are seen
ALIKE = 0.02  # 5 of 255 shades: patches that are nearer than this are one and the same
FEWEST_VIDEOS = 3  # so that a known patch has one that is neither its own nor the film's
AT_ONCE = 250


@dataclass(frozen=True)
class KnownPatches:
    """Patches of real frames, and how strange real ones of other videos are among them."""

    patches: Float[Tensor, "n p"]
    videos: Int[Tensor, " n"]
    """The number of the video that each is from."""
    usual: float
    """Strangeness that a share of `USUAL` of the real patches stays below."""

    @classmethod
    def of(cls, store: FrameStore, seed: int) -> "KnownPatches | None":
        """Draw patches all over the videos; None if there are too few videos to look up in others.

        The numbers depend on the seed and the videos alone.
        """
        if len(store.video_names) < FEWEST_VIDEOS:
            return None
        rng = np.random.default_rng(seed)
        count = min(NUM_KNOWN, PATCHES_A_FRAME * len(store))
        known = cls(*_draw_real(store, count, rng), usual=0.0)
        strangeness = known._strangeness(*_draw_real(store, NUM_ASKED, rng))
        return replace(known, usual=strangeness.quantile(USUAL).item())

    def never_seen(
        self, films: UInt8[Tensor, "b w 3 h w2"], videos: Int[np.ndarray, " b"], seed: int
    ) -> float:
        """Percent of the films' patches that real frames never show.

        Args:
            films: all their frames are looked at.
            videos: the number of the video that each goes out from, which is not looked up in.
            seed: draws the patches.
        """
        rng = np.random.default_rng(seed)
        frames = rng.integers(films.shape[0] * films.shape[1], size=NUM_ASKED)
        patches = _cut(films.flatten(0, 1), frames, rng)
        own = torch.from_numpy(np.asarray(videos)[frames // films.shape[1]])
        return 100 * (self._strangeness(patches, own) > self.usual).double().mean().item()

    def _strangeness(
        self, patches: Float[Tensor, "m p"], own: Int[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """How far the nearest known patch is, over how far that one is from its own nearest."""
        distances, nearest = self._nearest(patches, own)
        neighbours, places = nearest.unique(return_inverse=True)
        radii, _ = self._nearest(self.patches[neighbours], self.videos[neighbours])
        return distances / (radii[places] + ALIKE)

    def _nearest(
        self, patches: Float[Tensor, "m p"], own: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
        """Root mean square to the nearest known patch of another video than the own, and which."""
        sizes, found = self.patches.square().sum(dim=1), []
        for some, videos in zip(patches.split(AT_ONCE), own.split(AT_ONCE), strict=True):
            squares = torch.addmm(sizes[None], some, self.patches.T, alpha=-2)
            squares.masked_fill_(videos[:, None] == self.videos, torch.inf)
            least, which = squares.min(dim=1)
            found.append((least + some.square().sum(dim=1), which))
        squares, nearest = map(torch.cat, zip(*found, strict=True))
        return (squares.clamp(min=0) / patches.shape[1]).sqrt(), nearest


def _draw_real(
    store: FrameStore, count: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]]:
    """Patches of frames drawn at random, and the videos that they are from."""
    num_frames = min(len(store), count)
    rows = np.sort(rng.choice(len(store), num_frames, replace=False))
    frames = torch.cat([store.read(row, row + 1) for row in rows.tolist()])
    chosen = rng.integers(num_frames, size=count)
    videos = find_videos(store, rows[chosen])
    return _cut(frames, chosen, rng), torch.from_numpy(videos)


def _cut(
    frames: UInt8[Tensor, "n 3 h w"], chosen: Int[np.ndarray, " m"], rng: np.random.Generator
) -> Float[Tensor, "m p"]:
    """A patch of each chosen frame, anywhere in it, as `SIDE` x `SIDE` pixels."""
    height, width = frames.shape[-2:]
    side = max(SIDE, min(height, width) // FRAME_SHARE)
    tops = rng.integers(height - side, size=len(chosen), endpoint=True)
    lefts = rng.integers(width - side, size=len(chosen), endpoint=True)
    within = np.arange(side)
    rows, columns = (tops[:, None] + within)[:, :, None], (lefts[:, None] + within)[:, None]
    pixels = rearrange(frames, "n c h w -> n h w c").numpy()[chosen[:, None, None], rows, columns]
    patches = rearrange(torch.from_numpy(pixels), "m h w c -> m c h w")
    parts = [F.adaptive_avg_pool2d(video.to_float(part), SIDE) for part in patches.split(10_000)]
    return torch.cat(parts).flatten(1)
