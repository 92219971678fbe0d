"""From any videos to shards: nothing lost, nothing mixed, nothing half-made, whatever happens."""

import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import av
import datasets
import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from zoo import Clip, Zoo, make_zoo, original

from genie import video
from genie.data import prepare as preparing
from genie.data import shards
from genie.data.card import SPLITS, Card, read_card
from genie.data.clips import Clips, FrameStore
from genie.data.parts import FrameOptions
from genie.data.prepare import describe_source, prepare
from genie.data.scenes import SceneRules, keep
from genie.errors import UserError
from genie.frames import to_pictures
from train import prepare as command

ROOT = Path(__file__).resolve().parents[1]
SIZE = (16, 24)
AS_IT_IS = FrameOptions(size=SIZE, cuts=False)


def write_video(path: Path, num_frames: int = 18, seed: int = 0) -> Path:
    """Noise, so that no two frames are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, *SIZE, 3), np.uint8)
    video.write(path, list(frames), fps=9.0, lossless=path.suffix != ".gif")
    return path


def moving(num_frames: int, seed: int = 0) -> list[np.ndarray]:
    """A view that moves evenly, two pixels a frame, over a patchwork of colours."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 255, (HEIGHT // 8, (2 * num_frames + WIDTH) // 8 + 1, 3), np.uint8)
    ground = patches.repeat(8, axis=0).repeat(8, axis=1)
    return [ground[:, 2 * t : 2 * t + WIDTH] for t in range(num_frames)]


def joined(*scenes: list[np.ndarray]) -> list[np.ndarray]:
    return [picture for scene in scenes for picture in scene]


def write_film(path: Path, film: list[np.ndarray], fps: float = 10.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path, film, fps=fps, lossless=True)
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def put(place: Path, out: Path, options: FrameOptions = AS_IT_IS, **others) -> Card:
    return prepare([place], out, options, workers=1, **others)


def configure(place: Path, out: Path, **frames) -> command.PrepareConfig:
    share = {"heldout_share": frames.pop("heldout_share")} if "heldout_share" in frames else {}
    chosen = FrameOptions(**{"size": SIZE, "cuts": False} | frames)
    return command.PrepareConfig(sources=(str(place),), out=out, frames=chosen, workers=1, **share)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def videos_of(store: FrameStore) -> dict[str, torch.Tensor]:
    rows = pairwise(store.video_starts.tolist())
    return {n: store.read(*edges) for n, edges in zip(store.video_names, rows, strict=True)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for seed, name in enumerate(("train/a.mp4", "train/deep/b.mkv", "heldout/c.mp4")):
        write_video(folder / name, num_frames=16 + seed, seed=seed)
    return folder


# Splits


def test_folders_called_train_and_heldout_decide_the_split(source: Path, tmp_path: Path):
    card = put(source, tmp_path / "out")
    assert card.videos == {
        "train": {"train/a": [16], "train/deep/b": [17]},
        "heldout": {"heldout/c": [18]},
    }
    assert read_card(tmp_path / "out") == card, "the card on disk says something else"
    assert card.fps == pytest.approx(9) and not card.skipped
    assert (card.num_decoded, card.num_still, card.num_short, card.num_cuts) == (51, 0, 0, 0)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_store_holds_each_videos_frames(prepared_folder: Path, recorded_folder: Path, split: str):
    store = FrameStore.open(prepared_folder, split)
    assert store.size == (HEIGHT, WIDTH) and store.fps == pytest.approx(12)
    assert len(store) == store.video_starts[-1] == 40 * len(store.video_names)
    for name, found in videos_of(store).items():
        wanted = video.read(recorded_folder / f"{name}.mp4")
        assert np.array_equal(to_pictures(found), wanted), f"{name} has other frames in the store"
    first = video.read(first_file(store, recorded_folder))
    assert np.array_equal(to_pictures(store.read(7, 9)), first[7:9])


def first_file(store: FrameStore, folder: Path) -> Path:
    return folder / f"{store.video_names[0]}.mp4"


def test_split_by_name_is_stable_when_videos_are_added(tmp_path: Path):
    folder = tmp_path / "videos"
    for seed in range(8):
        write_video(folder / f"video-{seed}.mp4", seed=seed)
    first = put(folder, tmp_path / "first", heldout_share=0.5)
    for seed in range(8, 12):
        write_video(folder / f"video-{seed}.mp4", seed=seed)
    second = put(folder, tmp_path / "second", heldout_share=0.5)
    assert first.source != second.source
    for split in SPLITS:
        assert first.videos[split], "with half the videos held out, both splits get some"
        assert first.videos[split].items() <= second.videos[split].items(), (
            "a video changed sides because others came in"
        )


NAMES = st.text("abcdefgh", min_size=1, max_size=6)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("one") / "video.gif", num_frames=16)


