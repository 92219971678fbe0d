"""Which number format nets compute in on this machine. Weights stay float32.

In: a device. Out: an autocast context. Knows no nets.
"""

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device's matrix units compute in bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return False


def autocast(device: torch.device) -> torch.autocast:
    """bf16 where the device computes it quickly, else float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device))
