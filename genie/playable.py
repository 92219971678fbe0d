"""A world for play alone: from its folder to running sessions, without PyTorch where possible.

In: a checkpoint folder. Out: sessions. If the folder has graphs and there is no GPU, onnxruntime
computes frames, since it loads at once; else PyTorch does, see `genie.world`.
"""

import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from genie.errors import WITHOUT_TORCH, UserError
from genie.sampling import SamplingConfig
from genie.session import EngineName, Session, Sessions

if TYPE_CHECKING:
    from genie.onnx_engine import Card
    from genie.world import World


@runtime_checkable
class Playable(Protocol):
    """What play needs of a world."""

    name: str
    """For people."""
    engine_name: EngineName
    """What computes its frames."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of frames."""
        ...

    @property
    def num_actions(self) -> int:
        """Number of latent actions."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second at which it looks natural."""
        ...

    @property
    def sampling(self) -> SamplingConfig:
        """How new frames are drawn by default."""
        ...

    @property
    def has_prior(self) -> bool:
        """Whether sessions can tell which action a wish means, see `Session.choose`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of configs and weights."""
        ...

    @property
    def what_computes(self) -> str:
        """Device, threads and engine, for people."""
        ...

    def start(
        self,
        prompt: UInt8[np.ndarray, "t h w 3"],
        *,
        seed: int,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
    ) -> Session:
        """See `World.start`."""
        ...

    def start_many(
        self, prompts: UInt8[np.ndarray, "b t 3 h w"], *, seeds: Sequence[int]
    ) -> Sessions:
        """See `World.start_many`."""
        ...

    def infer(self, clip: UInt8[np.ndarray, "t h w 3"]) -> Iterable[Any]:
        """The latent actions between a clip's neighbouring frames."""
        ...


def open_world(folder: Path, engine: EngineName | None = None) -> Playable:
    """A world to play.

    Args:
        folder: a world's folder.
        engine: None takes PyTorch on a GPU, else onnxruntime if there are graphs, else PyTorch.

    Raises:
        UserError: if the folder is no world, or the engine is unknown, cannot play it or is not
            installed.
    """
    if engine not in (None, *get_args(EngineName)):
        raise UserError(f"no engine {engine!r}: choose one of {', '.join(get_args(EngineName))}")
    if engine == "torch" or (engine is None and _has_gpu()):
        return _load_into_torch(folder, "this engine")
    card = _read_card(folder)
    if card:
        return GraphWorld(folder, card)
    if engine:
        raise UserError(
            f"{folder} has no graphs for onnxruntime that fit it: "
            f"python -m train.graphs {folder} makes them"
        )
    return _load_into_torch(folder, f"{folder}, which has no graphs that fit it,")


def _has_gpu() -> bool:
    """Whether PyTorch finds a GPU; it is imported only if there is a driver."""
    if shutil.which("nvidia-smi") is None or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _read_card(folder: Path) -> "Card | None":
    try:
        from genie.onnx_engine import read_card
    except ImportError:  # onnxruntime does not run on every machine
        return None
    return read_card(folder)


def _load_into_torch(folder: Path, what: str) -> "World":
    """Args: what: subject of the error message, "... needs PyTorch"."""
    if find_spec("torch") is None:
        raise UserError(f"{what} {WITHOUT_TORCH}")
    from genie import machine
    from genie.world import World

    machine.choose_threads()
    return World.from_pretrained(folder)


class GraphWorld:
    """A world whose frames onnxruntime computes."""

    engine_name: EngineName = "onnxruntime"

    def __init__(self, folder: Path, card: "Card") -> None:
        """Args: card: of the folder's graphs; `read_card` has checked all files against it."""
        from genie.onnx_engine import OnnxEngine, num_threads

        self.folder, self.name = folder, folder.resolve().name
        self.num_actions, self.fps, self.sampling = card.num_actions, card.fps, card.sampling
        self.fingerprint = card.fingerprint
        self.what_computes = f"cpu, {num_threads()} threads, onnxruntime"
        self.engine = OnnxEngine(folder, card, lambda prompts: self._in_torch.read(prompts))
        self.size, self.has_prior = self.engine.size, self.engine.has_prior

    def start(
        self,
        prompt: UInt8[np.ndarray, "t h w 3"],
        *,
        seed: int,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
    ) -> Session:
        """See `World.start`."""
        frames = np.ascontiguousarray(np.moveaxis(prompt, -1, -3))[None]
        sampling = self.sampling.changed(maskgit_steps, temperature)
        return Session(Sessions(self.engine, frames, [seed], sampling), self.num_actions)

    def start_many(
        self, prompts: UInt8[np.ndarray, "b t 3 h w"], *, seeds: Sequence[int]
    ) -> Sessions:
        """See `World.start_many`."""
        return Sessions(self.engine, prompts, seeds, self.sampling)

    def infer(self, clip: UInt8[np.ndarray, "t h w 3"]) -> Sequence[int]:
        """The latent actions between a clip's neighbouring frames."""
        return self._in_torch.infer(clip).tolist()

    @cached_property
    def _in_torch(self) -> "World":
        """The world in PyTorch, for what has no graph: to read several frames and infer actions."""
        return _load_into_torch(self.folder, "a video as prompt")
