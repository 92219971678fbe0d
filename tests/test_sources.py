"""Whatever is called a source becomes the same videos each time, or one line says why not."""

import datetime
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from genie import video
from genie.data import rows as rows_of
from genie.data import sources
from genie.data.card import SPLITS, Card
from genie.data.clips import FrameStore
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
from genie.data.sources import Source, find_sources, list_sources, name_sources
from genie.errors import UserError
from genie.frames import to_pictures
from train import prepare as command

ROOT = Path(__file__).resolve().parents[1]
SIZE = (16, 24)
OPTIONS = FrameOptions(size=SIZE, cuts=False)


def noise(num_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, *SIZE, 3), np.uint8)


def write_video(path: Path, num_frames: int = 18, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path, list(noise(num_frames, seed)), fps=9.0, lossless=True)
    return path


def write_pictures(folder: Path, names: list[str], seed: int = 0) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = noise(len(names), seed)
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(folder / name)
    return pictures


def find(*places: Path) -> list[Source]:
    return list(find_sources([str(place) for place in places]))


def pictures_of(source: Source) -> np.ndarray:
    return np.stack(list(source.pictures(SIZE, "crop", None)))


def put(out: Path, *places: Path, options: FrameOptions = OPTIONS, **others) -> Card:
    return prepare(list(places), out, options, workers=1, **others)


def stored(out: Path) -> dict[str, np.ndarray]:
    """Every video of both splits, as numpy pictures."""
    found = {}
    for split in SPLITS:
        store = FrameStore.open(out, split)
        for number, name in enumerate(store.video_names):
            frames = store.read(*store.video_starts[number : number + 2].tolist())
            found[name] = to_pictures(frames)
    return found


# Files


def test_a_single_file_is_a_source(tmp_path: Path):
    path = write_video(tmp_path / "walk.mp4", num_frames=40)
    (source,) = find(path)
    assert (source.name, source.label) == ("walk", str(path))
    assert (pictures_of(source) == noise(40)).all()
    assert source.fps() == pytest.approx(9)
    assert put(tmp_path / "out", path).videos == {
        "train": {"walk": [24]},
        "heldout": {"walk-end": [16]},
    }


def test_videos_and_pictures_of_a_tree_are_found_in_an_order_that_repeats_itself(tmp_path: Path):
    for name in ("b.mp4", "a/z.MKV", "a/b.mp4"):
        write_video(tmp_path / "tree" / name.lower()).rename(tmp_path / "tree" / name)
    write_pictures(tmp_path / "tree" / "walk", ["1.png", "2.png"])
    write_pictures(tmp_path / "tree" / "a", ["1.png", "2.png"])
    (tmp_path / "tree" / "notes.txt").write_text("no video")
    (tmp_path / "tree" / "folder.mp4").mkdir()
    found = find(tmp_path / "tree")
    assert [source.name for source in found] == ["a/b", "a/z", "b", "a", "walk"]
    assert found == find(tmp_path / "tree")
    assert len(name_sources([str(tmp_path / "tree")])) == 5


def test_several_places_may_have_videos_of_one_name(tmp_path: Path):
    for number, name in enumerate(("one/clip.mp4", "two/clip.mp4", "two/clip.mkv", "three/x.mp4")):
        write_video(tmp_path / name, num_frames=16 + number, seed=number)
    places = [tmp_path / "one", tmp_path / "two", tmp_path / "three" / "x.mp4", tmp_path / "one"]
    found = find(*places)
    assert len({source.name for source in found}) == len({source.key for source in found}) == 5
    assert all(source.name.startswith(("clip", "x")) for source in found)
    put(tmp_path / "out", *places)
    lengths = sorted(len(frames) for frames in stored(tmp_path / "out").values())
    assert lengths == [16, 16, 17, 18, 19], "a video was lost"
    for frames in stored(tmp_path / "out").values():
        assert (frames == noise(len(frames), len(frames) - 16)).all(), "videos are mixed up"


def test_a_listing_changes_with_names_and_contents(tmp_path: Path):
    write_video(tmp_path / "videos" / "a.mp4")
    write_pictures(tmp_path / "videos" / "walk", ["1.png", "2.png"])
    listings = [list_sources([str(tmp_path / "videos")])]
    assert list_sources([str(tmp_path / "videos")]) == listings[0]
    write_pictures(tmp_path / "videos" / "walk", ["1.png", "2.png", "3.png"])
    listings.append(list_sources([str(tmp_path / "videos")]))
    (tmp_path / "videos" / "walk" / "3.png").rename(tmp_path / "videos" / "walk" / "4.png")
    listings.append(list_sources([str(tmp_path / "videos")]))
    (tmp_path / "videos" / "a.mp4").rename(tmp_path / "videos" / "b.mp4")
    listings.append(list_sources([str(tmp_path / "videos")]))
    assert len(set(listings)) == len(listings)


