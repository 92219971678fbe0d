"""Hugging Face datasets: which rows are videos, and which rows together are one.

In: a folder or a name on the hub. Out: the encoded content of one video after the other. Decodes no
pictures, and knows neither frames nor splits of ours.

Source: LeRobot's format 3.0 (several episodes in one file, their borders in `meta/episodes`).
"""

import io
import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import datasets
import fsspec
import numpy as np
from PIL import Image
from pyarrow import parquet

from genie.decoding import VIDEO_SUFFIXES
from genie.errors import UserError, in_one_line

HUB_PREFIX = "hf:"
LEROBOT_NOTES = "meta/info.json"
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
    if (folder / LEROBOT_NOTES).is_file() and not (folder / "videos").is_dir():
        patterns.append("data/*/*.parquet")  # LeRobot's, with its pictures in the rows
    if any((folder / name).is_file() for name in DATASET_FILES):
        return True
    tables = [table for pattern in patterns for table in folder.glob(pattern)]
    return bool(tables) and (any(map(_has_pictures, tables)) or not _has_films(folder))


def _has_films(folder: Path) -> bool:
    return any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.rglob("*"))


def _has_pictures(table: Path) -> bool:
    """Whether a table has a column of pictures; one that is broken is told when it is opened."""
    try:
        features = datasets.Features.from_arrow_schema(parquet.read_schema(table))
        _picture_column(features, str(table))
    except UserError:
        return False
    except Exception:
        return True
    return True


def split_place(place: str) -> tuple[str, dict[str, str]]:
    """A place without what is chosen of it, and the choice.

    `hf:owner/name?config=small&split=train&revision=v2`; of a folder likewise, unless there is one
    that is really called so.

    Raises:
        UserError: if something else is chosen.
    """
    where, mark, written = place.rpartition("?")
    is_hub = place.startswith(HUB_PREFIX)
    if not mark or (not is_hub and (Path(place).exists() or not Path(where).is_dir())):
        return place, {}
    parts = (part.partition("=") for part in written.split("&"))
    choice = {name: unquote(value) for name, _, value in parts}
    if not choice or set(choice) - set(CHOICES) or not all(choice.values()):
        raise UserError(
            f"{place} ends in ?{written}: choose by {', '.join(f'{c}=NAME' for c in CHOICES)}, "
            "with & between them"
        )
    return where, choice


def read_rows(place: str) -> Iterator[Content]:
    """The videos of a dataset, in order.

    Rows of an episode are put together and in order, wherever they stand.

    Raises:
        UserError: if it cannot be opened or read, or has no pictures.
    """
    with ExitStack() as stack:
        splits = _open(place, stack)
        try:
            for split, rows in splits.items():
                folder = _folder_of(split, splits)
                for number, (cells, is_video) in enumerate(_videos(rows, place, stack)):
                    contents = tuple(map(_content, cells))
                    yield Content(
                        split=split,
                        name=f"{number:06d}",
                        folder=folder,
                        contents=contents,
                        is_video=is_video,
                    )
        except UserError:
            raise
        except Exception as error:  # whatever reading damaged files raises
            why = in_one_line(error)[:300]
            raise UserError(f"cannot read the dataset {place} ({why}): it is damaged") from error


# Opening


def _open(place: str, stack: ExitStack) -> dict[str, Any]:
    """Splits of a dataset, read as a stream."""
    where, choice = split_place(place)
    try:
        if where.startswith(HUB_PREFIX):
            return _load(where.removeprefix(HUB_PREFIX), choice)
        folder = stack.enter_context(_plainly_named(Path(where)))
        if any((Path(where) / name).is_file() for name in DATASET_FILES[:2]):
            found = datasets.load_from_disk(folder)
            found = found if isinstance(found, dict) else {"all": found}
            found = _chosen(found, choice, place)
            return {split: rows.to_iterable_dataset() for split, rows in found.items()}
        files = "data/**/*.parquet" if (Path(where) / LEROBOT_NOTES).is_file() else None
        return _load(folder, choice, files)
    except UserError:
        raise
    except IndexError as error:  # the library's answer to a dataset saved without rows
        raise UserError(f"the dataset {place} has no rows: give one with videos") from error
    except Exception as error:  # the library raises whatever its network and file layers do
        why = in_one_line(error)[:300]
        cure = "check its name"
        if "onfig name is missing" in why:
            cure = f"name one of its configs, as {place}?config=NAME"
        raise UserError(f"cannot open the dataset {place} ({why}): {cure}") from error


def _chosen(found: dict[str, Any], choice: dict[str, str], place: str) -> dict[str, Any]:
    """The splits that are wanted of a dataset that was saved, which has neither configs nor a past.

    Raises:
        UserError: if there is no such thing.
    """
    if set(choice) - {"split"} or not {choice.get("split", next(iter(found)))} <= set(found):
        raise UserError(f"{place}: this dataset has splits only ({', '.join(found)})")
    return {choice["split"]: found[choice["split"]]} if choice else found


