"""Configs and weights on disk: JSON and safetensors, strict on the way in, whole on the way out.

In: frozen dataclasses and nets. Out: files, and the same again. Knows no particular net.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from genie.errors import UserError


def config_from_dict(kind: Any, values: dict[str, Any], where: str) -> Any:
    """A config dataclass from its JSON form; every field must be there and none besides.

    Raises:
        UserError: naming the file and the field that disagrees.
    """
    kind = _closest(kind, values)
    known = {f.name for f in fields(kind)}
    for name in sorted(known ^ set(values)):
        what = "misses" if name in known else "has an unknown"
        raise UserError(f"{where} {what} field {name!r}: it does not fit this program's version")
    hints = get_type_hints(kind)
    made = {}
    for name, value in values.items():
        if isinstance(value, dict):
            value = config_from_dict(hints[name], value, where=f"{where}: {name}")
        made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def _closest(kind: Any, values: dict[str, Any]) -> type:
    """Of a union of dataclasses the one that shares most fields with `values`."""
    options = get_args(kind) or (kind,)
    return max(options, key=lambda option: len({f.name for f in fields(option)} & values.keys()))


def save_weights(net: nn.Module, path: Path) -> None:
    """Write a net's weights; the file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    try:
        save_file(state, str(partial))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_weights(net: nn.Module, path: Path) -> None:
    """Read a net's weights, strictly.

    Raises:
        UserError: if the file is missing or broken, or a tensor is missing, unknown or misshapen.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: the world is incomplete; copy the file or train again")
    try:
        state = load_file(str(path))
    except SafetensorError as error:
        raise UserError(f"{path} is broken ({error}): copy the file again") from error
    wanted = net.state_dict()
    for name in sorted(wanted.keys() ^ state.keys()):
        what = "misses" if name in wanted else "has an unknown"
        raise UserError(f"{path} {what} tensor {name}: it does not belong to this config.json")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"{path}: {name} is {tuple(tensor.shape)}, config.json says "
                f"{tuple(wanted[name].shape)}: the two files belong to different worlds"
            )
    net.load_state_dict(state)
