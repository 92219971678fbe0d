"""A world for play alone: from its folder to running sessions, without PyTorch where that can be.

In: a checkpoint folder. Out: sessions. Where the folder has graphs and no GPU is there, frames are
computed by onnxruntime, which is there at once; else by PyTorch, see `genie.world`.
"""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from genie.configs import config_from_dict
from genie.errors import UserError
from genie.sampling import SamplingConfig
from genie.session import Session, Sessions

if TYPE_CHECKING:
    from genie.onnx_engine import Card
    from genie.world import World

EngineName = Literal["onnxruntime", "torch"]


@runtime_checkable
class Playable(Protocol):
    """What play asks of a world."""

    name: str
    """For people."""
    size: tuple[int, int]
    """Height and width of frames."""
    num_actions: int
    """Latent actions."""
    fps: float
    """At which it looks natural."""
    sampling: SamplingConfig
    """Its own way of drawing."""
    fingerprint: str
    """Of configs and weights."""
    engine_name: EngineName
    """What computes its frames."""
    what_computes: str
    """The same for people, with the processor."""

    def start(
        self,
        prompt: UInt8[np.ndarray, "t h w 3"],
        *,
        seed: int,
        maskgit_steps: int | None,
        temperature: float | None,
    ) -> Session:
        """See `World.start`."""
        ...

    def infer(self, clip: UInt8[np.ndarray, "t h w 3"]) -> Sequence[int]:
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
    if engine == "onnxruntime" or (engine is None and shutil.which("nvidia-smi") is None):
        card = _graphs(folder)
        if card:
            return GraphWorld(folder, card)
        if engine:
            raise UserError(
                f"{folder} has no graphs for onnxruntime that fit it: "
                f"python -m train.graphs {folder} makes them"
            )
    return _whole(folder)


def _graphs(folder: Path) -> "Card | None":
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from genie.onnx_engine import read_card

    return read_card(folder)


def _whole(folder: Path) -> "World":
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

        values = json.loads((folder / "config.json").read_text())
        self.folder, self.name = folder, folder.resolve().name
        self.size = values["tokenizer"]["height"], values["tokenizer"]["width"]
        self.num_actions, self.fps = values["dynamics"]["num_actions"], values["fps"]
        self.sampling = config_from_dict(SamplingConfig, values["sampling"], "config.json")
        self.fingerprint = card.fingerprint
        self.what_computes = f"cpu, {num_threads()} threads, onnxruntime"
        self.engine = OnnxEngine(
            folder,
            card,
            size=self.size,
            num_actions=self.num_actions,
            read_film=lambda prompts: self._whole.read(prompts),
        )

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
        return _whole(self.folder)
