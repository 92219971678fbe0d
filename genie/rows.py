"""Hugging Face datasets: which rows are videos, and which rows together are one.

In: a folder or a name on the hub. Out: the encoded content of one video after the other. Decodes no
pictures, and knows neither frames nor splits of ours.

Source: LeRobot's format 3.0 (several episodes in one file, their borders in `meta/episodes`).
"""

import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import datasets
import fsspec
import numpy as np
from PIL import Image, UnidentifiedImageError
from pyarrow import parquet

from genie.errors import UserError

HUB_PREFIX = "hf:"
CHOICES = ("config", "split", "revision")
EPISODE_COLUMNS = ("episode", "episode_id", "episode_index", "video", "video_id", "clip", "clip_id")
FRAME_COLUMNS = ("frame_index", "frame_idx", "frame_id", "frame_number", "timestep", "timestamp")
LONGEST_EPISODE = 4096
"""Rows of pictures that become one video, where no column tells where an episode ends."""
DATASET_FILES = ("state.json", "dataset_dict.json", "dataset_info.json")
HELDOUT_SPLITS = frozenset({"test", "validation", "valid", "val", "heldout"})

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Content:
    """One video to be, as a dataset holds it."""

    split: str
    """The dataset's."""
    name: str
    """Its number."""
    folder: str
    """What claims it for a split of ours; "" if the dataset has none to hold out."""
    contents: tuple[bytes, ...]
    """One video file, or images."""
    is_video: bool
    """Whether it is one video."""


@dataclass(frozen=True)
class Column:
    """Where the pictures are."""

    name: str
    kind: str
    """video, image or bytes."""
    is_list: bool
    """Whether a row holds several."""


def is_dataset(place: str) -> bool:
    """Whether a place is a dataset, and no folder of files."""
    if place.startswith(HUB_PREFIX):
        return True
    folder = Path(split_place(place)[0])
    if not folder.is_dir():
        return False
    patterns = ["*.parquet", "data/*.parquet"]
    if (folder / "meta" / "info.json").is_file() and not (folder / "videos").is_dir():
        patterns.append("data/*/*.parquet")  # LeRobot's, with its pictures in the rows
    return any((folder / name).is_file() for name in DATASET_FILES) or any(
        next(folder.glob(pattern), None) for pattern in patterns
    )


def split_place(place: str) -> tuple[str, dict[str, str], str]:
    """A place without what is chosen of it, the choice, and how that was written.

    `hf:owner/name?config=small&split=train&revision=v2`; of a folder likewise, unless there is one
    that is really called so.

    Raises:
        UserError: if something else is chosen.
    """
    where, mark, written = place.partition("?")
    if not mark or (not place.startswith(HUB_PREFIX) and Path(place).exists()):
        return place, {}, ""
    choice = dict(parse_qsl(written, keep_blank_values=True))
    if not choice or set(choice) - set(CHOICES) or not all(choice.values()):
        raise UserError(
            f"{place} ends in ?{written}: choose by {', '.join(f'{c}=NAME' for c in CHOICES)}, "
            "with & between them"
        )
    return where, choice, written


def read_rows(place: str) -> Iterator[Content]:
    """The videos of a dataset, in order.

    Rows of an episode are put together and in order, wherever they stand.

    Raises:
        UserError: if it cannot be opened or read, or has no pictures.
    """
    with ExitStack() as stack:
        splits = _open(place, stack)
        for split, rows in splits.items():
            features = rows.features or {}
            column = _picture_column(rows, features, place)
            rows = _undecoded(rows, column)
            folder = _folder_of(split, splits)
            is_video, videos = _videos(rows, column, features, place, stack)
            for number, cells in enumerate(videos):
                contents = tuple(map(_content, cells))
                yield Content(
                    split=split,
                    name=f"{number:06d}",
                    folder=folder,
                    contents=contents,
                    is_video=is_video,
                )


# Opening


