"""A world for play alone: from its folder to running sessions, without PyTorch where that can be.

In: a checkpoint folder. Out: sessions. Where the folder has graphs and no GPU is there, frames are
computed by onnxruntime, which is there at once; else by PyTorch, see `genie.world`.
"""

import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from genie.errors import UserError
from genie.sampling import SamplingConfig
from genie.session import EngineName, Session, Sessions

if TYPE_CHECKING:
    from genie.onnx_engine import Card
    from genie.world import World


@runtime_checkable
class Playable(Protocol):
    """What play asks of a world."""

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
        """Latent actions."""
        ...

    @property
    def fps(self) -> float:
        """At which it looks natural."""
        ...

    @property
    def sampling(self) -> SamplingConfig:
        """Its own way of drawing."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of configs and weights."""
        ...

    @property
    def what_computes(self) -> str:
        """Processor and engine, for people."""
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

    def infer(self, clip: UInt8[np.ndarray, "t h w 3"]) -> Iterable[Any]:
        """The latent actions that lead through a clip."""
        ...


def open_world(folder: Path, engine: EngineName | None = None) -> Playable:
    """A world to play.

    Args:
        folder: of a world.
        engine: None takes the quicker one of those that can.

    Raises:
        UserError: if the folder is no world, or the engine cannot play it.
    """
    if engine == "torch" or (engine is None and _has_gpu()):
        return _whole(folder, "this engine")
    card = _graphs(folder)
    if card:
        return GraphWorld(folder, card)
    if engine:
        raise UserError(
            f"{folder} has no graphs for onnxruntime that fit it: "
            f"python -m train.graphs {folder} makes them"
        )
    return _whole(folder, f"{folder}, which has no graphs that fit it,")


def _has_gpu() -> bool:
    """Whether PyTorch would find one; it is asked only where a driver is."""
    if shutil.which("nvidia-smi") is None or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _graphs(folder: Path) -> "Card | None":
    try:
        from genie.onnx_engine import read_card
    except ImportError:  # there is no onnxruntime for every machine
        return None
    return read_card(folder)


def _whole(folder: Path, what: str) -> "World":
    """Args: what: what needs PyTorch, for the error message."""
    if find_spec("torch") is None:
        raise UserError(
            f"{what} needs PyTorch, which is not installed: make install, or pip install "
            "'.[train]' in a clone"
        )
    from genie import machine
    from genie.world import World

    machine.choose_threads()
    return World.from_pretrained(folder)


class GraphWorld:
    """A world whose frames onnxruntime computes."""

    engine_name: EngineName = "onnxruntime"

    def __init__(self, folder: Path, card: "Card") -> None:
        """Args: card: of the folder's graphs, which vouches for all its files."""
        from genie.onnx_engine import OnnxEngine, num_threads

        self.folder, self.name = folder, folder.resolve().name
        self.num_actions, self.fps, self.sampling = card.num_actions, card.fps, card.sampling
        self.fingerprint = card.fingerprint
        self.what_computes = f"cpu, {num_threads()} threads, onnxruntime"
        self.engine = OnnxEngine(folder, card, lambda prompts: self._whole.read(prompts))
        self.size = self.engine.size

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

    def infer(self, clip: UInt8[np.ndarray, "t h w 3"]) -> Sequence[int]:
        """The latent actions that lead through a clip."""
        return self._whole.infer(clip).tolist()

    @cached_property
    def _whole(self) -> "World":
        """With the nets that read films, for which there are no graphs."""
        return _whole(self.folder, "a video as prompt")
