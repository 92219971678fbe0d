"""Gymnasium environments: any discrete buttons, any picture, any length, or one line of error."""

import importlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genie.errors import UserError

gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
spaces = gymnasium.spaces

GREY = np.full((16, 24, 3), 128, np.uint8)
SHOWN = np.random.default_rng(0).integers(1, 255, (16, 24, 3), dtype=np.uint8)


class Toy(gymnasium.Env):
    """An environment that shows what it is told to, and keeps what it was given."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Box(0, 1, (2,))

    def __init__(self, actions: Any = None, shown: Any = GREY, render_mode: str = "rgb_array"):
        self.action_space = actions or spaces.Discrete(2)
        self.shown = itertools.cycle(shown if isinstance(shown, tuple) else (shown,))
        self.given: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any):
        assert self.action_space.contains(action), f"{action!r} is no action"
        self.given.append(action)
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def render(self):
        return next(self.shown)


@pytest.fixture
def games(monkeypatch: pytest.MonkeyPatch):
    """The module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    return importlib.import_module("games")


@pytest.fixture
def toys(games):
    """Games of an environment made of the given parts."""
    names = []

    def make(limit: int | None = None, **parts: Any):
        name = f"Toy{len(names)}-v0"
        gymnasium.register(name, lambda **more: Toy(**parts, **more), max_episode_steps=limit)
        names.append(name)
        return games.GymnasiumGames(name, 1, itertools.count())

    yield make
    for name in names:
        gymnasium.registry.pop(name)


def lengths(played: Any, num_steps: int) -> list[int]:
    """After how many steps each episode ended."""
    ends = [step for step in range(1, num_steps + 1) if played.advance(np.array([0]), 1)[0]]
    return np.diff([0, *ends]).tolist()


def test_episodes_end_at_the_limit_that_is_registered(games, toys):
    played = games.GymnasiumGames("MountainCar-v0", 1, itertools.count(7))
    assert lengths(played, 600) == [200, 200, 200]
    assert played.levels == [10]
    assert lengths(toys(limit=30), 100) == [30, 30, 30]


def test_an_environment_that_never_ends_is_started_anew_after_ten_minutes(toys):
    assert lengths(toys(), 25_000) == [10 * 60 * 20, 10 * 60 * 20]


def press_all(played: Any) -> list[Any]:
    """Press every combination once; gives what the environment was given."""
    for number in range(len(played.combos)):
        played.advance(np.array([number]), 1)
    return played._envs[0].given


def test_actions_begin_where_their_space_does(toys):
    played = toys(actions=spaces.Discrete(3, start=-1))
    assert press_all(played) == [-1, 0, 1]
    assert played.combos == [("ACTION-1",), ("ACTION0",), ("ACTION1",)]


def test_buttons_that_go_together_are_pressed_at_most_two_at_once(toys):
    played = toys(actions=spaces.MultiBinary(3))
    given = [action.tolist() for action in press_all(played)]
    assert given == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
    assert played.combos[0] == () and played.combos[4] == ("BUTTON0", "BUTTON1")


def test_buttons_of_several_positions_are_told_apart(toys):
    played = toys(actions=spaces.MultiDiscrete([3, 2], start=[-1, 0]))
    given = [tuple(action.tolist()) for action in press_all(played)]
    assert dict(zip(played.combos, given, strict=True)) == {
        (): (-1, 0),
        ("BUTTON0=1",): (0, 0),
        ("BUTTON0=2",): (1, 0),
        ("BUTTON1",): (-1, 1),
        ("BUTTON0=1", "BUTTON1"): (0, 1),
        ("BUTTON0=2", "BUTTON1"): (1, 1),
    }


def test_a_console_names_its_buttons_and_opposites_are_not_pressed(toys, monkeypatch):
    monkeypatch.setattr(Toy, "buttons", ["B", None, "LEFT", "RIGHT"], raising=False)
    played = toys(actions=spaces.MultiBinary(4))
    assert played.combos == [(), ("B",), ("LEFT",), ("RIGHT",), ("B", "LEFT"), ("B", "RIGHT")]
    assert all(not action[1] for action in press_all(played)), "a button without a name is pressed"


def test_of_very_many_buttons_one_at_a_time_is_pressed_or_none(toys):
    assert len(toys(actions=spaces.MultiDiscrete([51, 51])).combos) == 101
    for counts, told in (([256, 256], 510), ([1_000_000], 999_999)):
        with pytest.raises(UserError, match=f"has {told} buttons"):
            toys(actions=spaces.MultiDiscrete(counts))


