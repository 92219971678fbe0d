"""A world's frame as ONNX graphs, for engines other than PyTorch.

In: a world. Out: one file for each function of `genie.frame`. The files hold no weights: an engine
supplies those by their names in the world's state dict.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import onnx
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from genie.dynamics import Dynamics
from genie.errors import UserError, in_one_line
from genie.files import whole, write_whole, writing
from genie.frame import Foretell, LookBack, Read, Reveal, Show
from genie.onnx_engine import CARD, FORMAT_VERSION, Card, digests
from genie.prior import NUM_FRAMES, ActionPrior
from genie.ring import Past, Ring
from genie.sampling import Pace, SamplingConfig
from genie.tokenizer import FrameDecoder, Tokenizer

OPSET = 20
WEIGHTS = "weights"
"""The file that graphs name as the place of their weights; it does not exist."""
BATCH = torch.export.Dim("b", min=1)


@runtime_checkable
class Nets(Protocol):
    """What `export` needs of a `World`."""

    tokenizer: Tokenizer
    dynamics: Dynamics
    prior: ActionPrior | None

    @property
    def fingerprint(self) -> str:
        """Hash of configs and weights."""
        ...

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
        """Frames per second."""
        ...

    @property
    def sampling(self) -> SamplingConfig:
        """How new frames are drawn."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Weights by name."""
        ...


def export(world: Nets, folder: Path) -> None:
    """Write the graphs of a world and, last, the card that lists its files.

    Args:
        world: on the CPU in float32, as it was loaded from the folder.
        folder: the world's folder, with its config and weights.

    Raises:
        UserError: if they cannot be written.
    """
    known, wanted = set(world.state_dict()), {}
    with writing(folder):
        (folder / CARD).unlink(missing_ok=True)
        for name, (net, inputs, names) in _functions(world).items():
            graph = _trace(net.eval(), inputs, names)
            wanted[name] = _leave_weights_out(graph, known)
            with whole(folder / f"{name}.onnx") as path:
                path.write_bytes(graph.SerializeToString(deterministic=True))
        card = Card(
            version=FORMAT_VERSION,
            fingerprint=world.fingerprint,
            size=world.size,
            num_actions=world.num_actions,
            mask_id=world.dynamics.mask_id,
            fps=world.fps,
            sampling=world.sampling,
            files=digests(folder),
            weights=wanted,
        )
        write_whole(folder / CARD, json.dumps(asdict(card), indent=1) + "\n")


def _functions(
    world: Nets,
) -> dict[str, tuple[nn.Module, tuple[Any, ...], list[str]]]:
    """By name: the function, example inputs (two worlds) to trace it with, the inputs' names."""
    config = world.dynamics.config
    shape, pixels = (2, config.num_tokens), world.tokenizer.config
    tokens, action = torch.zeros(shape, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    unled = torch.zeros(*shape, world.dynamics.num_logits)
    noise = torch.zeros(2, 2, config.num_tokens)
    pace = Pace(torch.tensor(1), *(torch.tensor(float(number)) for number in range(1, 5)))
    past = world.dynamics.transformer.new_ring(*shape)
    shown = world.tokenizer.decoder.new_ring(*shape)
    look_back = LookBack(world.dynamics, foresees=world.sampling.guidance != 1)
    functions: dict[str, tuple[nn.Module, tuple[Any, ...], list[str]]] = {}
    if world.prior:
        frames = torch.zeros(2, NUM_FRAMES, 3, pixels.height, pixels.width, dtype=torch.uint8)
        functions["foretell"] = (Foretell(world.prior), (frames,), ["frames"])
    reveal_names = ["tokens", "actions", "unled", "noise", *Pace._fields, *Past._fields]
    return functions | {
        "look_back": (
            look_back,
            (tokens, action, _past(past, look_back.num_next)),
            ["tokens", "led_by", *Past._fields],
        ),
        "reveal": (
            Reveal(world.dynamics),
            (tokens.clone(), action.clone(), unled, noise, pace, _past(past, 1)),
            reveal_names,
        ),
        "read": (
            Read(world.tokenizer),
            (torch.zeros(2, 3, pixels.height, pixels.width, dtype=torch.uint8),),
            ["frames"],
        ),
        "show": (
            Show(FrameDecoder(world.tokenizer)),
            (tokens.clone(), _past(shown, 1)),
            ["tokens", *Past._fields],
        ),
    }


def _past(ring: Ring, num_next: int) -> Past:
    """Copies, since the exporter would merge a tensor that is given twice into one input."""
    return Past(*(array.clone() for array in ring.past(num_next)))


def _trace(net: nn.Module, inputs: tuple[Any, ...], names: list[str]) -> onnx.ModelProto:
    with _quiet(), torch.no_grad(), _errors_in_one_line(net):
        program: Any = torch.onnx.export(
            net,
            inputs,
            input_names=names,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tree_map(_batch_axis, inputs),
            optimize=False,
            verbose=False,
        )
    return program.model_proto


def _batch_axis(tensor: Tensor) -> dict[int, Any]:
    """Axis 0, or 1 for keys and values, where blocks come first; a scalar has none."""
    if not tensor.ndim:
        return {}
    return {1 if tensor.ndim == 6 else 0: BATCH}


def _leave_weights_out(graph: onnx.ModelProto, known: set[str]) -> list[str]:
    """Side effect: weights of the world get their names in the world and lose their data.

    Returns:
        These names.
    """
    renamed = {}
    for weight in graph.graph.initializer:
        name = weight.name.removeprefix("decoder.")
        if name in known:
            renamed[weight.name] = weight.name = name
            weight.ClearField("raw_data")
            weight.data_location = onnx.TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=WEIGHTS)
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.graph.value_info[:]
    return sorted(renamed.values())


@contextlib.contextmanager
def _errors_in_one_line(net: nn.Module) -> Iterator[None]:
    """Turn any error of the exporter into a `UserError` of one line."""
    try:
        yield
    except Exception as error:  # it has many, and passes on those of its libraries
        name, why = type(net).__name__, in_one_line(error)[:200]
        raise UserError(f"cannot export {name} of this world as an ONNX graph: {why}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, whose messages do not concern our graphs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