def _load(name: str, choice: dict[str, str], files: str | None = None) -> dict[str, Any]:
    split = choice.get("split")
    loaded: Any = datasets.load_dataset(
        name,
        choice.get("config"),
        data_files=files,
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


def _folder_of(split: str, splits: Collection[str]) -> str:
    if len(splits) == 1 or not HELDOUT_SPLITS & set(splits):
        return ""
    return "heldout/" if split in HELDOUT_SPLITS else "train/"


# Columns


def _picture_column(features: dict[str, Any], place: str) -> Column:
    """The column that most likely holds videos: files of them, lists of images, images, bytes.

    Where a column tells episodes, rows are frames, and a list is something else.
    """
    kinds: list[tuple[str, bool, Callable[[Any], bool]]] = [
        ("video", False, lambda kind: isinstance(kind, datasets.Video)),
        ("image", True, lambda kind: isinstance(kind, datasets.Image)),
        ("image", False, lambda kind: isinstance(kind, datasets.Image)),
        ("bytes", True, _is_binary),
        ("bytes", False, _is_binary),
    ]
    if any(name in features for name in EPISODE_COLUMNS):
        kinds.sort(key=lambda kind: kind[1])
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


def _videos(rows: Any, place: str, stack: ExitStack) -> Iterator[tuple[Sequence[Any], bool]]:
    """The cells of one video after the other, and whether it is one cell that holds it all."""
    features = rows.features or {}
    column = _picture_column(features, place)
    rows = _undecoded(rows, column)
    if column.is_list:
        yield from ((row[column.name] or [None], False) for row in rows)
    elif column.kind == "video" or (column.kind == "bytes" and not _holds_images(rows, column)):
        yield from (((row[column.name],), True) for row in rows)
    else:
        by, order = (
            [name for name in names if name in features and name != column.name][:1]
            for names in (EPISODE_COLUMNS, FRAME_COLUMNS)
        )
        if by and not place.startswith(HUB_PREFIX):
            rows, order = _in_order(rows, by, order, stack), []
        yield from ((cells, False) for cells in _episodes(rows, column.name, by, order, place))


def _holds_images(rows: Any, column: Column) -> bool:
    """Whether bytes are images; the first row that holds any tells."""
    return _is_image(next((cell for row in rows if (cell := row[column.name])), b""))


def _is_image(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return getattr(image, "n_frames", 1) == 1
    except (OSError, ValueError, SyntaxError):
        return False


# Episodes


def _in_order(
    rows: Any, by: Sequence[str], order: Sequence[str], stack: ExitStack
) -> Iterable[Row]:
    """The same rows, or, where they stand mixed, sorted on disk.

    Episodes come as they first appear. Within one, the order is that of the frame's number, if
    every row of it has one of its own, and else that of the rows.
    """
    columns = [*by, *order]
    keys = [tuple(row[name] for name in columns) for row in rows.select_columns(columns)]
    first_seen: dict[tuple, int] = {}
    episodes = [first_seen.setdefault(key[: len(by)], len(first_seen)) for key in keys]
    numbers = [_number(key[-1]) if order else None for key in keys]
    if None in numbers or len(set(zip(episodes, numbers, strict=True))) < len(keys):
        numbers = [0.0] * len(keys)
    wanted = np.lexsort([numbers, episodes])  # stable
    if np.array_equal(wanted, np.arange(len(keys))):
        return rows
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    held = datasets.Dataset.from_generator(
        lambda: iter(rows), features=rows.features, cache_dir=folder
    )
    return held.select(wanted)


def _number(value: Any) -> float | None:
    """What orders a frame among others, if it does."""
    try:
        return value.timestamp() if isinstance(value, datetime) else float(value)
    except (TypeError, ValueError):
        return None


def _episodes(
    rows: Iterable[Row], column: str, by: Sequence[str], order: Sequence[str], place: str
) -> Iterator[Sequence[Any]]:
    """Neighbouring rows of one episode, together.

    Raises:
        UserError: if an episode goes on after another one, or runs backwards.
    """
    cells: list[Any] = []
    over: set[tuple] = set()
    episode: tuple = ()
    numbers: list[float] = []  # of this episode's frames; one that comes again starts a new count
    for row in rows:
        current = tuple(row[name] for name in by)
        if cells and current != episode:
            over.add(episode)
            numbers = []
        if cells and (current != episode or len(cells) == LONGEST_EPISODE):
            yield cells
            cells = []
        number = _number(row[order[0]]) if by and order else None
        runs_back = number is not None and numbers and number < numbers[-1]
        if current in over or (runs_back and number not in numbers):
            raise UserError(
                f"the rows of {place} are mixed (episode {', '.join(map(str, current))} goes on, "
                "or runs backwards, after other rows): download it and name its folder, and they "
                "are sorted"
            )
        episode = current
        if number is not None:
            numbers.append(number)
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
        why = in_one_line(error)
        raise UserError(f"cannot read {cell['path']}, which a data set names ({why})") from error


# Videos that hold several episodes


def episode_borders(path: Path) -> tuple[float, ...]:
    """The seconds at which later episodes begin in a video of a LeRobot dataset; else none.

    Raises:
        UserError: if the dataset's tables cannot be read.
    """
    homes = [folder for folder in path.parents if (folder / LEROBOT_NOTES).is_file()]
    if not homes:
        return ()
    changed = (homes[0] / LEROBOT_NOTES).stat().st_mtime_ns
    return _borders_below(homes[0], changed).get(path, ())


@lru_cache(maxsize=64)
def _borders_below(folder: Path, changed: int) -> dict[Path, tuple[float, ...]]:
    """The borders in every video of a dataset."""
    borders: dict[Path, set[float]] = {}
    try:
        pattern = json.loads((folder / LEROBOT_NOTES).read_text()).get("video_path")
        for table in sorted(folder.glob("meta/episodes/**/*.parquet")) if pattern else ():
            for episode in parquet.read_table(table).to_pylist():
                for name in [name for name in episode if name.endswith("/from_timestamp")]:
                    column = name.removesuffix("/from_timestamp")
                    numbers = {n: episode[f"{column}/{n}"] for n in ("chunk_index", "file_index")}
                    key = column.removeprefix("videos/")
                    path = folder / pattern.format(video_key=key, **numbers)
                    borders.setdefault(path, set()).add(float(episode[name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = in_one_line(error)
        raise UserError(f"{folder} has a damaged folder meta ({why}): download it again") from error
    return {path: tuple(sorted(times - {0.0})) for path, times in borders.items()}