WAYS = {
    "uint8": SHOWN,
    "floats to 1": SHOWN / 255,
    "floats to 255": SHOWN.astype(np.float32),
    "integers": SHOWN.astype(np.int64),
    "channels first": np.moveaxis(SHOWN, -1, 0),
    "opaque": np.concatenate([SHOWN, np.full_like(SHOWN[..., :1], 255)], axis=2),
    "lists": SHOWN.tolist(),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_picture_is_the_same_in_whatever_way_it_is_given(toys, way):
    assert np.array_equal(toys(shown=WAYS[way]).pictures[0], SHOWN)


def test_transparency_is_laid_on_white_and_grey_gets_three_colours(toys):
    clear = np.dstack([SHOWN, np.zeros((16, 24), np.uint8)])
    assert np.array_equal(toys(shown=clear).pictures[0], np.full_like(SHOWN, 255))
    half = np.dstack([np.zeros_like(SHOWN), np.full((16, 24), 51, np.uint8)])
    assert np.array_equal(toys(shown=half).pictures[0], np.full_like(SHOWN, 204))
    for grey in (SHOWN[..., 0], SHOWN[..., :1], SHOWN[..., 0] / 255):
        assert np.array_equal(toys(shown=grey).pictures[0], SHOWN[..., :1].repeat(3, axis=2))
    mask = SHOWN[..., 0] > 127
    assert np.array_equal(toys(shown=mask).pictures[0][..., 0], 255 * mask.astype(np.uint8))


def test_symbols_that_look_like_a_small_picture_are_not_taken_for_one(toys, monkeypatch):
    monkeypatch.setattr(Toy, "observation_space", spaces.Box(0, 255, (7, 7, 3), np.uint8))
    assert np.array_equal(toys(shown=SHOWN).pictures[0], SHOWN)


NO_PICTURES = {
    "nothing": None,
    "text": "a map",
    "several pictures": np.stack([SHOWN, SHOWN]),
    "unequal lists": [[[0], [1, 2]]],
    "two channels": SHOWN[..., :2],
    "a point": SHOWN[:4, :4],
    "beyond the range": SHOWN.astype(np.int64) * 3,
    "below the range": -(SHOWN / 255),
    "no numbers": np.full((16, 24, 3), np.nan),
}


@pytest.mark.parametrize("what", NO_PICTURES)
def test_what_is_no_picture_is_refused_in_one_line(toys, what):
    with pytest.raises(UserError, match=r"^Toy0-v0 shows .*render\(\)") as caught:
        toys(shown=NO_PICTURES[what])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("then", "why"), [(SHOWN[:, :20], "after one of"), (SHOWN / 255, "0 to 1 and of 0 to 255")]
)
def test_pictures_that_change_their_kind_are_refused(toys, then, why):
    played = toys(shown=(SHOWN.astype(float), then))
    with pytest.raises(UserError, match=why):
        played.advance(np.array([0]), 1)


def test_pictures_may_have_another_size_in_the_next_episode(toys):
    played = toys(limit=2, shown=(SHOWN, SHOWN, SHOWN[:, :20], SHOWN[:, :20]))
    for _ in range(3):
        played.advance(np.array([0]), 1)


def test_floats_may_leave_their_range_by_a_rounding_error(toys):
    shown = (SHOWN / 255 * 1.0000002, SHOWN / 255 - 1e-9)
    played = toys(shown=shown)
    for _ in shown:
        assert np.abs(played.pictures[0].astype(int) - SHOWN).max() <= 1
        played.advance(np.array([0]), 1)


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_numbers_of_0_and_1_are_refused_and_a_game_that_begins_dark_is_not(toys, kind):
    dim = (SHOWN > 127).astype(kind)
    played = toys(shown=(np.zeros_like(dim), dim))
    with pytest.raises(UserError, match="0 and 1 only"):
        for _ in range(300):
            played.advance(np.array([0]), 1)
    played = toys(shown=(*[dim] * 50, *[SHOWN] * 200))
    for _ in range(240):
        played.advance(np.array([0]), 1)


@pytest.mark.parametrize("where", ["__init__", "reset", "step", "render"])
def test_an_environment_that_breaks_down_is_told_in_one_line(toys, monkeypatch, where):
    def fails(self, *_, **__):
        raise ValueError("no ROM\nwas found")

    monkeypatch.setattr(Toy, where, fails)
    with pytest.raises(UserError, match=r"Toy0-v0 broke down \(ValueError: no ROM was found\)"):
        toys().advance(np.array([0]), 1)


def test_a_rate_or_words_that_are_none_are_passed_over(toys, monkeypatch):
    monkeypatch.setattr(Toy, "metadata", {"render_modes": ["rgb_array"], "render_fps": "fast"})
    monkeypatch.setattr(Toy, "get_action_meanings", lambda self: ["UP"], raising=False)
    played = toys()
    assert played.steps_per_second == 30 and played.combos == [("ACTION0",), ("ACTION1",)]


def test_episodes_that_are_all_too_short_end_the_recording(toys, monkeypatch):
    episodes, players = map(importlib.import_module, ("episodes", "players"))
    played = toys(limit=100)
    hand = players.Presser(2, 1, players.Lengths((1, 2), (1, 2), 1), np.random.default_rng(0))
    with pytest.raises(UserError, match="smaller --frame-skip"):
        list(episodes.play_episodes(played, hand, 10, 64))
    assert len(list(episodes.play_episodes(played, hand, 5, 64))) == 4


def test_an_id_that_lacks_its_package_is_told_how_to_name_it(games):
    with pytest.raises(UserError, match="minigrid:MiniGrid-Empty-8x8-v0"):
        games.GymnasiumGames("MiniGrid-Empty-8x8-v0", 1, itertools.count())