def _open(place: str, stack: ExitStack) -> dict[str, Any]:
    """Splits of a dataset, read as a stream."""
    where, choice, _ = split_place(place)
    try:
        if where.startswith(HUB_PREFIX):
            return _load(where.removeprefix(HUB_PREFIX), choice)
        folder = stack.enter_context(_plainly_named(Path(where)))
        if any((Path(where) / name).is_file() for name in DATASET_FILES[:2]):
            found = datasets.load_from_disk(folder)
            found = found if isinstance(found, dict) else {"all": found}
            if "split" in choice:
                found = {choice["split"]: found[choice["split"]]}
            return {split: rows.to_iterable_dataset() for split, rows in found.items()}
        return _load(folder, choice)
    except IndexError as error:  # the library's answer to a dataset saved without rows
        raise UserError(f"the dataset {place} has no rows: give one with videos") from error
    except Exception as error:  # the library raises whatever its network and file layers do
        why = " ".join(str(error).split())[:300] or type(error).__name__
        cure = "check its name"
        if "onfig name is missing" in why:
            cure = f"name one of its configs, as {place}?config=NAME"
        raise UserError(f"cannot open the dataset {place} ({why}): {cure}") from error


def _load(name: str, choice: dict[str, str]) -> dict[str, Any]:
    split = choice.get("split")
    loaded = datasets.load_dataset(
        name,
        choice.get("config"),
        split=split,
        revision=choice.get("revision"),
        streaming=True,
    )
    return {split: loaded} if split else dict(loaded)


@contextmanager
def _plainly_named(folder: Path) -> Iterator[str]:
    """The folder by a name in which the library finds no pattern and no address."""
    if re.fullmatch(r"[\w./-]*", str(folder), re.ASCII):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory() as beside:
        for path in (path for path in folder.rglob("*") if path.is_file()):
            link = Path(beside) / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        yield beside


def _folder_of(split: str, splits: Iterable[str]) -> str:
    if not HELDOUT_SPLITS & set(splits):
        return ""
    return "heldout/" if split in HELDOUT_SPLITS else "train/"


# Columns


def _picture_column(rows: Any, features: dict[str, Any], place: str) -> Column:
    """The column that most likely holds videos: files of them, lists of images, images, bytes."""
    kinds: list[tuple[str, bool, Callable[[Any], bool]]] = [
        ("video", False, lambda kind: isinstance(kind, datasets.Video)),
        ("image", True, lambda kind: isinstance(kind, datasets.Image)),
        ("image", False, lambda kind: isinstance(kind, datasets.Image)),
        ("bytes", True, _is_binary),
        ("bytes", False, _is_binary),
    ]
    for kind, is_list, matches in kinds:
        for name, feature in features.items():
            inner = getattr(feature, "feature", None) if is_list else feature
            if inner is not None and matches(inner):
                return Column(name, kind, is_list)
    names = ", ".join(features) or "none that are known"
    cure = ""
    if {"episode_index", "frame_index"} <= set(features):
        cure = "; its videos are files beside the rows: download it and name its folder"
    raise UserError(f"{place} has no column of videos or images (its columns: {names}){cure}")