@given(names=st.sets(NAMES, min_size=2, max_size=5), share=st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=12)
def test_lowest_names_are_held_out_and_always_one(
    one_file: Path, tmp_path_factory: pytest.TempPathFactory, names: set[str], share: float
):
    folder = tmp_path_factory.mktemp("names")
    (folder / "videos").mkdir()
    for name in names:
        shutil.copy(one_file, folder / "videos" / f"{name}.gif")
    card = put(folder / "videos", folder / "out", heldout_share=share)
    draws = {n: int(hashlib.sha256(n.encode()).hexdigest()[:8], 16) / 2**32 for n in names}
    ranking = sorted(names, key=lambda name: draws[name])
    count = sum(draw < share for draw in draws.values())
    wanted = ranking[: min(max(count, 1), len(names) - 1)]
    assert sorted(card.videos["heldout"]) == sorted(wanted)
    assert sorted(card.videos["train"]) == sorted(names - set(wanted))


@pytest.mark.parametrize(
    ("share", "num_heldout"), [(0.1, 16), (0.5, 25), (0.9, 34)], ids=["least", "half", "most"]
)
def test_the_last_part_of_an_only_video_is_held_out(tmp_path: Path, share: float, num_heldout: int):
    path = write_video(tmp_path / "videos" / "walk.mp4", num_frames=50)
    (tmp_path / "videos" / "notes.mp4").write_text("not a video, so the other is alone")
    card = put(tmp_path / "videos", tmp_path / "out", heldout_share=share)
    cut = 50 - num_heldout
    assert card.videos == {"train": {"walk": [cut]}, "heldout": {"walk-end": [num_heldout]}}
    stores = [FrameStore.open(tmp_path / "out", split) for split in SPLITS]
    whole = torch.cat([store.read(0, len(store)) for store in stores])
    assert np.array_equal(to_pictures(whole), video.read(path))
    assert torch.cat([store.numbers() for store in stores]).tolist() == list(range(50))


def test_an_only_video_with_scenes_is_halved_and_its_scenes_stay_apart(tmp_path: Path):
    film = write_film(tmp_path / "film.mp4", joined(moving(20, 1), moving(20, 2), moving(20, 3)))
    card = put(film, tmp_path / "out", FrameOptions(size=(HEIGHT, WIDTH)), heldout_share=0.5)
    assert card.videos == {"train": {"film": [20, 10]}, "heldout": {"film-end": [10, 20]}}


def test_split_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "videos" / "train" / "a.mp4")
    write_video(tmp_path / "videos" / "train" / "b.mp4")
    monkeypatch.delattr(video, "stream")
    with pytest.raises(UserError, match="no video for the heldout split"):
        put(tmp_path / "videos", tmp_path / "out")


def test_split_that_lost_its_videos_is_one_clear_line(tmp_path: Path):
    write_video(tmp_path / "videos" / "train" / "good.mp4")
    broken = truncate(write_video(tmp_path / "videos" / "heldout" / "b.mkv", num_frames=20))
    with pytest.raises(UserError, match="no video for the heldout split") as error:
        put(tmp_path / "videos", tmp_path / "out")
    assert f"{broken} breaks off" in str(error.value) and "\n" not in str(error.value)


# What is refused


OUT_OF_RANGE = (
    [({"heldout_share": share}, "--heldout-share") for share in (0.0, 1.0, -0.5, 7.0, math.nan)]
    + [({"size": size}, "--size") for size in ((0, 64), (64, -1), (7, 64))]
    + [({"fps": fps}, "--fps") for fps in (0.0, -1.0, 1e6, math.nan)]
    + [({"most_still_s": seconds}, "--most-still-s") for seconds in (-0.1, math.nan)]
    + [({"min_frames": count}, "--min-frames") for count in (-3, 0, 1)]
)


