"""Recordings: what was played comes back, and what is forged or torn is refused in one line."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.errors import UserError
from play.recording import Recording, digest


def make(**values) -> Recording:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    facts = {
        "world": "tiny",
        "fingerprint": "0123",
        "prompt": frames,
        "seed": 2**62,
        "maskgit_steps": 3,
        "temperature": 0.5,
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


# Of the right kind; a temperature below 0 is the session's to refuse.
FINE = [("world", "text"), ("fingerprint", "text"), ("temperature", -1.5)]


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


def test_a_recording_has_an_action(tmp_path: Path):
    path = tmp_path / "play.json"
    make().save(path)
    emptied = {"actions": [], "digests": ["a"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | emptied))
    with pytest.raises(UserError, match="no action"):
        Recording.load(path)
