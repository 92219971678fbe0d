"""The one place that turns pictures (of files and screens) into frames (of nets) and back.

In: pictures, numpy uint8 (h, w, 3), or frames, 0..255 or 0..1. Out: the other.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_float(frames: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0..255 to 0..1."""
    return frames.float() / 255


def to_uint8(frames: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """0..1 (clamped) to 0..255, the inverse of `to_float`."""
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_pictures(frames: UInt8[Tensor, "*t 3 h w"]) -> UInt8[np.ndarray, "*t h w 3"]:
    """One frame or several as pictures."""
    return frames.movedim(-3, -1).contiguous().cpu().numpy()


def from_pictures(pictures: UInt8[np.ndarray, "*t h w 3"]) -> UInt8[Tensor, "*t 3 h w"]:
    """One picture or several as frames, always a copy; the inverse of `to_pictures`."""
    return torch.from_numpy(pictures.copy()).movedim(-1, -3).contiguous()
