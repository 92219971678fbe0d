"""Configs and weights on disk: JSON and safetensors, strict on the way in, whole on the way out.

In: frozen dataclasses and nets. Out: files, and the same again. Knows no particular net.
"""

import hashlib
import os
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from genie.errors import UserError


def config_from_dict(kind: Any, values: Any, where: str) -> Any:
    """A config dataclass from its JSON form; every field must be there and none besides.

    Raises:
        UserError: naming the file and the field that disagrees.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r}, fields in braces are wanted: restore the file")
    kind = _closest(kind, values)
    known = {f.name for f in fields(kind)}
    for name in sorted(known ^ set(values)):
        what = "misses" if name in known else "has an unknown"
        raise UserError(f"{where} {what} field {name!r}: it does not fit this program's version")
    hints = get_type_hints(kind)
    return kind(**{k: _from_json(hints[k], v, f"{where}: {k}") for k, v in values.items()})


def _from_json(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]) and isinstance(value, list):
        return tuple(_from_json(get_args(kind)[0], item, where) for item in value)
    if any(is_dataclass(option) for option in get_args(kind) or (kind,)):
        return config_from_dict(kind, value, where)
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(kind, value):
        raise UserError(f"{where} is {value!r}, {kind} is wanted: restore the file")
    return float(value) if kind is float else value


def _fits(kind: Any, value: Any) -> bool:
    """Whether a plain value can stand in a field of this type; whole numbers pass for floats."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(get_args(kind)[0], item) for item in value)
    allowed = (int, float) if kind is float else get_origin(kind) or kind
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))


def _closest(kind: Any, values: dict[str, Any]) -> type:
    """Of a union of dataclasses the one that shares most fields with `values`."""
    options = get_args(kind) or (kind,)
    return max(options, key=lambda option: len({f.name for f in fields(option)} & values.keys()))


def check_folder(folder: str | Path) -> Path:
    """`folder` if files can be written into it, before any work is done for them.

    Raises:
        UserError: if it cannot be made or written.
    """
    folder = Path(folder)
    made = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not made.is_dir():
        raise UserError(f"cannot write {folder}: {made} is not a folder; choose another place")
    try:  # rights alone do not tell: the disk may be read-only or no disk at all
        tempfile.TemporaryFile(dir=made).close()
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write {folder}: {why}; choose another place") from error
    return folder


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def save_weights(net: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a net's weights; the file appears whole or not at all.

    Args:
        dtype: what floats are rounded to; None keeps them as they are.
    """
    save_tensors(net.state_dict(), path, dtype)


def save_tensors(
    tensors: dict[str, torch.Tensor], path: Path, dtype: torch.dtype | None = None
) -> None:
    """As `save_weights`, of the tensors of a net."""
    partial = path.with_name(f".{path.name}.partial")
    state = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in tensors.items()
    }
    try:
        partial.write_bytes(save(state))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def fingerprint_file(path: Path) -> str:
    """Hash of a file's content.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def load_weights(net: nn.Module, path: Path) -> None:
    """Read a net's weights, strictly, into the number format that the net has.

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
