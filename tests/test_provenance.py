"""A run folder tells where it came from."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from train.provenance import FILE_NAME, commit, note_start


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *who, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_every_start_is_a_line(tmp_path: Path, monkeypatch):
    for argument in ("--data", "a b"):
        monkeypatch.setattr(sys, "argv", ["train/tokenizer.py", argument])
        note_start(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert [line["command"].split(" ", 1)[0] for line in lines] == ["python"] * 2
    assert lines[0]["command"].endswith(" --data") and lines[1]["command"].endswith(" 'a b'")
    assert lines[0]["versions"]["torch"] == version("torch")


def test_a_commit_is_named_and_marked_where_files_were_changed(tmp_path: Path):
    assert commit(tmp_path) is None, "no repository"
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) is None, "nothing committed"
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head
    (tmp_path / "other").write_text("not of the repository")
    assert commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == f"{head}+"
