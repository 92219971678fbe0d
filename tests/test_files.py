"""A file is whole or not there, whatever breaks while it is written."""

import os
from pathlib import Path

import pytest

from genie.errors import UserError
from genie.files import check_folder, whole, whole_folder, write_whole, writing


class Broken(BaseException):
    """Such as Ctrl-C: no error that code catches."""


def test_a_file_appears_at_the_end(tmp_path: Path):
    path = tmp_path / "new.txt"
    with whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("all of it")
    assert path.read_text() == "all of it" and os.listdir(tmp_path) == ["new.txt"]


def test_what_breaks_leaves_the_file_of_before_and_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "old.txt"
    write_whole(path, "old")
    with pytest.raises(Broken), whole(path) as partial:
        partial.write_text("half of the new")
        raise Broken
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["old.txt"]
    with pytest.raises(Broken), whole(path):
        raise Broken  # before anything was written
    assert os.listdir(tmp_path) == ["old.txt"]


def test_a_folder_takes_the_place_of_the_one_before_when_it_is_complete(tmp_path: Path):
    path = tmp_path / "deep" / "folder"
    with whole_folder(path) as partial:
        (partial / "first").touch()
    (path.parent / ".folder.partial").mkdir()  # a kill left it
    (path.parent / ".folder.partial" / "stale").touch()
    with pytest.raises(Broken), whole_folder(path) as partial:
        assert not os.listdir(partial)
        (partial / "second").touch()
        raise Broken
    assert os.listdir(path) == ["first"] and os.listdir(path.parent) == ["folder"]
    with whole_folder(path) as partial:
        (partial / "second").touch()
    assert os.listdir(path) == ["second"] and os.listdir(path.parent) == ["folder"]


def test_what_a_kill_leaves_has_no_ending_that_a_reader_takes(tmp_path: Path):
    for name in ("prompt.png", "config.json", "play.mp4", "weights.safetensors"):
        with whole(tmp_path / name) as partial:
            partial.touch()
            assert partial.suffix == ".partial" and partial.name.startswith(".")


def test_what_the_system_refuses_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "in-it.json"
    with pytest.raises(UserError) as told, writing(place):
        write_whole(place, "{}")
    assert str(place) in str(told.value) and "\n" not in str(told.value)
    with pytest.raises(UserError, match="is not a folder"):
        check_folder(place)
    assert check_folder(tmp_path / "to" / "be" / "made") == tmp_path / "to" / "be" / "made"
    assert os.listdir(tmp_path) == ["file"]
