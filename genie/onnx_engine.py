"""The engine that computes a world's frames with onnxruntime on a CPU; it need not load PyTorch.

In: a world's folder with graphs, see `genie.graphs`. Out: the functions of `genie.session.Engine`
over NumPy arrays. All floats are float32.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import Float32, Int64, UInt8
from safetensors.numpy import load_file

from genie.configs import config_from_dict
from genie.errors import UserError
from genie.ring import FrameKeyValue, Past, Ring
from genie.sampling import Pace, SamplingConfig

CARD = "graphs.json"
"""The file beside the graphs that says which world they belong to."""
FORMAT_VERSION = 2
"""Version of the graphs' inputs, outputs and sampling; other versions are not used."""
BATCH = "b"
"""Name of the graphs' batch axis."""
MOST_THREADS = 8
"""One frame has too few tokens to keep more cores busy."""
SPIN_US = 20
"""Microseconds for which a thread spins while it waits for another. On two cores a frame of the
shipped Ninja takes 21 ms so, 24 if threads never spin, and 53 if they spin without limit; beside
two busy programs it takes 40, 34 and 92 ms."""
HAS_SHORT_SPINS = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 26)
"""Whether onnxruntime can limit how long threads spin."""

ReadFilm = Callable[
    [UInt8[np.ndarray, "b t 3 h w"]],
    tuple[Int64[np.ndarray, "b t n"], Int64[np.ndarray, "b t"]],
]


@dataclass(frozen=True)
class Card:
    """The world that graphs belong to: all that play needs to know of it."""

    version: int
    """See `FORMAT_VERSION`."""
    fingerprint: str
    """Hash of configs and weights."""
    size: tuple[int, ...]
    """Height and width of frames."""
    num_actions: int
    """Number of latent actions."""
    mask_id: int
    """The id that stands for a hidden token."""
    fps: float
    """Frames per second at which the world looks natural."""
    sampling: SamplingConfig
    """How new frames are drawn."""
    files: dict[str, str]
    """SHA-256 of the world's files by name, graphs included."""
    weights: dict[str, list[str]]
    """Names of the weights that each graph needs."""


def read_card(folder: Path) -> Card | None:
    """The card of a world's graphs; None if there is none that fits the files and this program."""
    try:
        card = config_from_dict(Card, json.loads((folder / CARD).read_text()), where=CARD)
        fits = card.version == FORMAT_VERSION and card.files == digests(folder)
    except (OSError, ValueError, UserError):
        return None
    return card if fits else None


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by name of the files that frames depend on: config, weights and graphs."""
    kinds = (sorted(folder.glob(kind)) for kind in ("*.safetensors", "*.onnx"))
    files = [folder / "config.json", *itertools.chain(*kinds)]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class OnnxEngine:
    """A graph for each function of `genie.frame`."""

    def __init__(
        self,
        folder: Path,
        card: Card,
        read_film: ReadFilm,
    ) -> None:
        """Loads graphs and weights.

        Args:
            folder: the world's folder.
            card: as `read_card` gives it.
            read_film: reads prompts of several frames; the graph reads one frame only.

        Raises:
            UserError: if a graph cannot be read.
        """
        (height, width), self.num_actions, self.mask_id = card.size, card.num_actions, card.mask_id
        self.size, self._read_film = (height, width), read_film
        weights, pool = load_weights(folder, card), ThreadPoolExecutor(num_threads())
        graphs = {
            name: Graph(folder / f"{name}.onnx", {each: weights[each] for each in wanted}, pool)
            for name, wanted in card.weights.items()
        }
        self._read, self._look_back = graphs["read"], graphs["look_back"]
        self._reveal, self._show = graphs["reveal"], graphs["show"]
        self._foretell = graphs.get("foretell")
        self.has_prior = self._foretell is not None
        self.num_next = self._look_back.shape("cos")[3]
        self._logits_shape = self._reveal.shape("unled")[1:]

    def new_rings(self, batch_size: int) -> tuple[Ring, Ring]:
        """See `genie.session.Engine`."""
        return self._look_back.new_ring(batch_size), self._show.new_ring(batch_size)

    def new_logits(self, batch_size: int) -> Float32[np.ndarray, "b n v"]:
        """See `genie.session.Engine`."""
        return np.zeros((batch_size, *self._logits_shape), dtype=np.float32)

    def read(
        self, prompts: UInt8[np.ndarray, "b t 3 h w"]
    ) -> tuple[Int64[np.ndarray, "b t n"], Int64[np.ndarray, "b t"]]:
        """See `genie.session.Engine`."""
        if prompts.shape[1] > 1:
            return self._read_film(prompts)
        (tokens,) = self._read({"frames": prompts[:, 0]})
        no_action = np.full((len(prompts), 1), self.num_actions, dtype=np.int64)
        return tokens.view(np.int64)[:, None], no_action

    def foretell(self, frames: UInt8[np.ndarray, "b t 3 h w"]) -> Float32[np.ndarray, "b a"]:
        """See `genie.session.Engine`."""
        assert self._foretell is not None
        (logits,) = self._foretell({"frames": frames})
        return logits

    def look_back(
        self, tokens: Int64[np.ndarray, "b n"], led_by: Int64[np.ndarray, " b"], past: Past
    ) -> tuple[Float32[np.ndarray, "b n v"], FrameKeyValue]:
        """See `genie.session.Engine`."""
        given = {"tokens": tokens, "led_by": led_by, **past._asdict()}
        unled, keys, values = self._look_back(given)
        return unled, (keys, values)

    def reveal(
        self,
        tokens: Int64[np.ndarray, "b n"],
        actions: Int64[np.ndarray, " b"],
        unled: Float32[np.ndarray, "b n v"],
        drawn: Float32[np.ndarray, "b 2 n"],
        pace: Pace,
        past: Past,
    ) -> Int64[np.ndarray, "b n"]:
        """See `genie.session.Engine`."""
        given = {"tokens": tokens, "actions": actions, "unled": unled, "noise": drawn}
        numbers = {name: np.asarray(number) for name, number in pace._asdict().items()}
        unfinished = np.flatnonzero((tokens == self.mask_id).any(axis=1))
        revealed = tokens.copy()
        if len(unfinished):
            given = {**given, **numbers, **past._asdict()}
            (revealed[unfinished],) = self._reveal(given, unfinished)
        return revealed

    def show(
        self, tokens: Int64[np.ndarray, "b n"], past: Past
    ) -> tuple[UInt8[np.ndarray, "b 3 h w"], FrameKeyValue]:
        """See `genie.session.Engine`."""
        frames, keys, values = self._show({"tokens": tokens, **past._asdict()})
        return frames, (keys, values)


def num_threads() -> int:
    """CPU threads for play: OMP_NUM_THREADS, else one per core, up to `MOST_THREADS`."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST_THREADS)


