"""What the nets report while they learn: pure functions of tensors.

Frames come in as floats in 0..1 (`frames.to_float`), codes as 0-based ids.
"""

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

Metrics = dict[str, Tensor | float]
"""What a net's training step reports besides its loss."""

PSNR_CEILING = 60.0
"""In dB, of identical frames, whose PSNR is infinite and would make every mean infinite."""


def psnr(
    frames: Float[Tensor, "*b 3 h w"], target: Float[Tensor, "*b 3 h w"]
) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio of each frame in dB, at most `PSNR_CEILING`."""
    return decibels(squared_error(frames, target))


def squared_error(
    frames: Float[Tensor, "*b 3 h w"], target: Float[Tensor, "*b 3 h w"]
) -> Float[Tensor, "*b"]:
    """Mean squared error of each frame, in squared units of the 0..1 range."""
    return reduce((frames - target).square(), "... c h w -> ...", "mean")


def decibels(error: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Turn mean squared errors into PSNR in dB. Averaging the errors first pools the frames."""
    return -10 * error.clamp(min=10 ** (-PSNR_CEILING / 10)).log10()


def code_use(codes: Int[Tensor, "*b"], num_codes: int) -> dict[str, Float[Tensor, ""]]:
    """How many of the codes 0..num_codes-1 occur, as the nets log it while they learn.

    Does not wait for a GPU. `usage`: share of the codes that occur at least once, 0..1.
    `perplexity`: effective number in use, from 1 up: the exponential of their entropy.
    """
    codes = codes.flatten()
    counts = torch.zeros(num_codes, device=codes.device)
    counts.scatter_add_(0, codes, torch.ones_like(codes, dtype=counts.dtype))
    entropy = torch.special.entr(counts / counts.sum()).sum()
    return {"usage": (counts > 0).float().mean(), "perplexity": entropy.exp()}
