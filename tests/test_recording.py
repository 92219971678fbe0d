"""Recordings: what was played comes back, and what is forged or torn is refused in one line."""

import base64
import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.errors import UserError
from play.game import Settings
from play.recording import Recording, changes, digest, first_difference

RUNS = ((0, Settings(3, 0.5)), (2, Settings(1, 0.0)))


def make(**values) -> Recording:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    facts = {
        "world": "tiny",
        "fingerprint": "0123",
        "prompt": frames,
        "seed": 2**62,
        "settings": RUNS,
        "fps": 15.0,
        "actions": (1, 2, 3),
        "digests": ("a", "b", "c", "d"),
    }
    return Recording(**facts | values)


def test_what_was_saved_comes_back(tmp_path: Path):
    saved = make()
    saved.save(tmp_path / "play.json")
    loaded = Recording.load(tmp_path / "play.json")
    assert (loaded.prompt == saved.prompt).all() and loaded.prompt.dtype == np.uint8
    for name, value in vars(saved).items():
        if name != "prompt":
            assert getattr(loaded, name) == value, name
    assert [path.name for path in tmp_path.iterdir()] == ["play.json"], "something half-written"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path_factory, content: bytes):
    path = tmp_path_factory.mktemp("forged") / "play.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"play\.json"):
        Recording.load(path)


FINE = [("world", "text"), ("fingerprint", "text")]


@pytest.mark.parametrize("name", [*vars(make()), "version"])
@pytest.mark.parametrize("value", [None, [], {"shape": 3}, "text", -1.5])
def test_a_field_of_another_kind_is_refused(tmp_path: Path, name: str, value: object):
    path = tmp_path / "play.json"
    make().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    if (name, value) in FINE:
        return
    with pytest.raises(UserError, match=r"play\.json"):
        Recording.load(path)


def test_a_bomb_does_not_go_off(tmp_path: Path):
    """A prompt that claims to be small and unpacks to a gigabyte."""
    path = tmp_path / "play.json"
    make().save(path)
    values = json.loads(path.read_text())
    packed = zlib.compress(bytes(2**26), 9)
    values["prompt"]["pixels"] = base64.b64encode(packed).decode()
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="bytes for a prompt"):
        Recording.load(path)


def test_digests_tell_frames_apart():
    frame = np.zeros((8, 8, 3), np.uint8)
    other = frame.copy()
    other[7, 7, 2] = 1
    assert digest(frame) == digest(frame.copy()) != digest(other)
    assert digest(np.asfortranarray(frame)) == digest(frame)


# A number out of range, such as a temperature below 0, is the session's to refuse.
@pytest.mark.parametrize(
    "runs",
    [
        [],
        [3, 0.5],
        [[0, [3]]],
        [[0, [3, 0.5, 1]]],
        [[0, [3, "hot"]]],
        [[0, [3.5, 0.5]]],
        [[0, [3, 1]]],
        [[0, [True, 0.5]]],
        [[1, [3, 0.5]]],
        [[0, [3, 0.5]], [0, [1, 0.5]]],
        [[0, [3, 0.5]], [2, [1, 0.5]], [1, [2, 0.5]]],
        [["0", [3, 0.5]]],
    ],
)
def test_settings_of_no_action_or_of_another_kind_are_refused(tmp_path: Path, runs: list):
    path = tmp_path / "play.json"
    make().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": runs}))
    with pytest.raises(UserError, match=r"play\.json") as error:
        Recording.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_another_version_is_refused(tmp_path: Path, version: object):
    path = tmp_path / "play.json"
    make().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": version}))
    with pytest.raises(UserError, match="version"):
        Recording.load(path)


def test_endless_nesting_is_refused(tmp_path: Path):
    path = tmp_path / "play.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"play\.json"):
        Recording.load(path)


@given(
    st.lists(st.sampled_from([Settings(1, 0.0), Settings(1, 0.5), Settings(2, 0.5)]), min_size=1)
)
def test_settings_are_told_where_they_change_and_come_back_for_each_action(used: list[Settings]):
    runs = changes(used)
    assert all(one != other for (_, one), (_, other) in pairwise(runs)), "told twice"
    recording = make(actions=(0,) * len(used), digests=("a",) * (len(used) + 1), settings=runs)
    assert [recording.settings_of(action) for action in range(len(used))] == used


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_the_first_difference_is_found(one: str, other: str):
    length = min(len(one), len(other))
    one, other = one[:length], other[:length]
    found = first_difference(one, other)
    if found is None:
        assert one == other
    else:
        assert one[:found] == other[:found] and one[found] != other[found]


def test_a_recording_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "play.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*play\.json"):
        make().save(tmp_path / "play.json")
    with pytest.raises(UserError, match="cannot write"):
        make().save(tmp_path / "nowhere" / "play.json")
    assert [path.name for path in tmp_path.iterdir()] == ["play.json"], "something half-written"


def test_a_recording_has_an_action(tmp_path: Path):
    path = tmp_path / "play.json"
    make().save(path)
    emptied = {"actions": [], "digests": ["a"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | emptied))
    with pytest.raises(UserError, match="no action"):
        Recording.load(path)