def load_weights(folder: Path, card: Card) -> dict[str, Float32[np.ndarray, "..."]]:
    """The weights that graphs need, by their names in the world, such as net.layer.weight."""
    wanted = {name for names in card.weights.values() for name in names}
    weights = {}
    for file in card.files:
        net = file.split(".")[0].split("-")[0]
        if any(name.startswith(f"{net}.") for name in wanted):
            loaded = load_file(folder / file).items()
            weights |= {f"{net}.{name}": array.astype(np.float32) for name, array in loaded}
    return weights


class Graph:
    """A pure function of arrays.

    The rows of a batch are computed side by side, each by one thread. Several threads for one row
    spend much of their time waiting for one another: on two cores, two rows at once take 25 ms a
    frame where one row after the other takes 42 ms, and a batch of 8 in one call 62 ms.
    """

    def __init__(
        self, path: Path, weights: Mapping[str, np.ndarray], pool: ThreadPoolExecutor
    ) -> None:
        """Open a graph.

        Args:
            path: of the ONNX file.
            weights: by the names that the graph has for them.
            pool: computes rows side by side.

        Raises:
            UserError: if the file is no graph for these weights.
        """
        self._path, self._weights, self._pool = path, weights, pool
        self._session = _open(path, weights, num_threads())
        self._shapes = {entry.name: entry.shape for entry in self._session.get_inputs()}
        self._axes = {
            name: shape.index(BATCH) for name, shape in self._shapes.items() if BATCH in shape
        }
        outputs = (entry.shape for entry in self._session.get_outputs())
        self._output_axes = [shape.index(BATCH) for shape in outputs]

    @cached_property
    def _for_rows(self) -> onnxruntime.InferenceSession:
        return _open(self._path, self._weights, 1)

    def shape(self, name: str) -> list[Any]:
        """Of an input; axes of any length have names instead of numbers."""
        return self._shapes[name]

    def __call__(
        self, given: Mapping[str, np.ndarray], rows: np.ndarray | None = None
    ) -> list[Any]:
        """Compute the outputs.

        Args:
            given: inputs by name; those that the graph does not have are left out.
            rows: numbers of the rows to compute; None computes all.
        """
        inputs = {name: given[name] for name in self._shapes}
        batched, axis = next(iter(self._axes.items()))
        batch_size = inputs[batched].shape[axis]
        if batch_size == 1:
            return list(self._session.run(None, inputs))
        numbers, session = range(batch_size) if rows is None else rows.tolist(), self._for_rows
        each = self._pool.map(lambda row: session.run(None, self._row(inputs, row)), numbers)
        outputs = zip(zip(*each, strict=True), self._output_axes, strict=True)
        return [np.concatenate(parts, axis) for parts, axis in outputs]

    def _row(self, inputs: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
        """The inputs of one row."""
        own = slice(row, row + 1)
        rows = {
            name: inputs[name][(*[slice(None)] * axis, own)] for name, axis in self._axes.items()
        }
        return {**inputs, **rows}

    def new_ring(self, batch_size: int) -> Ring:
        """An empty past as this graph takes it."""
        blocks, _, *rest = self.shape("keys")
        # Rows come first in memory, so that each can be handed over without a copy.
        keys = np.zeros((batch_size, blocks, *rest), dtype=np.float32)
        return Ring(keys.swapaxes(0, 1), np.zeros_like(keys).swapaxes(0, 1))


def _open(
    path: Path, weights: Mapping[str, np.ndarray], threads: int
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if HAS_SHORT_SPINS:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each error code
        raise UserError(f"{path} is no graph of this world: delete {CARD} beside it") from error
