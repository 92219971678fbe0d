"""Recoloured copies: other colours, the same movements, and nobody else's files are touched."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genie.data.card import SPLITS, Card, read_card
from genie.data.clips import FrameStore
from genie.data.shards import ShardWriter, StoredVideo, list_videos, seal, write_card

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "recolour.py"


def recolour(*options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, EXAMPLE, *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recoloured") / "copy"
    done = recolour(prepared_folder, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_names_and_scenes_stay_and_the_card_says_what_was_done(copy: Path, prepared_folder: Path):
    old, new = read_card(prepared_folder), read_card(copy)
    assert new.videos == old.videos and new.source["recoloured"] == str(prepared_folder)
    assert new.fingerprint != old.fingerprint
    assert (new.num_cuts, new.num_still, new.skipped) == (old.num_cuts, old.num_still, old.skipped)
    assert json.loads((copy / "card.json").read_text())["shards"].keys() == set(SPLITS)


def test_a_video_has_one_change_of_colours(copy: Path, prepared_folder: Path):
    num_changed = 0
    for split in SPLITS:
        old, new = (FrameStore.open(folder, split) for folder in (prepared_folder, copy))
        assert (old.numbers() == new.numbers()).all()
        for start, stop in zip(old.video_starts[:-1], old.video_starts[1:], strict=True):
            before, after = (store.read(int(start), int(stop)).numpy() for store in (old, new))
            num_changed += bool((before != after).any())
            # Equal colours anywhere in the video stay equal: what moved still moves alike.
            colours = np.moveaxis(before, 1, -1).reshape(-1, 3)
            found, which = np.unique(colours, axis=0, return_inverse=True)
            changed = np.moveaxis(after, 1, -1).reshape(-1, 3)
            first = np.zeros((len(found), 3), dtype=np.uint8)
            first[which.ravel()] = changed
            assert (first[which.ravel()] == changed).all()
    assert num_changed > 1


def test_frames_keep_their_numbers_in_their_videos(tmp_path: Path):
    """True actions and protocols find frames by them; some are missing where nothing moved."""
    numbers = np.array([3, 4, 5, 9, 10, 11, 12, 20])
    rng = np.random.default_rng(0)
    for split in SPLITS:
        (tmp_path / "old" / split).mkdir(parents=True)
    writers = {split: ShardWriter(tmp_path / "old" / split, (8, 8)) for split in SPLITS}
    videos = {split: [StoredVideo("film", [3, 5], split, start=3)] for split in SPLITS}
    for writer in writers.values():
        writer.write(rng.integers(256, size=(8, 3, 8, 8), dtype=np.uint8), numbers)
        writer.finish()
    card = Card(height=8, width=8, fps=15.0, **list_videos(videos), num_still=7)
    for split, writer in writers.items():
        seal(tmp_path / "old" / split, writer.shards, split, card)
    write_card(card, tmp_path / "old")
    done = recolour(tmp_path / "old", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert read_card(tmp_path / "new").num_still == 7
    for split in SPLITS:
        assert FrameStore.open(tmp_path / "new", split).numbers().tolist() == numbers.tolist()


def test_the_same_seed_gives_the_same_colours(copy: Path, prepared_folder: Path, tmp_path: Path):
    for seed in (0, 1):
        assert recolour(prepared_folder, tmp_path / str(seed), "--seed", seed).returncode == 0
    fingerprints = [read_card(folder).fingerprint for folder in (copy, tmp_path / "0")]
    assert fingerprints[0] == fingerprints[1] != read_card(tmp_path / "1").fingerprint


def test_what_cannot_be_done_is_told_in_one_line(prepared_folder: Path, tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for given in (
        (prepared_folder, mine),
        (prepared_folder, mine / "notes.txt"),
        (mine, tmp_path / "new"),
        (prepared_folder, tmp_path / "new", "--seed", -1),
    ):
        done = recolour(*given)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]
