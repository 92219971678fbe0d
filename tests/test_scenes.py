"""Cuts are found and movement is no cut; of a standstill little is kept, of slow change enough."""

import importlib
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from genie.data.scenes import SceneRules, keep

SIZE = (48, 64)
NO_CUTS = float("inf")
SEEDS = st.integers(0, 2**32 - 1)


def drift(
    seed: int, num_pictures: int, step: tuple[int, int] = (1, 2), brightest: int = 255
) -> list[np.ndarray]:
    """A view that moves evenly over a patchwork of colours, `step` pixels a picture."""
    rng = np.random.default_rng(seed)
    far = 64 + num_pictures * max(map(abs, step))
    patches = rng.integers(0, brightest, (far // 8 + 9, far // 8 + 9, 3), np.uint8)
    ground = patches.repeat(8, axis=0).repeat(8, axis=1)
    (down, right), (height, width) = step, SIZE
    top, left = (far - 64 if along < 0 else 0 for along in step)
    return [
        ground[
            top + down * t : top + down * t + height, left + right * t : left + right * t + width
        ]
        for t in range(num_pictures)
    ]


def noise(seed: int, num_pictures: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (num_pictures, *SIZE, 3), np.uint8))


def plain(value: float) -> np.ndarray:
    """A grey picture whose mean is `value`, a hundredth of a grey level counting."""
    values = np.full(SIZE[0] * SIZE[1], int(value), np.uint8)
    values[: round(len(values) * (value % 1))] += 1
    return values.reshape(*SIZE, 1).repeat(3, axis=2)


def scene_starts(pictures: list[np.ndarray], **rules: float) -> list[int]:
    """Where scenes begin, besides the first."""
    kept = list(keep(iter(pictures), SceneRules(**rules)))
    assert kept[0].starts_scene, "the first picture begins a scene"
    return [k.number for k in kept if k.starts_scene][1:]


def difference(picture: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(picture.astype(int) - other).mean())


# What is kept


PICTURES = npst.arrays(np.uint8, st.tuples(st.integers(0, 12), st.just(9), st.just(8), st.just(3)))


@given(pictures=PICTURES, cuts=st.booleans())
def test_rules_that_drop_nothing_give_every_picture_in_order(pictures: np.ndarray, cuts: bool):
    rules = SceneRules() if cuts else SceneRules(cut_above=NO_CUTS)
    kept = list(keep(iter(pictures), rules))
    assert [k.number for k in kept] == list(range(len(pictures)))
    assert all((k.picture == pictures[k.number]).all() for k in kept), "a picture was changed"
    if not cuts:
        assert [k.number for k in kept if k.starts_scene] == list(range(len(pictures)))[:1]


def test_pictures_come_out_soon_after_they_went_in():
    given: deque[int] = deque(maxlen=1)

    def counted() -> Iterator[np.ndarray]:
        for number, picture in enumerate(drift(0, 40)):
            given.append(number)
            yield picture

    for kept in keep(counted(), SceneRules()):
        assert given[0] <= kept.number + 3, "long videos would fill the memory"


# Cuts


@settings(max_examples=40)
@given(
    seed=SEEDS,
    lengths=st.lists(st.integers(6, 20), min_size=1, max_size=5),
    step=st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
)
def test_joints_of_different_pictures_are_found_and_nothing_else(
    seed: int, lengths: list[int], step: tuple[int, int]
):
    films = [drift(seed + number, length, step) for number, length in enumerate(lengths)]
    joints = np.cumsum(lengths)[:-1].tolist()
    assert scene_starts([picture for film in films for picture in film]) == joints


STEPS = st.tuples(st.integers(-12, 12), st.integers(-12, 12))


@settings(max_examples=40)
@given(seed=SEEDS, step=STEPS)
def test_a_view_that_scrolls_is_not_cut(seed: int, step: tuple[int, int]):
    assert scene_starts(drift(seed, 20, step)) == []


@settings(max_examples=40)
@given(seed=SEEDS, step=STEPS, pause=st.integers(1, 6))
def test_a_view_that_starts_and_stops_is_not_cut(seed: int, step: tuple[int, int], pause: int):
    film = drift(seed, 12, step, brightest=128)
    assert scene_starts(film[:1] * pause + film + film[-1:] * pause) == []


@settings(max_examples=20)
@given(seed=SEEDS, num_pictures=st.integers(4, 12))
def test_what_changes_as_much_all_the_time_is_not_cut(seed: int, num_pictures: int):
    assert scene_starts(noise(seed, num_pictures)) == []


def test_a_flash_ends_no_more_than_itself():
    film = drift(3, 30)
    film[15] = np.full_like(film[15], 255)
    assert set(scene_starts(film)) <= {15, 16}


def test_how_large_a_cut_is_can_be_chosen():
    film = drift(1, 10) + drift(2, 10)
    assert scene_starts(film) == [10]
    assert scene_starts(film, cut_above=250.0) == []
    assert scene_starts(film, cut_ratio=1e6) == []


def test_short_films_are_one_scene():
    for length in (1, 3, 4):
        assert scene_starts(drift(0, length)) == []
    assert list(keep(iter([]), SceneRules())) == []


def test_pictures_of_any_shape_are_looked_at():
    for height, width in ((8, 8), (90, 160), (9, 200), (16, 24)):
        dark, bright = (np.full((height, width, 3), value, np.uint8) for value in (40, 160))
        assert scene_starts([dark] * 8 + [bright] * 8) == [8], (height, width)


# Standstill


@settings(max_examples=60)
@given(
    runs=st.lists(
        st.tuples(st.sampled_from([0, 40, 90, 200]), st.integers(1, 9)), min_size=1, max_size=6
    ),
    most_still=st.integers(0, 5),
)
def test_of_a_standstill_so_many_doubles_are_kept(runs: list[tuple[int, int]], most_still: int):
    values = [value for value, length in runs for _ in range(length)]
    rules = SceneRules(cut_above=NO_CUTS, most_still=most_still)
    kept = [k.number for k in keep(map(plain, values), rules)]
    wanted, number = [], 0
    for _, run in groupby(values):
        length = len(list(run))
        wanted += range(number, number + min(length, 1 + most_still))
        number += length
    assert kept == wanted


@settings(max_examples=60)
@given(
    changes=st.lists(st.integers(-30, 30), min_size=1, max_size=80), most_still=st.integers(0, 3)
)
def test_slow_change_is_never_lost(changes: list[int], most_still: int):
    pictures = [plain(value / 100) for value in np.cumsum([5000, *changes])]
    rules = SceneRules(cut_above=NO_CUTS, most_still=most_still)
    kept = {k.number for k in keep(iter(pictures), rules)}
    newest, doubles = pictures[0], 0
    for number, picture in enumerate(pictures[1:], 1):
        far = difference(picture, newest)
        if number not in kept:
            assert far <= rules.still_below, "a picture that is new was dropped"
        elif far > rules.still_below:
            newest, doubles = picture, 0
        else:
            doubles += 1
            assert doubles <= most_still, "more doubles than wanted were kept"


def test_a_slow_fade_is_kept_now_and_then():
    film = [plain(50 + 0.1 * t) for t in range(200)]
    kept = [k.number for k in keep(iter(film), SceneRules(most_still=0))]
    assert len(kept) > 30, "no two neighbours differ enough, but the first and the last do"
    assert max(np.diff([*kept, 200])) <= 6


def test_a_scene_begins_with_a_new_count_of_doubles():
    first, second = drift(1, 1)[0], drift(2, 1)[0]
    kept = list(keep(iter([first] * 9 + [second] * 9), SceneRules(most_still=2)))
    assert [k.number for k in kept] == [0, 1, 2, 9, 10, 11]
    assert [k.starts_scene for k in kept] == [True, False, False, True, False, False]


def test_a_cut_to_the_same_place_is_no_double():
    """The picture after a flash is like the one before it, and yet a scene begins with it."""
    film = [*drift(3, 10, (0, 0)), np.full((*SIZE, 3), 255, np.uint8), *drift(3, 10, (0, 0))]
    kept = list(keep(iter(film), SceneRules(most_still=0)))
    starts = [k.number for k in kept if k.starts_scene]
    assert set(scene_starts(film)) == set(starts[1:]), "dropping doubles hides a cut"


# Real games


def record(game: str, num_frames: int) -> list[list[np.ndarray]]:
    """Episodes of a game as the recorder plays it."""
    recorder = importlib.import_module("record_game")
    config = recorder.RecordingConfig(game=game, out=Path("unused"), num_envs=16)
    games = recorder.make_games(config, "train")
    hand = recorder.make_hand(config, recorder.Recorder(), "train", games)
    played = recorder.play_episodes(games, hand, config.frame_skip, num_frames)
    episodes = [episode.frames for episode in played]
    games.close()
    return episodes


def measure(episodes: list[list[np.ndarray]]) -> tuple[float, float]:
    """Share of the joints that are found, and false cuts in 1,000 frames."""
    film = [picture for episode in episodes for picture in episode]
    joints = set(np.cumsum([len(episode) for episode in episodes])[:-1].tolist())
    found = set(scene_starts(film))
    return len(found & joints) / len(joints), 1000 * len(found - joints) / len(film)


@pytest.mark.parametrize("game", ["starpilot", "ninja"])
def test_joined_episodes_of_a_game_come_apart(game: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("procgen")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    episodes = record(game, 600)
    assert len(episodes) > 10, "too few joints to tell"
    found, false = measure(episodes)
    assert found >= 0.6, f"only {found:.0%} of the joints are found"
    assert false <= 2, f"{false:.1f} false cuts in 1,000 frames"
