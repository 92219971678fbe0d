"""What this machine computes with: the device, the number format, the threads.

In: a device. Out: the choices for it, and a line that describes them. Knows no nets.
"""

import os
import shutil
import sys

import torch

from genie.errors import UserError

MOST_THREADS = 8
"""For play: one frame has too few tokens to keep more cores busy."""


def best_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device's matrix units compute in bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return False


def quick_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes it quickly, else float32."""
    return torch.bfloat16 if has_fast_bf16(device) else torch.float32


def autocast(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """Matrix products in `quick_dtype` if `enabled`; the weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and has_fast_bf16(device))


def allow_quick_float32(device: torch.device) -> None:
    """Side effect: on a GPU, float32 matrix products may be computed in TF32.

    All programs that compile must call this: torch.compile's cache depends on the setting.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def choose_threads() -> None:
    """Side effect: at most `MOST_THREADS` CPU threads, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > MOST_THREADS:
        torch.set_num_threads(MOST_THREADS)


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs for this device."""
    return device.type != "cpu" or shutil.which(_compiler()) is not None


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where it cannot be done.

    Raises:
        UserError: if the device is a CPU and there is no C++ compiler.
    """
    if not has_compiler(device):
        compiler = _compiler()
        raise UserError(f"compiling needs a C++ compiler, and there is no {compiler}: install one")


def describe(device: torch.device) -> str:
    """The device in words, such as "cpu, 2 threads, bfloat16"."""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}{threads}, {str(quick_dtype(device)).removeprefix('torch.')}"


def _compiler() -> str:
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return os.environ.get("CXX", usual)
