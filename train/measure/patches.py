"""Never-seen patches: how much of what a world draws looks like nothing in the game.

In: frames. Out: shares of patches in percent. A patch is a square anywhere in the frame, a quarter
of its shorter side long; it is looked up among patches of real frames of *other* videos. It is
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

from genie.data.clips import FrameStore
from genie.frames import to_float
from train.measure.rollouts import find_videos

SIDE = 8  # pixels of a patch when it is compared
FRAME_SHARE = 4  # patches are that part of a frame's shorter side
NUM_KNOWN = 100_000
NUM_ASKED = 8_000
PATCHES_A_FRAME = 10  # that are known
USUAL = 0.95  # of the patches of real frames are seen
ALIKE = 0.02  # 5 of 255 shades: patches that are nearer than this are one and the same
FEWEST_VIDEOS = 2  # so that there is another than the own
AT_ONCE = 250
READ_AT_ONCE = 2_000


@dataclass(frozen=True)
class KnownPatches:
    """Patches of real frames, and how strange real ones of other videos are among them."""

    patches: Float[Tensor, "n p"]
    videos: Int[Tensor, " n"]
    """The number of the video that each is from."""
    radii: Float[Tensor, " n"]
    """Distance to the nearest of another video; NaN until it is asked for."""
    usual: float = 0.0
    """Strangeness that a share of `USUAL` of the real patches stays below."""

    @classmethod
    def of(cls, store: FrameStore, seed: int) -> "KnownPatches | None":
        """Draw patches all over the videos; None if there are too few videos to look up in others.

        The numbers depend on the seed and the videos alone.
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
        self, films: UInt8[Tensor, "b s 3 h w"], videos: Int[np.ndarray, " b"], seed: int
    ) -> float:
        """Percent of the films' patches that real frames never show.

        Args:
            films: all their frames are looked at.
            videos: the number of the video that each goes out from, which is not looked up in.
            seed: draws the patches.
        """
        rng = np.random.default_rng(seed)
        frames = rng.integers(films.shape[0] * films.shape[1], size=NUM_ASKED)
        height, width = films.shape[-2:]
        tops, lefts = _places((height, width), NUM_ASKED, rng)
        patches = _cut(films.flatten(0, 1), frames, tops, lefts)
        own = torch.from_numpy(np.asarray(videos)[frames // films.shape[1]])
        return 100 * (self._strangeness(patches, own) > self.usual).double().mean().item()

    def _strangeness(
        self, patches: Float[Tensor, "m p"], own: Int[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """How far the nearest known patch is, over how far that one is from its own nearest."""
        distances, nearest = self._nearest(patches, own)
        new = nearest[self.radii[nearest].isnan()].unique()
        if len(new):
            self.radii[new], _ = self._nearest(self.patches[new], self.videos[new])
        return distances / (self.radii[nearest] + ALIKE)

    def _nearest(
        self, patches: Float[Tensor, "m p"], own: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
        """Root mean square to the nearest known patch of another video than the own, and which."""
        sizes, found = self.patches.square().sum(dim=1), []
        for some, videos in zip(patches.split(AT_ONCE), own.split(AT_ONCE), strict=True):
            squares = torch.addmm(sizes[None], some, self.patches.T, alpha=-2)
            found.append(squares.masked_fill_(videos[:, None] == self.videos, torch.inf).argmin(1))
        nearest = torch.cat(found)
        # Taken anew: what is left of two large sums depends on how many are asked for at once.
        return (patches - self.patches[nearest]).square().mean(dim=1).sqrt(), nearest


def _draw_real(
    store: FrameStore, count: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]]:
    """Patches of frames drawn at random, and the videos that they are from."""
    rows = np.sort(rng.choice(len(store), min(len(store), count), replace=False))
    rows = rows[rng.integers(len(rows), size=count)]
    tops, lefts = _places(store.size, count, rng)
    patches = torch.empty(count, 3 * SIDE * SIDE)
    for some in np.array_split(np.argsort(rows, kind="stable"), -(-count // READ_AT_ONCE)):
        found, which = np.unique(rows[some], return_inverse=True)
        frames = torch.cat([store.read(row, row + 1) for row in found.tolist()])
        patches[some] = _cut(frames, which, tops[some], lefts[some])
    return patches, torch.from_numpy(find_videos(store, rows))


def _places(
    size: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Upper left corners of patches anywhere in frames of this size."""
    side = _side(size)
    tops, lefts = (rng.integers(whole - side, size=count, endpoint=True) for whole in size)
    return tops, lefts


def _side(size: tuple[int, int]) -> int:
    return min(max(SIDE, min(size) // FRAME_SHARE), *size)


def _cut(
    frames: UInt8[Tensor, "n 3 h w"],
    chosen: Int[np.ndarray, " m"],
    tops: Int[np.ndarray, " m"],
    lefts: Int[np.ndarray, " m"],
) -> Float[Tensor, "m p"]:
    """The patch of each chosen frame that begins there, as `SIDE` x `SIDE` pixels."""
    height, width = frames.shape[-2:]
    within = np.arange(_side((height, width)))
    rows, columns = (tops[:, None] + within)[:, :, None], (lefts[:, None] + within)[:, None]
    pixels = rearrange(frames, "n c h w -> n h w c").numpy()[chosen[:, None, None], rows, columns]
    patches = rearrange(torch.from_numpy(pixels), "m h w c -> m c h w")
    return F.adaptive_avg_pool2d(to_float(patches), SIDE).flatten(1)