def _is_binary(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in {"binary", "large_binary"}


def _undecoded(rows: Any, column: Column) -> Any:
    """The rows with encoded content in the column."""
    if column.kind == "bytes":
        return rows
    kind = datasets.Video(decode=False) if column.kind == "video" else datasets.Image(decode=False)
    return rows.cast_column(column.name, datasets.List(kind) if column.is_list else kind)


def _videos(
    rows: Any, column: Column, features: dict[str, Any], place: str, stack: ExitStack
) -> tuple[bool, Iterable[Sequence[Any]]]:
    """Whether cells are whole videos, and the cells of one video after the other."""
    if column.is_list:
        return False, (row[column.name] or [None] for row in rows)
    is_video = column.kind == "video"
    if column.kind == "bytes":
        first = next((cell for row in rows.take(64) if (cell := row[column.name])), b"")
        is_video = not _is_image(first)
    if is_video:
        return True, ((row[column.name],) for row in rows)
    by = [name for name in EPISODE_COLUMNS if name in features and name != column.name][:1]
    order = [name for name in FRAME_COLUMNS if name in features and name != column.name][:1]
    if by and not place.startswith(HUB_PREFIX):
        rows = _in_order(rows, by + order, stack)
    return False, _episodes(rows, column.name, by, order, place)


def _is_image(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).close()
    except (UnidentifiedImageError, OSError):
        return False
    return True


# Episodes


def _in_order(rows: Any, columns: Sequence[str], stack: ExitStack) -> Any:
    """The same rows, or, where they stand mixed, sorted on disk."""
    keys = [[row[name] for name in columns] for row in rows.select_columns(list(columns))]
    if not keys:
        return rows
    episodes, *numbers = zip(*keys, strict=True)
    _, first_seen, episode = np.unique(
        list(map(str, episodes)), return_index=True, return_inverse=True
    )
    within = [n for n in numbers if all(isinstance(number, (int, float)) for number in n)]
    order = np.lexsort([*within, first_seen[episode]])  # stable; episodes as they first appear
    if np.array_equal(order, np.arange(len(order))):
        return rows
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    held = datasets.Dataset.from_generator(
        lambda: iter(rows), features=rows.features, cache_dir=folder
    )
    return held.select(order)


def _episodes(
    rows: Any, column: str, by: Sequence[str], order: Sequence[str], place: str
) -> Iterator[Sequence[Any]]:
    """Neighbouring rows of one episode, together.

    Raises:
        UserError: if an episode goes on after another one, or runs backwards.
    """
    cells: list[Any] = []
    over: set[Any] = set()
    episode: Any = None
    number: Any = None
    for row in rows:
        current = row[by[0]] if by else None
        if cells and current != episode:
            over.add(episode)
        if cells and (current != episode or len(cells) == LONGEST_EPISODE):
            yield cells
            cells, number = [], None
        following = row[order[0]] if by and order else None
        mixed = by and current in over
        if mixed or (number is not None and following is not None and following < number):
            raise UserError(
                f"the rows of {place} are mixed (episode {current} goes on, or runs backwards, "
                f"after other rows): download it and name its folder, and they are sorted"
            )
        episode, number = current, following
        cells.append(row[column])
    if cells:
        yield cells


def _content(cell: Any) -> bytes:
    """What a cell holds, or the file that it names; an empty cell leaves out its video."""
    if cell is None:
        return b""
    if isinstance(cell, bytes):
        return cell
    if cell["bytes"] is not None:
        return cell["bytes"]
    try:
        with fsspec.open(cell["path"], "rb") as file:
            return file.read()
    except Exception as error:  # whatever the many file systems raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read {cell['path']}, which a data set names ({why})") from error


# Videos that hold several episodes


def episode_borders(folder: Path) -> dict[Path, tuple[float, ...]]:
    """Of a LeRobot dataset, the seconds at which a video's later episodes begin.

    Raises:
        UserError: if its tables cannot be read.
    """
    notes, tables = folder / "meta" / "info.json", sorted(folder.glob("meta/episodes/**/*.parquet"))
    if not notes.is_file() or not tables:
        return {}
    borders: dict[Path, set[float]] = {}
    try:
        pattern = json.loads(notes.read_text())["video_path"]
        for episode in (row for table in tables for row in parquet.read_table(table).to_pylist()):
            for name in [name for name in episode if name.endswith("/from_timestamp")]:
                column = name.removesuffix("/from_timestamp")
                numbers = {n: episode[f"{column}/{n}"] for n in ("chunk_index", "file_index")}
                path = folder / pattern.format(video_key=column.removeprefix("videos/"), **numbers)
                borders.setdefault(path, set()).add(float(episode[name]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{folder} has a damaged folder meta ({why}): download it again") from error
    return {path: tuple(sorted(times - {0.0})) for path, times in borders.items()}
