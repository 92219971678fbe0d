"""Never-seen patches: how much of what a world draws looks like nothing in the game.

In: frames. Out: shares of patches in percent. A patch is a square anywhere in the frame, a quarter
of its shorter side long. Its nearest neighbour is searched among patches of real frames of *other*
videos. Its strangeness is its distance to that neighbour, relative to the neighbour's distance to
its own nearest one; it counts as never seen if it is stranger than 95 % of the patches of real
frames. This detects ragged walls, holes and blobs, and no other figure does: PSNR prefers a blur to
a sharp wall in the wrong place, and a distance between distributions of features averages over
positions. (The distance alone would prefer a blur, too: in a game full of detail, real patches are
far from one another, but a blurred one is far from none.)
Source: precision by nearest neighbours, each with its own radius (Kynkäänniemi et al. 2019,
arXiv:1904.06991), for patches of pixels instead of images in a network's feature space.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from genie.data.clips import FrameStore
from genie.frames import to_float
from train.measure.rollouts import find_videos

SIDE = 8  # pixels to which patches are resized for comparison
FRAME_SHARE = 4  # frame's shorter side over patch side
NUM_KNOWN = 100_000  # most patches of real frames to search in
NUM_ASKED = 8_000  # patches that a share is measured on
PATCHES_A_FRAME = 10  # most known patches per real frame, on average
USUAL = 0.95  # share of the patches of real frames that count as seen
ALIKE = 0.02  # added to every radius, so that distances below it (5 of 255) hardly count
FEWEST_VIDEOS = 2  # patches are searched for in other videos than their own
AT_ONCE = 250
READ_AT_ONCE = 2_000


@dataclass(frozen=True)
class KnownPatches:
    """Patches of real frames to search in, and the strangeness that is usual for real patches."""

    patches: Float[Tensor, "n p"]
    videos: Int[Tensor, " n"]
    """The number of each patch's video."""
    radii: Float[Tensor, " n"]
    """Distance to the nearest patch of another video; NaN until it is needed."""
    usual: float = 0.0
    """Strangeness below which a share of `USUAL` of real patches lies."""

    @classmethod
    def of(cls, store: FrameStore, seed: int) -> "KnownPatches | None":
        """Draw patches from all videos; None if there are fewer than `FEWEST_VIDEOS`.

        The result depends only on the seed and the videos.
        """
        rng = np.random.default_rng(seed)
        count = min(NUM_KNOWN, PATCHES_A_FRAME * len(store))
        patches, videos = _draw_real(store, count, rng)
        if len(videos.unique()) < FEWEST_VIDEOS:
            return None
        known = cls(patches, videos, torch.full((count,), torch.nan))
        strangeness = known._strangeness(*_draw_real(store, NUM_ASKED, rng))
        return replace(known, usual=strangeness.quantile(USUAL).item())

    def never_seen(
        self, clips: UInt8[Tensor, "b s 3 h w"], videos: Int[np.ndarray, " b"], seed: int
    ) -> float:
        """Percent of the clips' patches that real frames never show.

        Args:
            clips: patches are drawn from all their frames.
            videos: the number of the video in which each starts, which is left out of the search.
            seed: draws the patches.
        """
        rng = np.random.default_rng(seed)
        frames = rng.integers(clips.shape[0] * clips.shape[1], size=NUM_ASKED)
        height, width = clips.shape[-2:]
        tops, lefts = places((height, width), NUM_ASKED, rng)
        patches = cut(clips.flatten(0, 1), frames, tops, lefts)
        own = torch.from_numpy(np.asarray(videos)[frames // clips.shape[1]])
        return 100 * (self._strangeness(patches, own) > self.usual).double().mean().item()

    def _strangeness(
        self, patches: Float[Tensor, "m p"], own: Int[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """Distance to the nearest known patch, relative to that patch's radius."""
        distances, nearest = self.nearest(patches, own)
        new = nearest[self.radii[nearest].isnan()].unique()
        if len(new):
            self.radii[new], _ = self.nearest(self.patches[new], self.videos[new])
        return distances / (self.radii[nearest] + ALIKE)

    def nearest(
        self, patches: Float[Tensor, "m p"], own: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
        """Root mean square distance to the nearest known patch of another video, and its index.

        Args:
            own: the number of the video of each patch; -1 if it is of none.
        """
        sizes, found = self.patches.square().sum(dim=1), []
        for some, videos in zip(patches.split(AT_ONCE), own.split(AT_ONCE), strict=True):
            squares = torch.addmm(sizes[None], some, self.patches.T, alpha=-2)
            found.append(squares.masked_fill_(videos[:, None] == self.videos, torch.inf).argmin(1))
        nearest = torch.cat(found)
        # Computed again: the difference of large sums in `squares` depends on the batch's size.
        return (patches - self.patches[nearest]).square().mean(dim=1).sqrt(), nearest


def _draw_real(
    store: FrameStore, count: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]]:
    """Patches of frames drawn at random, and the numbers of their videos."""
    rows = np.sort(rng.choice(len(store), min(len(store), count), replace=False))
    rows = rows[rng.integers(len(rows), size=count)]
    tops, lefts = places(store.size, count, rng)
    patches = torch.empty(count, 3 * SIDE * SIDE)
    for some in np.array_split(np.argsort(rows, kind="stable"), -(-count // READ_AT_ONCE)):
        found, which = np.unique(rows[some], return_inverse=True)
        frames = torch.cat([store.read(row, row + 1) for row in found.tolist()])
        patches[some] = cut(frames, which, tops[some], lefts[some])
    return patches, torch.from_numpy(find_videos(store, rows))


def places(
    size: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Random upper left corners of patches in frames of this size."""
    side = patch_side(size)
    tops, lefts = (rng.integers(whole - side, size=count, endpoint=True) for whole in size)
    return tops, lefts


def patch_side(size: tuple[int, int]) -> int:
    """Pixels along a side of a patch, in frames of this size."""
    return min(max(SIDE, min(size) // FRAME_SHARE), *size)


def cut(
    frames: UInt8[Tensor, "n 3 h w"],
    chosen: Int[np.ndarray, " m"],
    tops: Int[np.ndarray, " m"],
    lefts: Int[np.ndarray, " m"],
) -> Float[Tensor, "m p"]:
    """Cut a patch from each chosen frame and resize it to `SIDE` x `SIDE` pixels."""
    height, width = frames.shape[-2:]
    within = np.arange(patch_side((height, width)))
    rows, columns = (tops[:, None] + within)[:, :, None], (lefts[:, None] + within)[:, None]
    pixels = rearrange(frames, "n c h w -> n h w c").numpy()[chosen[:, None, None], rows, columns]
    patches = rearrange(torch.from_numpy(pixels), "m h w c -> m c h w")
    return F.adaptive_avg_pool2d(to_float(patches), SIDE).flatten(1)