# Pictures in a folder


def test_numbered_pictures_become_a_video_in_the_order_of_their_numbers(tmp_path: Path):
    names = [f"frame {number}.png" for number in range(8, 42)]
    pictures = write_pictures(tmp_path / "walk", names)
    (source,) = find(tmp_path / "walk")
    assert source.name == "walk" and "34 pictures" in source.label
    assert (pictures_of(source) == pictures).all()
    put(tmp_path / "out", tmp_path / "walk")
    found = stored(tmp_path / "out")
    assert (np.concatenate([found["walk"], found["walk-end"]]) == pictures).all()


@given(
    numbers=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 30)), min_size=1, unique=True),
    draw=st.data(),
)
def test_names_are_ordered_by_every_number_in_them(numbers: list[tuple[int, int]], draw):
    names = [f"take{take} frame{frame}.png" for take, frame in sorted(numbers)]
    shuffled = draw.draw(st.permutations(names))
    assert sorted(shuffled, key=sources._natural) == names


@pytest.mark.parametrize("name", ["1²2.png", "²", "٣.png", "Ⅷ7.png", "½.png", "frame.png", "007"])
def test_names_with_odd_digits_are_ordered_somehow(tmp_path: Path, name: str):
    names = [f"{number}.png" for number in range(3)] + [f"{name.removesuffix('.png')}.png"]
    write_pictures(tmp_path / "walk", names)
    (source,) = find(tmp_path / "walk")
    assert len(pictures_of(source)) == 4


def test_linked_folders_are_followed_and_none_is_read_twice(tmp_path: Path):
    kept, games = tmp_path / "elsewhere", tmp_path / "games"
    write_video(kept / "deep" / "a.mp4")
    write_video(games / "own" / "b.mp4")
    (games / "linked").symlink_to(kept, target_is_directory=True)
    (games / "again").symlink_to(games / "own", target_is_directory=True)
    (games / "own" / "round").symlink_to(games, target_is_directory=True)
    (kept / "deep" / "up").symlink_to(kept, target_is_directory=True)
    (games / "a-first").mkdir()
    (games / "a-first" / "link").symlink_to(games / "own", target_is_directory=True)
    assert [source.name for source in find(games)] == ["linked/deep/a", "own/b"]


def test_a_picture_that_moves_is_a_video_and_no_frame_of_its_folder(tmp_path: Path):
    write_pictures(tmp_path, ["1.png", "2.png"])
    images = [Image.fromarray(picture) for picture in noise(18, seed=1)]
    images[0].save(tmp_path / "3.webp", save_all=True, append_images=images[1:], lossless=True)
    moving, standing = find(tmp_path)
    assert moving.is_video and len(pictures_of(moving)) == 18
    assert len(standing.paths) == 2


def test_files_that_are_no_videos_are_counted_by_their_ending(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "games"
    for split in SPLITS:
        write_video(folder / split / "a.mp4")
        (folder / split / "a.srt").write_text("1")
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "LICENSE").write_text("free")
    command.main(
        command.PrepareConfig(sources=(str(folder),), out=tmp_path / "out", frames=OPTIONS)
    )
    told = [line for line in capsys.readouterr().out.splitlines() if "left alone" in line]
    assert len(told) == 3
    assert {line.removeprefix("left alone: ") for line in told} == {"1 .db", "2 .srt", "1 LICENSE"}
    (folder / "train" / "a.mp4").unlink(), (folder / "heldout" / "a.mp4").unlink()
    with pytest.raises(UserError, match=r"2 \.srt"):
        find(folder)


def test_every_folder_of_pictures_is_a_video_of_its_own(tmp_path: Path):
    names = [f"{number}.png" for number in range(20)]
    walks = {
        name: write_pictures(tmp_path / "all" / name, names, seed)
        for seed, name in enumerate(("train/one", "train/two/deep", "heldout/three"))
    }
    card = put(tmp_path / "out", tmp_path / "all")
    assert card.videos == {
        "train": {"train/one": [20], "train/two/deep": [20]},
        "heldout": {"heldout/three": [20]},
    }
    assert card.fps == 15
    for name, frames in stored(tmp_path / "out").items():
        assert (frames == walks[name]).all()


