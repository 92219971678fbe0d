"""Weights on disk: safetensors, strict on the way in, whole on the way out.

In: nets. Out: files, and the same again. Knows no particular net.
"""

import glob
import hashlib
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from genie.errors import UserError
from genie.files import whole, writing

MOST_BYTES = 15 * 2**20  # of a file of weights: code hosts take no large ones


def save_weights(net: nn.Module, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a net's weights, in several numbered files where one would be too large to share.

    Each file appears whole or not at all; those of before are removed.

    Args:
        path: such as net.safetensors; several are net-00001-of-00002.safetensors and so on.
        dtype: what floats are rounded to; None keeps them as they are.

    Raises:
        UserError: if one cannot be written.
    """
    state = {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        for name, tensor in net.state_dict().items()
    }
    divided = split_torch_state_dict_into_shards(
        state, filename_pattern=f"{path.stem}{{suffix}}{path.suffix}", max_shard_size=MOST_BYTES
    )
    remove_weights(path)
    for file, names in divided.filename_to_tensors.items():
        save_tensors({name: state[name] for name in names}, path.with_name(file))


def remove_weights(path: Path) -> None:
    """Side effect: the file that `save_weights` wrote there, or the files, are gone."""
    for old in (path, *_numbered(path)):
        old.unlink(missing_ok=True)


def _numbered(path: Path) -> list[Path]:
    five = "[0-9]" * 5
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}-{five}-of-{five}{path.suffix}"))


def weight_files(path: Path) -> list[Path]:
    """The file, or the numbered files, that `save_weights` wrote.

    Raises:
        UserError: if it, or one of them, is missing.
    """
    if path.is_file():
        return [path]
    files = _numbered(path)
    count = int(files[0].stem.rsplit("-", 1)[1]) if files else 1
    if not files or len(files) != count:
        lacking = f"{count - len(files)} of {count} files {path.stem}-*{path.suffix} are missing"
        what = f"{path} is missing" if not files else f"{path.parent}: {lacking}"
        raise UserError(f"{what}: the world is incomplete; copy the file or train again")
    return files


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors into one file, which appears whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(path), whole(path) as partial:
        partial.write_bytes(save(state))


def fingerprint_weights(path: Path) -> str:
    """Hash of the content of a net's file, or files.

    Raises:
        UserError: if one is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for part in weight_files(path):
            digest.update(part.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def load_weights(net: nn.Module, path: Path) -> None:
    """Read a net's weights, strictly, into the number format that the net has.

    Args:
        path: as `save_weights` has it.

    Raises:
        UserError: if a file is missing or broken, or a tensor is missing, unknown or misshapen.
    """
    state: dict[str, torch.Tensor] = {}
    for part in weight_files(path):
        try:
            state |= load_file(str(part))
        except SafetensorError as error:
            raise UserError(f"{part} is broken ({error}): copy the file again") from error
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
