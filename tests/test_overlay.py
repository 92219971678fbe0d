"""Pictures with keys on them: the game stays as it is, and the words are there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from square import KEYMAP, KEYS, SETTINGS, MovingSquare

from play.keymap import KeyMap
from play.overlay import SMALLEST_SIDE, captioned, readable_scale
from play.timeline import Step


def frames_of(actions):
    game = MovingSquare()
    return [game.frame, *(game.step(action) for action in actions)]


def taken(actions, wished=None):
    return [Step(action, SETTINGS, wished, "") for action in actions]


def enlarged(frames, scale):
    return np.stack(frames).repeat(scale, axis=1).repeat(scale, axis=2)


ACTIONS = (4, 0, 2, 3, 5, 1)


def test_what_led_to_a_frame_stands_in_its_lower_left_corner():
    frames = frames_of(ACTIONS)
    written = np.stack(captioned(frames, taken(ACTIONS), KEYMAP, 10))
    differs = (written != enlarged(frames, 10)).any(-1)
    assert not differs[0].any(), "nothing led to the first frame"
    for frame in differs[1:]:
        rows, columns = np.nonzero(frame)
        assert rows.min() > 320 * 0.75 and columns.max() < 320 * 0.75
        assert len(rows) > 500, "large enough to be read"


def test_each_action_looks_otherwise():
    frame = MovingSquare().frame
    shown = [captioned([frame], taken([action]), KEYMAP, 10)[0].tobytes() for action in range(6)]
    assert len(set(shown)) == 6


@pytest.mark.parametrize(("key", "turn"), [("right", 1), ("left", -1)])
def test_arrows_point_where_the_key_does(key, turn):
    frame = np.zeros((32, 32, 3), np.uint8)
    picture = captioned([frame], taken([KEYS[key]]), KEYMAP, 10)[0]
    is_arrow = (picture == (122, 184, 255)).all(-1)
    columns = np.flatnonzero(is_arrow.any(0))
    heights = is_arrow[:, columns].sum(0)
    assert turn * (heights[0] - heights[-1]) > 3, "it is thin where it points"


def test_of_a_wish_the_key_is_shown_whatever_it_came_to_mean():
    frame = MovingSquare().frame
    wished = [captioned([frame], taken([n], "right"), KEYMAP, 10)[0].tobytes() for n in range(6)]
    assert len(set(wished)) == 1 and wished[0] != frame.repeat(10, 0).repeat(10, 1).tobytes()
    assert wished[0] != captioned([frame], taken([0], "left"), KEYMAP, 10)[0].tobytes()


def test_the_newest_frames_are_those_of_the_last_actions():
    frames = frames_of(ACTIONS)
    every = captioned(frames, taken(ACTIONS), KEYMAP, 10)
    for count in range(1, len(frames) + 1):
        newest = captioned(frames[-count:], taken(ACTIONS), KEYMAP, 10)
        assert (np.stack(newest) == np.stack(every[-count:])).all()


def test_an_unnamed_action_has_its_digit():
    plain = KeyMap(num_actions=6, bindings={}, has_legend=False)
    frame = MovingSquare().frame
    shown = [captioned([frame], taken([action]), plain, 10)[0] for action in (0, 1)]
    assert (shown[0] != shown[1]).any()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.text(max_size=40).map(lambda name: "".join(filter(str.isprintable, name))),
    st.sampled_from(["left", "up", "right_up", "space", "k", "none"]),
)
def test_pictures_of_any_size_and_names_of_any_length_can_be_written(size, name, key):
    keymap = KeyMap(num_actions=1, bindings={key: 0}, has_legend=True, action_names=(name,))
    frame = np.full((*size, 3), 90, np.uint8)
    scale = readable_scale(size, 1)
    first, second = captioned([frame, frame], taken([0]), keymap, scale)
    assert min(first.shape[:2]) >= SMALLEST_SIDE > (scale - 1) * min(size)
    assert first.shape == second.shape == (size[0] * scale, size[1] * scale, 3)
    assert (first == 90).all() and (second != 90).any()
    assert (second[: first.shape[0] // 2] == 90).all(), "the game can still be seen"


def test_a_scale_that_is_large_enough_stays():
    assert readable_scale((32, 48), 8) == 8
    assert readable_scale((32, 48), 2) == 5
    assert readable_scale((500, 500), 1) == 1