def test_pictures_of_any_shape_and_kind_come_to_one_size(tmp_path: Path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    kinds = [("1.png", (40, 30), "RGB"), ("2.jpg", (8, 90), "L"), ("3.bmp", (24, 16), "RGB")]
    for name, size, mode in [*kinds, ("4.webp", (64, 64), "RGBA"), ("5.png", (9, 9), "P")]:
        Image.new(mode, size, 70).save(folder / name)
    (source,) = find(folder)
    assert pictures_of(source).shape == (5, *SIZE, 3)


def test_a_broken_picture_is_named_and_its_folder_left_out(tmp_path: Path):
    for seed, walk in enumerate("abc"):
        names = [f"{n}.png" for n in range(20)]
        write_pictures(tmp_path / "all" / walk, names, seed)
    broken = tmp_path / "all" / "b" / "7.png"
    broken.write_bytes(broken.read_bytes()[:60])
    card = put(tmp_path / "out", tmp_path / "all")
    ((label, reason),) = card.skipped.items()
    assert label.startswith(str(broken.parent)) and str(broken) in reason and "\n" not in reason
    assert {name for videos in card.videos.values() for name in videos} == {"a", "c"}


# Hugging Face data sets


def as_png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


EPISODES = [20, 17, 25]


def image_rows(**columns: list) -> datasets.Dataset:
    """62 pictures, and other columns of as many values."""
    cells = [{"bytes": as_png(picture), "path": None} for picture in noise(sum(EPISODES))]
    kinds = {name: datasets.Value("int32") for name in columns}
    features = datasets.Features({**kinds, "image": datasets.Image()})
    return datasets.Dataset.from_dict({**columns, "image": cells}, features=features)


def episode_numbers() -> list[int]:
    return np.repeat([7, 3, 5], EPISODES).tolist()


def video_rows(folder: Path) -> datasets.Dataset:
    cells = [
        {"bytes": write_video(folder / f"{n}.mp4", count, seed=n).read_bytes(), "path": None}
        for n, count in enumerate(EPISODES)
    ]
    features = datasets.Features(
        {"label": datasets.Value("string"), "clip": datasets.Video(decode=False)}
    )
    return datasets.Dataset.from_dict({"label": list("abc"), "clip": cells}, features=features)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def saved(rows: datasets.Dataset, folder: Path) -> Path:
    rows.save_to_disk(folder)
    return folder


def as_parquet(rows: datasets.Dataset, folder: Path) -> Path:
    folder.mkdir()
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def as_parquet_in_data(rows: datasets.Dataset, folder: Path) -> Path:
    as_parquet(rows, folder).rename(folder.with_name("data"))
    folder.mkdir()
    folder.with_name("data").rename(folder / "data")
    return folder


@pytest.mark.parametrize("store", [saved, as_parquet, as_parquet_in_data])
def test_pictures_of_a_data_set_become_a_video_an_episode(tmp_path: Path, store: Callable):
    numbers = list(range(sum(EPISODES)))
    rows = image_rows(episode=episode_numbers(), frame_index=numbers)
    place = store(rows, tmp_path / "rows")
    found = find(place)
    assert [len(source.contents) for source in found] == EPISODES
    assert len({source.key for source in found}) == 3
    assert (np.concatenate(list(map(pictures_of, found))) == noise(sum(EPISODES))).all()
    card = put(tmp_path / "out", place)
    assert sorted(map(len, stored(tmp_path / "out").values())) == sorted(EPISODES)
    assert card.num_decoded == sum(EPISODES) and not card.skipped
    assert name_sources([str(place)]) is None, "it shows only when all is read"


def in_episodes(order: np.ndarray, store: Callable, folder: Path) -> Path:
    """The three episodes, their rows in another order."""
    rows = image_rows(
        episode_index=episode_numbers(),
        frame_index=[number for length in EPISODES for number in range(length)],
    )
    return store(rows.select(order), folder)


@pytest.mark.parametrize("store", [saved, as_parquet])
def test_rows_of_episodes_that_stand_mixed_are_put_in_order(tmp_path: Path, store: Callable):
    rng = np.random.default_rng(0)
    inside = np.arange(62)
    inside[3:9] = inside[3:9][::-1]
    for number, order in enumerate((rng.permutation(62), inside, np.arange(62))):
        found = find(in_episodes(order, store, tmp_path / f"rows-{number}"))
        shown = {len(source.contents): pictures_of(source) for source in found}
        starts = np.cumsum([0, *EPISODES])
        assert sorted(shown) == sorted(EPISODES)
        for length, start in zip(EPISODES, starts, strict=False):
            assert (shown[length] == noise(62)[start : start + length]).all()


def test_numbers_of_frames_that_do_not_tell_them_apart_leave_the_order(tmp_path: Path):
    numbers = {"restarts": [*range(31), *range(31)], "none": [*range(61), None]}
    numbers["text"] = [f"{n:x}-hash" for n in range(61, -1, -1)]
    for name, column in numbers.items():
        kind = datasets.Value("string" if name == "text" else "int32")
        rows = image_rows(episode=[0] * 62).add_column("frame_index", column, feature=kind)
        (source,) = find(as_parquet(rows, tmp_path / name))
        assert (pictures_of(source) == noise(62)).all(), name


def test_numbers_written_as_text_and_times_order_frames(tmp_path: Path):
    start = datetime.datetime(2026, 1, 1)
    columns = {
        "frame_id": [str(n) for n in range(62)],
        "timestamp": [start + datetime.timedelta(seconds=n) for n in range(62)],
    }
    for name, column in columns.items():
        rows = image_rows(episode=[0] * 62).add_column(name, column)
        mixed = rows.select(np.random.default_rng(1).permutation(62))
        for number, stored_as in enumerate((rows, mixed)):
            (source,) = find(as_parquet(stored_as, tmp_path / f"{name}-{number}"))
            assert (pictures_of(source) == noise(62)).all(), name


def test_beside_an_episode_a_list_of_pictures_is_something_else(tmp_path: Path):
    thumbs = [[{"bytes": as_png(picture), "path": None}] for picture in noise(62, 1)]
    rows = image_rows(episode=episode_numbers())
    rows = rows.add_column("a", thumbs, feature=datasets.List(datasets.Image()))
    found = find(saved(rows.select_columns(["a", "episode", "image"]), tmp_path / "rows"))
    assert [len(source.contents) for source in found] == EPISODES


def test_bytes_that_move_are_videos(tmp_path: Path):
    films = []
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        images = [Image.fromarray(picture) for picture in noise(18)]
        file = io.BytesIO()
        images[0].save(file, kind, save_all=True, append_images=images[1:], duration=100, **options)
        films.append(file.getvalue())
    rows = datasets.Dataset.from_dict({"film": films})
    for source in find(saved(rows, tmp_path / "rows")):
        assert source.is_video and pictures_of(source).shape[0] == 18 and source.fps() == 10


def test_a_table_that_is_cut_off_is_told_in_one_line(tmp_path: Path):
    place = as_parquet(image_rows(episode=episode_numbers()), tmp_path / "rows")
    image_rows(episode=episode_numbers()).to_parquet(place / "train-00001.parquet")
    path = place / "train-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) // 4) + content[-2000:])
    with pytest.raises(UserError, match="the dataset") as error:
        find(place)
    assert "\n" not in str(error.value)


def test_videos_beside_a_table_without_pictures_are_what_is_meant(tmp_path: Path):
    write_video(tmp_path / "games" / "a.mp4"), write_video(tmp_path / "games" / "b.mp4")
    labels = datasets.Dataset.from_dict({"file": ["a.mp4", "b.mp4"], "label": [1, 2]})
    labels.to_parquet(tmp_path / "games" / "metadata.parquet")
    assert [source.name for source in find(tmp_path / "games")] == ["a", "b"]


def test_mixed_rows_that_can_only_be_read_once_are_refused():
    rows = [{"e": e, "n": n, "x": b""} for e, n in ((0, 0), (1, 0), (0, 1))]
    with pytest.raises(UserError, match="hf:a/b are mixed"):
        list(rows_of._episodes(rows, "x", ["e"], ["n"], "hf:a/b"))
    with pytest.raises(UserError, match="mixed"):
        list(rows_of._episodes([rows[2], rows[0]], "x", ["e"], ["n"], "hf:a/b"))
    twice = [rows[0], rows[2]] * 2  # as two cameras
    assert len(list(rows_of._episodes(twice, "x", ["e"], ["n"], "hf:a/b"))) == 1


def list_rows(kind: object, wrap: Callable) -> datasets.Dataset:
    """A row an episode: a list of its pictures."""
    pictures = iter(noise(sum(EPISODES)))
    cells = [[wrap(as_png(next(pictures))) for _ in range(length)] for length in EPISODES]
    features = datasets.Features({"frames": datasets.List(kind)})
    return datasets.Dataset.from_dict({"frames": cells}, features=features)


@pytest.mark.parametrize("store", [saved, as_parquet])
@pytest.mark.parametrize("kind", ["images", "bytes"])
def test_a_row_may_hold_all_pictures_of_a_video(tmp_path: Path, store: Callable, kind: str):
    if kind == "images":
        rows = list_rows(datasets.Image(), lambda content: {"bytes": content, "path": None})
    else:
        rows = list_rows(datasets.Value("binary"), bytes)
    found = find(store(rows, tmp_path / "rows"))
    assert [len(source.contents) for source in found] == EPISODES
    assert (np.concatenate(list(map(pictures_of, found))) == noise(sum(EPISODES))).all()


def test_bytes_may_be_pictures_or_videos(tmp_path: Path):
    pictures = {"episode": [0] * 20, "png": [as_png(picture) for picture in noise(20)]}
    found = find(saved(datasets.Dataset.from_dict(pictures), tmp_path / "pictures"))
    assert [pictures_of(source).shape[0] for source in found] == [20]
    films = {"mp4": [write_video(tmp_path / f"{n}.mp4", seed=n).read_bytes() for n in range(3)]}
    found = find(saved(datasets.Dataset.from_dict(films), tmp_path / "films"))
    assert [source.is_video for source in found] == [True] * 3
    assert (pictures_of(found[1]) == noise(18, 1)).all()


@pytest.mark.parametrize("store", [saved, as_parquet])
@pytest.mark.parametrize("name", ["a [b] *.x", "50%#1", "what? #1", "ünï cödé"])
def test_a_data_set_may_lie_at_any_path(tmp_path: Path, store: Callable, name: str):
    rows = image_rows(episode=episode_numbers())
    assert [len(source.contents) for source in find(store(rows, tmp_path / name))] == EPISODES


def test_a_split_or_config_can_be_chosen(tmp_path: Path):
    rows = image_rows(episode=episode_numbers())
    both = datasets.DatasetDict({"first": rows.select(range(20)), "second": rows})
    saved(both, tmp_path / "saved")
    both["first"].to_parquet(tmp_path / "configs" / "a" / "first.parquet")
    both["second"].to_parquet(tmp_path / "configs" / "b" / "second.parquet")
    header = "".join(f"- config_name: {c}\n  data_files: {c}/*.parquet\n" for c in "ab")
    (tmp_path / "configs" / "README.md").write_text(f"---\nconfigs:\n{header}---\n")
    (tmp_path / "configs" / "dataset_info.json").write_text("{}")
    for chosen, count in (("saved?split=first", 1), ("saved?split=second", 3), ("saved", 4)):
        assert len(find(tmp_path / chosen)) == count
    with pytest.raises(UserError, match="splits only"):
        find(tmp_path / "saved?split=frist")
    with pytest.raises(UserError, match="no file or folder"):
        find(tmp_path / "missing?split=first")
    assert len(find(tmp_path / "configs?config=a")) == 1
    assert len(find(tmp_path / "configs?config=b&split=train")) == 3
    with pytest.raises(UserError, match=r"configs\?config=NAME"):
        find(tmp_path / "configs")
    with pytest.raises(UserError, match="choose by config=NAME"):
        find_place = f"{tmp_path / 'saved'}?slit=first"
        list(find_sources([find_place]))
    assert list_sources([f"{tmp_path}/saved?split=first"]) != list_sources([f"{tmp_path}/saved"])


def test_a_video_of_several_episodes_is_cut_where_the_data_set_says(tmp_path: Path):
    """LeRobot's format 3.0: one file for many episodes, a still one here, so that nothing shows."""
    folder, key = tmp_path / "robot", "observation.images.top"
    path = folder / "videos" / key / "chunk-000" / "file-000.mp4"
    path.parent.mkdir(parents=True)
    video.write(path, [noise(1)[0]] * 70, fps=10.0, lossless=True)
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    template = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (folder / "meta" / "info.json").write_text(json.dumps({"video_path": template}))
    columns = {"chunk_index": [0] * 3, "file_index": [0] * 3, "from_timestamp": [0.0, 2.0, 4.5]}
    rows = datasets.Dataset.from_dict({f"videos/{key}/{n}": v for n, v in columns.items()})
    rows.to_parquet(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    (folder / "data" / "chunk-000").mkdir(parents=True)
    rows.to_parquet(folder / "data" / "chunk-000" / "file-000.parquet")
    (source,) = find(folder)
    for fps, expected in ((None, {20, 45}), (5.0, {10, 22})):
        joints: set[int] = set()
        list(source.pictures(SIZE, "crop", fps, joints))
        assert joints == expected
    (folder / "meta" / "info.json").write_text("{")
    with pytest.raises(UserError, match="damaged folder meta"):
        find(folder)


def test_pictures_without_episodes_are_one_video_until_it_gets_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = saved(image_rows(score=list(range(62))), tmp_path / "rows")
    (source,) = find(place)
    assert (pictures_of(source) == noise(62)).all()
    monkeypatch.setattr(rows_of, "LONGEST_EPISODE", 25)
    assert [len(source.contents) for source in find(place)] == [25, 25, 12]


@pytest.mark.parametrize("store", [saved, as_parquet])
def test_videos_of_a_data_set_are_read_from_their_bytes(tmp_path: Path, store: Callable):
    place = store(video_rows(tmp_path), tmp_path / "rows")
    put(tmp_path / "out", place)
    found = stored(tmp_path / "out")
    assert sorted(map(len, found.values())) == sorted(EPISODES)
    for frames in found.values():
        assert (frames == noise(len(frames), EPISODES.index(len(frames)))).all()


def test_videos_of_a_data_set_play_at_the_speed_that_they_declare(tmp_path: Path):
    place = saved(video_rows(tmp_path), tmp_path / "rows")
    assert put(tmp_path / "out", place).fps == pytest.approx(9)


def test_a_data_sets_test_split_is_held_out(tmp_path: Path):
    splits = {"train": image_rows(episode=episode_numbers())}
    splits["test"] = splits["train"].select(range(37))
    saved(datasets.DatasetDict(splits), tmp_path / "rows")
    card = put(tmp_path / "out", tmp_path / "rows", heldout_share=1e-9)
    assert sorted(scenes for (scenes,) in card.videos["train"].values()) == sorted(EPISODES)
    assert sorted(scenes for (scenes,) in card.videos["heldout"].values()) == [17, 20]


def test_a_data_set_beside_a_folder_of_videos(tmp_path: Path):
    place = saved(image_rows(episode=episode_numbers()), tmp_path / "rows")
    write_video(tmp_path / "videos" / "a.mp4", num_frames=30, seed=4)
    put(tmp_path / "out", tmp_path / "videos", place)
    assert sorted(map(len, stored(tmp_path / "out").values())) == sorted([*EPISODES, 30])


def test_a_data_set_that_changes_is_another_source(tmp_path: Path):
    place = as_parquet(image_rows(episode=episode_numbers()), tmp_path / "rows")
    before, keys = list_sources([str(place)]), [source.key for source in find(place)]
    assert list_sources([str(place)]) == before
    assert [source.key for source in find(place)] == keys
    image_rows(episode=[1] * 62).to_parquet(place / "train-00000-of-00001.parquet")
    assert list_sources([str(place)]) != before
    assert [source.key for source in find(place)] != keys


def two_episodes_and(cells: list, folder: Path) -> Path:
    """Rows of two good episodes, and one with the given cells."""
    good = [{"bytes": as_png(picture), "path": None} for picture in noise(40)]
    features = datasets.Features({"episode": datasets.Value("int32"), "image": datasets.Image()})
    episodes = [0] * 20 + [1] * 20 + [2] * len(cells)
    columns = {"episode": episodes, "image": [*good, *cells]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    folder.mkdir()
    # The library itself would put the content of files that cells name into its own file.
    parquet.write_table(rows.data.table, folder / "train.parquet")
    return folder


def test_a_broken_picture_of_a_data_set_leaves_out_its_episode(tmp_path: Path):
    cells = [{"bytes": as_png(picture)[:50], "path": None} for picture in noise(20)]
    card = put(tmp_path / "out", two_episodes_and(cells, tmp_path / "rows"))
    ((label, reason),) = card.skipped.items()
    assert label.endswith("train 000002") and "not a readable image" in reason
    assert sum(len(videos) for videos in card.videos.values()) == 2


def test_a_row_without_a_picture_leaves_out_its_episode(tmp_path: Path):
    card = put(tmp_path / "out", two_episodes_and([None] * 20, tmp_path / "rows"))
    ((label, reason),) = card.skipped.items()
    assert label.endswith("train 000002") and "\n" not in reason
    assert sum(len(videos) for videos in card.videos.values()) == 2


def test_pictures_that_a_data_set_names_as_files_are_read(tmp_path: Path):
    write_pictures(tmp_path / "walk", [f"{n}.png" for n in range(20)], seed=5)
    cells = [{"bytes": None, "path": str(tmp_path / "walk" / f"{n}.png")} for n in range(20)]
    put(tmp_path / "out", two_episodes_and(cells, tmp_path / "rows"))
    assert any((frames == noise(20, 5)).all() for frames in stored(tmp_path / "out").values())


def test_files_that_a_data_set_names_may_lie_elsewhere(tmp_path: Path):
    """Of videos on the hub a streamed row tells no bytes, but hf://datasets/owner/name/file."""
    for number, picture in enumerate(noise(20, 5)):
        with fsspec.open(f"memory://walk/{number}.png", "wb") as file:
            file.write(as_png(picture))
    cells = [{"bytes": None, "path": f"memory://walk/{n}.png"} for n in range(20)]
    put(tmp_path / "out", two_episodes_and(cells, tmp_path / "rows"))
    assert any((frames == noise(20, 5)).all() for frames in stored(tmp_path / "out").values())


def test_a_file_that_a_data_set_names_and_that_is_gone_is_told_so(tmp_path: Path):
    cells = [{"bytes": None, "path": str(tmp_path / "gone.png")}] * 20
    place = two_episodes_and(cells, tmp_path / "rows")
    try:
        card = put(tmp_path / "out", place)
    except UserError as error:
        told = str(error)
        assert "cannot write" not in told, "nothing is wrong with the place to write to"
    else:
        (told,) = card.skipped.values()
    assert "gone.png" in told and "\n" not in told


# What is refused


def no_place(folder: Path) -> None:
    pass


def no_pictures(folder: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 2]}).save_to_disk(folder)


def nothing_inside(folder: Path) -> None:
    folder.mkdir()


def broken_parquet(folder: Path) -> None:
    folder.mkdir()
    (folder / "train.parquet").write_text("no parquet")


def no_rows(folder: Path) -> None:
    image_rows(episode=episode_numbers()).select([]).save_to_disk(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_place, "no file or folder"),
        (no_pictures, r"no column of videos or images \(its columns: text, label\)"),
        (nothing_inside, "holds no videos"),
        (broken_parquet, "cannot open the dataset"),
        (no_rows, "has no rows"),
    ],
)
def test_a_place_without_videos_is_refused_in_one_line(
    tmp_path: Path, make: Callable, message: str
):
    make(tmp_path / "place")
    with pytest.raises(UserError, match=message) as error:
        put(tmp_path / "out", tmp_path / "place")
    assert "\n" not in str(error.value)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"place"}, "something half done is left behind"


