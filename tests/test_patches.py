"""Never-seen patches, on patchworks whose pieces are known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.data.clips import FrameStore
from train.measure import patches
from train.measure.patches import KnownPatches

SIDE, TILE = 64, 16
KINDS = 2


class Patchworks(FrameStore):
    """Videos of frames laid out in tiles of a few kinds, at every offset."""

    def __init__(self, num_videos: int, num_frames: int, kinds: range = range(KINDS)) -> None:
        self.size, self.fps = (SIDE, SIDE), 10.0
        self.video_names = [f"video-{number}" for number in range(num_videos)]
        self.video_starts = self.scene_starts = np.arange(num_videos + 1) * num_frames
        self.frames = lay(num_videos * num_frames, kinds, seed=1)

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.frames[start:stop]


def lay(count: int, kinds: range, seed: int) -> torch.Tensor:
    """Frames of tiles drawn from `kinds`, uint8 (count, 3, SIDE, SIDE)."""
    tiles = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    grid = torch.tensor(kinds)[torch.randint(len(kinds), (count, 5, 5), generator=generator)]
    board = (255 * tiles[grid]).byte().movedim(-1, 1)
    whole = board.repeat_interleave(TILE, dim=2).repeat_interleave(TILE, dim=3)
    offsets = torch.randint(TILE, (count, 2), generator=generator).tolist()
    return torch.stack(
        [frame[:, y : y + SIDE, x : x + SIDE] for frame, (y, x) in zip(whole, offsets, strict=True)]
    )


@pytest.fixture(scope="module")
def store() -> Patchworks:
    return Patchworks(num_videos=20, num_frames=60)


@pytest.fixture(scope="module")
def known(store: Patchworks) -> KnownPatches:
    return KnownPatches.of(store, seed=0)


NOWHERE = np.full(8, -1)


def never_seen(known: KnownPatches, films: torch.Tensor, videos: np.ndarray = NOWHERE) -> float:
    return known.never_seen(films, videos, seed=0)


def films(kinds: range = range(KINDS)) -> torch.Tensor:
    return lay(8 * 10, kinds, seed=2).unflatten(0, (8, 10))


def holes(frames: torch.Tensor, count: int) -> torch.Tensor:
    """The frames with that many blobs of another colour in each."""
    frames, generator = frames.clone(), torch.Generator().manual_seed(0)
    for frame in frames.flatten(0, 1):
        for y, x in torch.randint(SIDE - 6, (count, 2), generator=generator).tolist():
            frame[:, y : y + 6, x : x + 6] = 255 - frame[:, y : y + 6, x : x + 6]
    return frames


def test_real_pictures_are_seen_and_spoilt_ones_the_less_the_worse_they_are(known):
    real = films()
    assert never_seen(known, real) == pytest.approx(5, abs=2)
    shares = [never_seen(known, holes(real, count)) for count in (0, 1, 3, 9)]
    assert all(b > a + 5 for a, b in pairwise(shares)), shares
    soft = F.avg_pool2d(real.flatten(0, 1).float(), 9, stride=1, padding=4).byte()
    assert never_seen(known, soft.unflatten(0, (8, 10))) > 20


def test_a_kind_that_no_real_frame_has_is_never_seen(known):
    assert never_seen(known, films(range(50, 54))) > 90


def test_what_is_in_the_own_video_alone_is_never_seen(store):
    """Or else a film that repeats its prompt would be the best."""
    odd = Patchworks(num_videos=40, num_frames=60)
    odd.frames = odd.frames.clone()
    odd.frames[:60] = 77
    known, copies = KnownPatches.of(odd, seed=0), odd.frames[:40].unflatten(0, (4, 10))
    own, others = (never_seen(known, copies, np.full(4, video)) for video in (0, 1))
    assert (own, others) == (100, 0), "to others it is another video's"


def test_one_video_has_no_other_to_be_looked_up_in():
    assert KnownPatches.of(Patchworks(num_videos=1, num_frames=60), seed=0) is None


def test_the_same_seed_gives_the_same_figures(store, known):
    again = KnownPatches.of(store, seed=0)
    assert again.usual == known.usual
    soiled = holes(films(), 2)
    assert again.never_seen(soiled, NOWHERE, 3) == known.never_seen(soiled, NOWHERE, 3)
    assert again.never_seen(soiled, NOWHERE, 4) != known.never_seen(soiled, NOWHERE, 3)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), count=st.integers(1, 40))
def test_the_nearest_is_the_nearest_of_other_videos(seed, count):
    generator = torch.Generator().manual_seed(seed)
    bank, asked = (torch.rand(n, 12, generator=generator) for n in (30, count))
    videos, own = (torch.randint(3, (n,), generator=generator) for n in (30, count))
    found, nearest = KnownPatches(bank, videos, torch.full((30,), torch.nan)).nearest(asked, own)
    squares = (asked[:, None] - bank).square().mean(dim=-1)
    squares[own[:, None] == videos] = torch.inf
    torch.testing.assert_close(found, squares.amin(dim=1).sqrt(), atol=2e-4, rtol=1e-3)
    assert (videos[nearest] != own).all()


@pytest.mark.parametrize("size", [(16, 16), (90, 160), (64, 40), (6, 40)])
def test_patches_are_cut_from_frames_of_any_shape(size):
    frames = torch.zeros(3, 3, *size, dtype=torch.uint8)
    frames[1] = 255
    places = patches.places(size, 4, np.random.default_rng(0))
    cut = patches.cut(frames, np.array([0, 1, 2, 1]), *places)
    assert cut.shape == (4, 3 * patches.SIDE**2)
    assert cut.amax(dim=1).tolist() == cut.amin(dim=1).tolist() == [0, 1, 0, 1]