@pytest.mark.parametrize(("frames", "message"), OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused(source: Path, tmp_path: Path, frames, message: str):
    with pytest.raises(UserError, match=message):
        command.main(configure(source, tmp_path / "out", **frames))
    assert [p.name for p in tmp_path.iterdir()] == ["videos"]


def only_text(folder: Path) -> None:
    (folder / "notes.txt").write_text("no video here")


def only_short(folder: Path) -> None:
    write_video(folder / "train" / "a.mp4", num_frames=5)
    write_video(folder / "heldout" / "b.mp4", num_frames=5)


def only_broken(folder: Path) -> None:
    (folder / "a.mp4").write_text("not a video")


def nothing_held_out(folder: Path) -> None:
    write_video(folder / "train" / "a.mp4")


def alone_and_short(folder: Path) -> None:
    write_video(folder / "a.mp4", num_frames=31)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (only_text, "holds no videos"),
        (only_short, r"no scene of 16 frames or more between .* \(5 frames in all\)"),
        (only_broken, "not a readable video"),
        (nothing_held_out, "no video for the heldout split"),
        (alone_and_short, "only video and has 31 frames.* 32 frames"),
    ],
)
def test_unusable_folder_is_refused_in_one_line(tmp_path: Path, fill: Callable, message: str):
    (tmp_path / "videos").mkdir()
    fill(tmp_path / "videos")
    with pytest.raises(UserError, match=message) as error:
        put(tmp_path / "videos", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no file or folder .*nowhere"):
        put(tmp_path / "nowhere", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_existing_out_is_not_touched(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        put(source, out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_out_that_cannot_be_made_is_one_line(source: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make") as error:
        put(source, tmp_path / "file" / "out")
    assert "\n" not in str(error.value)


# What is skipped


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("one.gif", b"GIF89a\1\0\1\0"),
        ("gone.mp4", None),
        pytest.param(
            os.fsdecode(b"\xff.mp4"),
            b"a name that is no text",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no such names here"),
        ),
    ],
    ids=["cut", "a link to nowhere", "odd name"],
)
def test_odd_file_stops_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, content: bytes | None
):
    odd = source / name
    if content is None:
        odd.symlink_to("nowhere")
    else:
        odd.write_bytes(content)
    card = command.main(configure(source, tmp_path / "out"))
    assert list(card.skipped) == [str(odd)]
    assert {split: len(videos) for split, videos in card.videos.items()} == {
        "train": 2,
        "heldout": 1,
    }
    assert "\nskipped " in capsys.readouterr().out
    assert "1 videos were left out." in (tmp_path / "out" / "README.md").read_text()


def test_of_a_video_that_breaks_off_the_good_part_is_kept_and_told(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    broken = write_video(source / "train" / "broken.mkv", num_frames=60, seed=7)
    whole = video.read(broken)
    truncate(broken)
    card = command.main(configure(source, tmp_path / "out"))
    assert list(card.damaged) == [str(broken)] and not card.skipped
    assert card.damaged[str(broken)].startswith("breaks off")
    kept = videos_of(FrameStore.open(tmp_path / "out", "train"))["train/broken"]
    assert 20 <= len(kept) <= 32
    assert np.array_equal(to_pictures(kept), whole[: len(kept)])
    assert f"only the beginning of {broken}: breaks off" in capsys.readouterr().out
    assert "Of 1 videos only the beginning is in." in (tmp_path / "out/README.md").read_text()


def test_a_video_in_which_nothing_moves_is_told(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    black, dim = source / "train" / "black.mp4", source / "heldout" / "dim.mkv"
    video.write(black, [np.zeros((*SIZE, 3), np.uint8)] * 20, fps=10.0)
    grain = np.random.default_rng(0).integers(0, 4, (20, *SIZE, 3), np.uint8)
    video.write(dim, list(40 + grain), fps=10.0, lossless=True)
    ball = np.zeros((20, *SIZE, 3), np.uint8)
    for number in range(20):
        ball[number, 8:10, number : number + 2] = 255
    video.write(source / "train" / "ball.mp4", list(ball), fps=10.0)
    card = command.main(configure(source, tmp_path / "out"))
    assert set(card.standing) == {str(dim), str(black)}
    printed = capsys.readouterr().out
    assert all(f"nothing moves in {path}," in printed for path in (black, dim))


def test_a_folder_of_before_damage_was_told_is_still_read(source: Path, tmp_path: Path):
    put(source, tmp_path / "out")
    path = tmp_path / "out" / "card.json"
    values = json.loads(path.read_text())
    del values["damaged"], values["standing"]
    path.write_text(json.dumps(values))
    assert read_card(tmp_path / "out").damaged == {}


def test_a_joint_ends_a_scene_whatever_is_shown(tmp_path: Path):
    options = replace(AS_IT_IS, cuts=True)
    for split in SPLITS:
        (tmp_path / split).mkdir()
        parts = []
        for number in range(2):
            parts.append(tmp_path / f"{number}.ts")
            video.write(tmp_path / "part.mp4", moving(1) * 40, fps=10.0)
            with av.open(str(tmp_path / "part.mp4")) as old, av.open(str(parts[-1]), "w") as new:
                track = new.add_stream_from_template(old.streams.video[0])
                for packet in old.demux(old.streams.video[0]):
                    if packet.dts is not None:
                        packet.stream = track
                        new.mux(packet)
        joined = b"".join(part.read_bytes() for part in parts)
        (tmp_path / split / "joined.ts").write_bytes(joined)
    for part in tmp_path.glob("*.*"):
        part.unlink()
    card = put(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", options)
    assert card.videos["train"]["train/joined"] == [40, 40]
    assert not card.damaged


def test_video_without_a_good_part_is_skipped_and_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    broken = truncate(write_video(source / "train" / "broken.mp4", seed=7))
    short = write_video(source / "train" / "short.mp4", num_frames=3)
    card = command.main(configure(source, tmp_path / "out"))
    assert set(card.skipped) == {str(broken), str(short)}
    assert list(card.videos["train"]) == ["train/a", "train/deep/b"], "the good ones must stay"
    assert card.num_decoded == 51, "frames of what is left out are not counted"
    printed = capsys.readouterr().out
    assert f"skipped {broken}" in printed and f"skipped {short}" in printed
    first = FrameStore.open(tmp_path / "out", "train").read(0, 16)
    assert np.array_equal(to_pictures(first), video.read(source / "train" / "a.mp4"))


def test_two_videos_of_one_name_are_both_kept(source: Path, tmp_path: Path):
    write_video(source / "train" / "a.mkv", num_frames=20, seed=11)
    put(source, tmp_path / "out")
    found = videos_of(FrameStore.open(tmp_path / "out", "train"))
    assert len(found) == 3
    stored = [to_pictures(frames).tobytes() for frames in found.values()]
    for path in source.glob("train/**/*.m*"):
        assert video.read(path).tobytes() in stored, f"the frames of {path} are mixed up"


# What is on disk


@pytest.mark.parametrize(("chunk", "shard"), [(5, 1000), (5, 7), (1, 16), (100, 1)])
def test_pieces_leave_no_trace_in_the_data(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, shard: int
):
    """Args: chunk, shard: frames that are written at once, and that make a file."""
    whole = put(source, tmp_path / "whole")
    frame_bytes = 3 * SIZE[0] * SIZE[1]
    monkeypatch.setattr(preparing, "CHUNK_BYTES", chunk * frame_bytes)
    monkeypatch.setattr(shards, "SHARD_BYTES", shard * frame_bytes)
    pieces = put(source, tmp_path / "pieces")
    assert replace(pieces, shards=whole.shards) == whole
    for split in SPLITS:
        stores = [FrameStore.open(tmp_path / name, split) for name in ("whole", "pieces")]
        frames, again = (store.read(0, len(store)) for store in stores)
        assert torch.equal(frames, again)
        assert torch.equal(stores[0].numbers(), stores[1].numbers())
        files = list((tmp_path / "pieces" / split).glob("*.arrow"))
        assert len(files) == len(pieces.shards[split]) == math.ceil(len(frames) / shard)
        assert sum(pieces.shards[split]) == len(frames)


def test_folder_holds_what_it_should_and_no_more(source: Path, tmp_path: Path):
    put(source, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"card.json", "README.md", *SPLITS}
    assert {p.name for p in tmp_path.iterdir()} == {"videos", "out"}


def test_the_library_opens_the_folder_as_its_readme_says(source: Path, tmp_path: Path):
    put(source, tmp_path / "out")
    place = str(tmp_path / "out")
    found = datasets.load_dataset(place, cache_dir=str(tmp_path / "cache"))
    assert set(found) == set(SPLITS)
    first = next(iter(datasets.load_dataset(place, split="train", streaming=True)))
    assert first == found["train"][0]
    for split in SPLITS:
        store = FrameStore.open(tmp_path / "out", split)
        rows = found[split].with_format("numpy")
        assert rows.column_names == ["frame", "number"] and len(rows) == len(store)
        frames = rows["frame"][:].reshape(-1, 3, *SIZE)
        assert (frames == store.read(0, len(store)).numpy()).all()
        assert rows["number"][:].tolist() == store.numbers().tolist()
        restarts = [n for n, number in enumerate(rows["number"][:]) if number == 0]
        assert restarts == store.video_starts[:-1].tolist()


def test_data_card_tells_the_counts(tmp_path: Path):
    last = moving(25, 3)
    film = joined(moving(20, 1), moving(5, 2), last, last[-1:] * 12)
    for split in SPLITS:
        write_film(tmp_path / "videos" / split / "a.mp4", film)
    (tmp_path / "videos" / "bad.mp4").write_text("no video")
    options = FrameOptions(size=(HEIGHT, WIDTH), most_still_s=0.5)
    card = put(tmp_path / "videos", tmp_path / "out", options)
    assert card.videos == {split: {f"{split}/a": [20, 30]} for split in SPLITS}
    counts = (card.num_decoded, card.num_cuts, card.num_still, card.num_short)
    assert counts == (124, 4, 14, 10)
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\n"), "the hub reads the first lines as YAML"
    for told in (
        f"{HEIGHT}×{WIDTH} pixels, 10 frames per second",
        card.fingerprint,
        "| train | 1 | 2 | 50 | 0.00 |",
        "| heldout | 1 | 2 | 50 | 0.00 |",
        "124 frames were looked at; 4 cuts were found; 14 frames",
        "10 in scenes too short",
        "1 videos were left out.",
        f"- {tmp_path / 'videos' / 'bad.mp4'}: is not a readable video",
    ):
        assert told in text
    assert card.num_hours("train") == pytest.approx(50 / 10 / 3600)


def test_prepared_folder_tells_what_it_was_made_from(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    card = put(source, out)

    def now(place: Path = source, options: FrameOptions = AS_IT_IS, share: float = 0.1) -> dict:
        return describe_source([place], options, share)

    made = read_card(out).source
    assert made == now()
    assert made["places"] == [str(source.resolve())] and made["size"] == list(SIZE)
    others = {"size": (24, 16), "fit": "stretch", "fps": 5.0, "cuts": True, "min_frames": 9}
    for name, value in {**others, "most_still_s": 1.0}.items():
        options = FrameOptions(**{"size": SIZE, "cuts": False, name: value})
        assert made != now(options=options), f"another {name}"
    assert made != now(share=0.2), "another share"
    write_video(source / "train" / "more.mp4")
    more = now()
    assert made != more, "another video"
    with (source / "train" / "more.mp4").open("ab") as file:
        file.write(b"x")
    assert more != now(), "a video of another length"
    shutil.copytree(source, tmp_path / "copy")
    elsewhere = now(tmp_path / "copy")
    (tmp_path / "copy" / "train" / "more.mp4").unlink()
    assert elsewhere["listing"] == now()["listing"]
    again = put(tmp_path / "copy", tmp_path / "again")
    assert again.fingerprint == card.fingerprint, "the same frames from another place"


def test_same_videos_give_the_same_fingerprint(source: Path, tmp_path: Path):
    def fingerprint(name: str) -> str:
        return put(source, tmp_path / name).fingerprint

    first = fingerprint("first")
    assert first == fingerprint("again")
    write_video(source / "train" / "a.mp4", num_frames=16, seed=99)
    assert first != fingerprint("other-frames"), "other frames must not pass for these"


def test_a_split_is_known_whatever_is_trained_on(source: Path, tmp_path: Path):
    """So that a protocol fits every recording with these held-out videos."""
    first = put(source, tmp_path / "first")
    write_video(source / "train" / "more.mp4")
    second = put(source, tmp_path / "second")
    assert second.fingerprint != first.fingerprint
    assert second.split_fingerprints["heldout"] == first.split_fingerprints["heldout"]
    assert second.split_fingerprints["train"] != first.split_fingerprints["train"]
    held = next((source / "heldout").iterdir())
    write_video(held, num_frames=16, seed=98)
    third = put(source, tmp_path / "third")
    assert third.split_fingerprints["heldout"] != first.split_fingerprints["heldout"]


def test_another_split_gives_another_fingerprint(tmp_path: Path):
    for seed in range(8):
        write_video(tmp_path / "videos" / f"video-{seed}.mp4", seed=seed)
    cards = [
        put(tmp_path / "videos", tmp_path / str(share), heldout_share=share)
        for share in (0.15, 0.4)
    ]
    assert cards[0].videos != cards[1].videos
    assert cards[0].fingerprint != cards[1].fingerprint, "tokens of one would be taken for another"


def test_another_place_of_a_cut_gives_another_fingerprint(tmp_path: Path):
    film = write_film(tmp_path / "film.mp4", joined(moving(20, 1), moving(20, 2)))
    cards = [
        put(film, tmp_path / str(cuts), FrameOptions(size=(HEIGHT, WIDTH), cuts=cuts))
        for cuts in (False, True)
    ]
    assert cards[0].num_frames("train") == cards[1].num_frames("train")
    assert cards[0].fingerprint != cards[1].fingerprint, "clips of one cross cuts of the other"


# Frames


@pytest.mark.parametrize("size", [(90, 160), (17, 23), (48, 48)])
@pytest.mark.parametrize("fps", [None, 9.0])
def test_frames_at_their_own_size_are_the_videos_own(tmp_path: Path, size, fps: float | None):
    frames = np.random.default_rng(0).integers(0, 256, (40, *size, 3), np.uint8)
    video.write(tmp_path / "clip.mkv", list(frames), fps=9.0, lossless=True)
    options = FrameOptions(size=size, cuts=False, fps=fps)
    put(tmp_path / "clip.mkv", tmp_path / "out", options)
    stores = [FrameStore.open(tmp_path / "out", split) for split in SPLITS]
    found = torch.cat([store.read(0, len(store)) for store in stores])
    assert (to_pictures(found) == frames).all(), "a pixel changed"


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_frames_are_fitted_as_the_video_module_fits_them(
    source: Path, tmp_path: Path, fit: video.Fit
):
    put(source, tmp_path / "out", FrameOptions(size=(12, 12), cuts=False, fit=fit))
    for split in SPLITS:
        for name, found in videos_of(FrameStore.open(tmp_path / "out", split)).items():
            (path,) = source.glob(f"{name}.*")
            wanted = np.stack(list(video.stream(path, (12, 12), fit=fit)))
            assert np.array_equal(to_pictures(found), wanted)
            bars = found[:, :, [0, 1, -2, -1]]
            assert (bars == 0).all() == (fit == "letterbox"), "16x24 in 12x12: two rows of bar"


def test_frames_per_second_are_those_asked_for(source: Path, tmp_path: Path):
    card = put(source, tmp_path / "out", FrameOptions(size=SIZE, cuts=False, fps=18.0))
    assert card.fps == 18
    assert card.videos["train"] == {"train/a": [32], "train/deep/b": [34]}
    found = videos_of(FrameStore.open(tmp_path / "out", "train"))["train/a"]
    wanted = video.read(source / "train" / "a.mp4").repeat(2, axis=0)
    assert np.array_equal(to_pictures(found), wanted)


# Scenes


def test_clips_never_cross_a_cut_nor_a_videos_end(tmp_path: Path):
    lengths = {"train/a": [20, 18, 30], "train/b": [17, 5, 16], "heldout/c": [25, 19]}
    scene_of: dict[bytes, tuple[str, int]] = {}
    for seed, (name, counts) in enumerate(lengths.items()):
        scenes = [moving(count, 10 * seed + n) for n, count in enumerate(counts)]
        for number, scene in enumerate(scenes):
            scene_of |= {picture.tobytes(): (name, number) for picture in scene}
        write_film(tmp_path / "videos" / f"{name}.mp4", joined(*scenes))
    options = FrameOptions(size=(HEIGHT, WIDTH), min_frames=16)
    card = put(tmp_path / "videos", tmp_path / "out", options)
    assert card.videos == {
        "train": {"train/a": [20, 18, 30], "train/b": [17, 16]},
        "heldout": {"heldout/c": [25, 19]},
    }
    assert (card.num_cuts, card.num_short) == (5, 5)
    for split in SPLITS:
        store = FrameStore.open(tmp_path / "out", split)
        scenes = [count for counts in card.videos[split].values() for count in counts]
        for num_frames in (2, 9, 16):
            clips = Clips(store, num_frames)
            assert len(clips) == sum(count - num_frames + 1 for count in scenes)
            for index in range(len(clips)):
                pictures = [picture.tobytes() for picture in to_pictures(clips[index])]
                met = {scene_of[picture] for picture in pictures}
                assert len(met) == 1, f"a clip shows several scenes: {met}"
    assert FrameStore.open(tmp_path / "out", "train").numbers()[68 + 17] == 22, (
        "the third scene of the second video goes on counting where the short one ended"
    )


def test_doubles_are_dropped_and_numbers_tell_where(tmp_path: Path):
    pictures, times = moving(40), [1, 4] * 20
    film = [picture for picture, count in zip(pictures, times, strict=True) for _ in range(count)]
    write_film(tmp_path / "film.mp4", film)
    options = FrameOptions(size=(HEIGHT, WIDTH), cuts=False, most_still_s=0.0, min_frames=4)
    card = put(tmp_path / "film.mp4", tmp_path / "out", options)
    stores = [FrameStore.open(tmp_path / "out", split) for split in SPLITS]
    found = torch.cat([store.read(0, len(store)) for store in stores])
    assert (to_pictures(found) == np.stack(pictures)).all()
    numbers = torch.cat([store.numbers() for store in stores]).tolist()
    assert numbers == np.cumsum([0, *times[:-1]]).tolist()
    assert (card.num_decoded, card.num_still) == (100, 60)


@pytest.mark.parametrize(("seconds", "kept"), [(None, 30), (1.0, 11), (0.3, 4), (0.0, 1)])
def test_seconds_of_standstill_count_at_the_rate_that_is_kept(
    tmp_path: Path, seconds: float | None, kept: int
):
    still = [np.full((HEIGHT, WIDTH, 3), 90, np.uint8)] * 60
    write_film(tmp_path / "film.mp4", joined(still, moving(40)), fps=20.0)
    options = FrameOptions(
        size=(HEIGHT, WIDTH), cuts=False, fps=10.0, most_still_s=seconds, min_frames=4
    )
    put(tmp_path / "film.mp4", tmp_path / "out", options)
    store = FrameStore.open(tmp_path / "out", "train")
    is_still = (store.read(0, len(store)) == 90).all(dim=(1, 2, 3))
    assert int(is_still.sum()) == kept


# Interruptions


@dataclass
class Interruption:
    """Stops a preparation after some videos, and counts what is decoded."""

    decoded: list[str]

    def after(self, count: int) -> Callable:
        def progress(parts, total):
            for number, part in enumerate(parts, 1):
                yield part
                if number == count:
                    raise KeyboardInterrupt

        return progress


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Interruption:
    found = Interruption([])
    stream = video.stream

    def counted(path, *args, **options):
        found.decoded.append(Path(path).name)
        return stream(path, *args, **options)

    monkeypatch.setattr(video, "stream", counted)
    return found


def test_interrupted_preparing_goes_on_where_it_was(
    source: Path, tmp_path: Path, interruption: Interruption
):
    put(source, tmp_path / "whole")
    interruption.decoded.clear()
    with pytest.raises(KeyboardInterrupt):
        put(source, tmp_path / "out", progress=interruption.after(2))
    assert {p.name for p in tmp_path.iterdir()} == {"videos", "whole", ".out.partial"}
    assert len(interruption.decoded) == 2
    put(source, tmp_path / "out")
    assert sorted(interruption.decoded) == ["a.mp4", "b.mkv", "c.mp4"], "work was done again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"videos", "whole", "out"}


@pytest.mark.parametrize(
    "options",
    [
        FrameOptions(size=(8, 8), cuts=False),
        FrameOptions(size=SIZE, cuts=False, fps=18.0),
        FrameOptions(size=SIZE, cuts=False, min_frames=17),
    ],
    ids=["size", "fps", "min frames"],
)
def test_what_was_left_behind_with_other_options_is_not_used(
    source: Path, tmp_path: Path, interruption: Interruption, options: FrameOptions
):
    put(source, tmp_path / "whole", options)
    with pytest.raises(KeyboardInterrupt):
        put(source, tmp_path / "out", progress=interruption.after(2))
    put(source, tmp_path / "out", options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_videos_may_come_go_and_change_between_two_attempts(
    source: Path, tmp_path: Path, interruption: Interruption
):
    with pytest.raises(KeyboardInterrupt):
        put(source, tmp_path / "out", progress=interruption.after(2))
    (source / "train" / "a.mp4").unlink()
    write_video(source / "train" / "deep" / "b.mkv", num_frames=25, seed=8)
    write_video(source / "train" / "new.mp4", num_frames=21, seed=9)
    put(source, tmp_path / "out")
    put(source, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_picture_that_was_replaced_by_one_of_as_many_bytes_is_read_again(
    tmp_path: Path, interruption: Interruption
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", SIZE[::-1], (number, 9, 9)).save(folder / f"{number}.bmp")
    with pytest.raises(KeyboardInterrupt):
        put(folder, tmp_path / "out", progress=interruption.after(1))
    Image.new("RGB", SIZE[::-1], "white").save(folder / "3.bmp")
    put(folder, tmp_path / "out")
    store = FrameStore.open(tmp_path / "out", "train")
    assert (store.read(3, 4) == 255).all(), "frames of a picture that is no longer there"


def test_what_could_not_be_read_at_first_is_tried_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(path, *args, **options):
        raise UserError(f"{path} breaks off after 0 frames (Permission denied)")

    with monkeypatch.context() as patch:
        patch.setattr(video, "stream", refused)
        with pytest.raises(UserError, match="Permission denied"):
            put(source, tmp_path / "out")
    card = put(source, tmp_path / "out")
    assert not card.skipped, "a disk that was away for a moment spoils all later attempts"


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("num_frames", [3, 25], ids=["while decoding", "while writing shards"])
def test_full_disk_is_one_line_and_the_repeated_command_goes_on(
    source: Path, tmp_path: Path, num_frames: int
):
    """A part has up to 18 frames, the training shard has 33."""
    with (
        largest_file(num_frames * 3 * SIZE[0] * SIZE[1]),
        pytest.raises(UserError, match=r"cannot write .*out: File too large") as error,
    ):
        put(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    put(source, tmp_path / "out")
    put(source, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_worker_that_is_killed_is_one_line(one_file: Path, tmp_path: Path):
    """As the kernel does where memory runs out, or a damaged file does to a decoder."""
    (tmp_path / "videos").mkdir()
    for number in range(30):
        shutil.copy(one_file, tmp_path / "videos" / f"{number}.gif")

    def progress(parts, total):
        for part in parts:
            for worker in multiprocessing.active_children():
                worker.kill()
            yield part

    with pytest.raises(UserError) as error:
        prepare([tmp_path / "videos"], tmp_path / "out", AS_IT_IS, workers=2, progress=progress)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    put(tmp_path / "videos", tmp_path / "out")
    assert (tmp_path / "out").is_dir(), "the repeated command goes on"


# Two hundred real videos


FPS, MIN_FRAMES, WIDE = 10.0, 8, (48, 72)


@dataclass(frozen=True)
class Prepared:
    zoo: Zoo
    out: Path
    card: Card
    printed: str


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def prepared(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out = tmp_path_factory.mktemp("prepared-zoo") / "out"
    config = configure(zoo.folder, out, size=WIDE, fps=FPS, min_frames=MIN_FRAMES)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        card = command.main(config)
    return Prepared(zoo, out, card, printed.getvalue())


def possible_counts(clip: Clip) -> range:
    """Ticks from the first frame on until the last one ends; clocks round to milliseconds."""
    earliest, latest = clip.ends
    return range(math.ceil((earliest - 0.002) * FPS), math.ceil(latest * FPS) + 1)


REASONS = {
    "truncated mp4": "breaks off",
    "truncated mkv": "breaks off",
    "empty": "is empty (0 bytes)",
    "text": "is not a readable video",
    "audio only": "has no video stream",
}


def test_every_bad_video_is_named_with_its_reason(prepared: Prepared):
    skipped = prepared.card.skipped
    for name, kind in prepared.zoo.bad.items():
        path = str(prepared.zoo.folder / name)
        assert path in skipped, f"{name} ({kind}) passed for a good video"
        assert skipped[path].startswith(REASONS[kind]), f"{kind}: {skipped[path]}"
        assert f"\nskipped {path}: {skipped[path]}\n" in prepared.printed
    assert all("\n" not in reason for reason in skipped.values())


def test_every_good_video_that_is_long_enough_is_in(prepared: Prepared):
    zoo, card = prepared.zoo, prepared.card
    counts = {name: scenes for videos in card.videos.values() for name, scenes in videos.items()}
    known = set()
    for path, clip in zoo.good.items():
        name, possible = path.removesuffix(clip.suffix), possible_counts(clip)
        if name in counts:
            known.add(name)
            assert len(counts[name]) == 1 and counts[name][0] in possible, (
                f"{path} ({clip.codec}, {sorted(clip.traits)}) has {counts[name]} frames, "
                f"{possible} are right"
            )
        else:
            reason = card.skipped[str(zoo.folder / path)]
            assert min(possible) < MIN_FRAMES, f"{path} was left out: {reason}"
            assert reason.startswith(f"has no scene of {MIN_FRAMES} frames or more"), reason
    assert known == set(counts), "videos that nobody gave"
    assert len(known) > 150
    assert len(card.skipped) == len(zoo.good) + len(zoo.bad) - len(known)
    assert card.num_decoded == sum(map(sum, counts.values())), "nothing was dropped"


def test_turned_videos_stand_upright(prepared: Prepared):
    places = {
        path.removesuffix(c.suffix): n for n, (path, c) in enumerate(prepared.zoo.good.items())
    }
    clips = list(prepared.zoo.good.values())
    num_turned = 0
    for split in SPLITS:
        for name, frames in videos_of(FrameStore.open(prepared.out, split)).items():
            clip = clips[places[name]]
            if "rotated" in clip.traits:
                num_turned += 1
                first = original(places[name])[0, :, :, :3]
                errors = [
                    np.abs(to_pictures(frames[0]) - cropped(np.rot90(first, turns))).mean()
                    for turns in range(4)
                ]
                wanted = clip.rotation // 90 % 4
                assert np.argmin(errors) == wanted, f"{name}: {clip.rotation} degrees, {errors}"
                assert errors[wanted] < 14, f"{name} looks otherwise: {errors}"
    assert num_turned > 20


def cropped(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(ImageOps.fit(image, WIDE[::-1], Image.Resampling.BILINEAR), dtype=float)


def test_pictures_without_loss_are_those_shown_at_each_tick(zoo: Zoo):
    num_checked = 0
    for place, (path, clip) in enumerate(zoo.good.items()):
        if "lossless" in clip.traits and not clip.traits & {"alpha", "gray"}:
            num_checked += 1
            pictures = np.rot90(original(place)[..., :3], clip.rotation // 90 % 4, axes=(1, 2))
            for number, found in enumerate(video.stream(zoo.folder / path, fps=FPS)):
                shown = {
                    int(np.searchsorted(clip.times, number / FPS + slack, side="right")) - 1
                    for slack in (0.0, 0.002)
                }
                assert any((found == pictures[n]).all() for n in shown), f"{path}, tick {number}"
    assert num_checked > 10


def test_real_videos_without_a_cut_are_hardly_cut(zoo: Zoo):
    """Small pictures, bad codecs and key frames change more than the film does."""
    num_cuts = num_frames = 0
    for path in zoo.good:
        kept = list(keep(video.stream(zoo.folder / path, WIDE), SceneRules()))
        num_cuts += sum(k.starts_scene for k in kept) - 1
        num_frames += len(kept)
    assert num_cuts <= 0.001 * num_frames, f"{num_cuts} cuts in {num_frames} frames"


class Killed:
    """The command as a user runs it, in a session of its own."""

    def __init__(self, zoo: Zoo, out: Path) -> None:
        options = f"--size {WIDE[0]} {WIDE[1]} --fps {FPS} --min-frames {MIN_FRAMES} --no-cuts"
        program = [sys.executable, "-m", "train.prepare", str(zoo.folder), "--out", str(out)]
        self.command = [*program, *options.split(), "--workers", "2"]
        self.parts = out.with_name(f".{out.name}.partial") / "parts"

    def kill_at(self, count: int, whole_session: bool) -> int:
        """Kill when so many parts are there; gives how many are there then."""
        process = self._start()
        while len(self.finished()) < count:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.003)
        if whole_session:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        return len(self.finished())

    def finish(self) -> str:
        process = self._start()
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
        return printed

    def finished(self) -> dict[str, int]:
        """Frames of parts that are complete, as their JSON says, and when they were written."""
        frames = [path.with_suffix(".frames") for path in self.parts.glob("[!.]*.json")]
        return {path.name: path.stat().st_mtime_ns for path in frames if path.is_file()}

    def _start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MARK": str(self.parts)},
        )


def test_killed_twice_it_ends_as_if_nothing_had_happened(prepared: Prepared, tmp_path: Path):
    killed = Killed(prepared.zoo, tmp_path / "out")
    assert killed.kill_at(10, whole_session=True) < 120, "too late to prove anything"
    first = killed.finished()
    assert killed.kill_at(len(first) + 20, whole_session=False) < 160
    assert first.items() <= killed.finished().items(), "what was done was done again"
    assert not (tmp_path / "out").exists()
    killed.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    found, wanted = contents(tmp_path / "out"), contents(prepared.out)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_command_leaves_no_process_behind(zoo: Zoo, tmp_path: Path):
    killed = Killed(zoo, tmp_path / "out")
    killed.kill_at(1, whole_session=False)
    deadline = time.monotonic() + 20
    while running_below(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running_below(tmp_path) == []


def running_below(folder: Path) -> list[str]:
    """Processes that know this folder from their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if os.fsencode(folder) in told and process.name != str(os.getpid()):
                found.append(process.name)
    return found


def test_two_commands_never_make_the_same_folder(zoo: Zoo, tmp_path: Path):
    first = Killed(zoo, tmp_path / "out")
    process = first._start()
    try:
        while not first.finished():
            assert process.poll() is None
            time.sleep(0.003)
        with pytest.raises(UserError, match="is being prepared by another process"):
            prepare([zoo.folder], tmp_path / "out", FrameOptions(), workers=1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# Memory


PREPARE_AND_MEASURE = """
import re, sys
from pathlib import Path
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
card = prepare([sys.argv[1]], Path(sys.argv[2]), FrameOptions(size=(128, 128)), workers=1)
print(card.num_frames("train") + card.num_frames("heldout"))
print(*re.findall(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text()))
"""


def peak_memory(place: Path, out: Path) -> tuple[int, int]:
    """Frames prepared, and the most memory that a process took for it, in KiB.

    `getrusage` would count the process that started it, too.
    """
    program = [sys.executable, "-c", PREPARE_AND_MEASURE, str(place), str(out)]
    done = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    num_frames, peak = map(int, done.stdout.split())
    return num_frames, peak


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_data(tmp_path: Path):
    """Ten times the videos are 190 MB of frames more."""
    for count in (4, 40):
        for number in range(count):
            path = tmp_path / str(count) / f"{number}.mp4"
            if number < 4:
                write_film(path, moving(110, number))
            else:
                shutil.copy(path.with_name(f"{number % 4}.mp4"), path)
    (few, peak), (many, later_peak) = (
        peak_memory(tmp_path / str(count), tmp_path / f"out-{count}") for count in (4, 40)
    )
    assert many == 10 * few > 4000
    assert later_peak < 1.1 * peak, f"{peak} KiB became {later_peak} KiB"