@pytest.mark.parametrize("make", [no_place, no_pictures])
def test_the_command_ends_with_two_and_one_line(
    tmp_path: Path, make: Callable, capsys: pytest.CaptureFixture
):
    make(tmp_path / "place")
    place = str(tmp_path / "place")
    assert run_here(place, tmp_path / "out") == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("error: ") and place in told[-1]
    assert not any("Traceback" in line for line in told)


def run_here(place: str, out: Path) -> int:
    """Exit code of the command, without a process of its own."""
    from signal import SIGTERM, getsignal, signal

    from train.errors import one_line_errors

    before = getsignal(SIGTERM)
    try:
        with one_line_errors():
            command.main(command.PrepareConfig(sources=(place,), out=out, workers=1))
    except SystemExit as end:
        return int(end.code)
    finally:
        signal(SIGTERM, before)
    return 0


def test_a_data_set_of_the_hub_is_refused_in_one_line_while_offline(tmp_path: Path):
    program = [sys.executable, "-m", "train.prepare", "hf:nobody/nothing", "--out"]
    done = subprocess.run(
        [*program, str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line and "video/s" not in line]
    assert len(told) == 1 and told[0].startswith("error: cannot open the dataset hf:nobody/nothing")
    assert not (tmp_path / "out").exists()
