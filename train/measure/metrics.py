"""Figures of finished worlds: pure functions of tensors, without state, files or models.

In: frames as floats in 0..1 (`frames.to_float` converts stored ones), actions as 0-based ids. Out:
numbers.
Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 4, for `delta_psnr`; SSIM after
Wang et al. 2004.
Sets no thresholds, and uses no network whose weights would have to be downloaded.
"""

import torch
import torch.nn.functional as F
from einops import pack, rearrange, reduce, unpack
from jaxtyping import Float, Int
from torch import Tensor

from genie.metrics import psnr


def delta_psnr(
    target: Float[Tensor, "*b 3 h w"],
    inferred: Float[Tensor, "*b 3 h w"],
    drawn: Float[Tensor, "*b 3 h w"],
) -> Float[Tensor, "*b"]:
    """Controllability of each frame in dB, the paper's delta-t PSNR.

    How much closer to the truth rollouts are under the actions inferred from the true video
    (`inferred`) than under actions drawn at random (`drawn`). Zero if actions have no effect.
    """
    return psnr(inferred, target) - psnr(drawn, target)


def ssim(
    frames: Float[Tensor, "*b 3 h w"], target: Float[Tensor, "*b 3 h w"]
) -> Float[Tensor, "*b"]:
    """Structural similarity of each frame, -1..1, averaged over channels and positions.

    Gaussian window of 11x11 pixels with standard deviation 1.5, K1 = 0.01, K2 = 0.03, only where
    the window fits. If a side is below 11 pixels, the window is as wide as the shorter side.
    """
    images, shape = pack([frames], "* c h w")
    others, _ = pack([target], "* c h w")
    mean_a, mean_b = _blur(images), _blur(others)
    variance_a = _blur(images * images) - mean_a * mean_a
    variance_b = _blur(others * others) - mean_b * mean_b
    covariance = _blur(images * others) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return unpack(reduce(similarity, "b c h w -> b", "mean"), shape, "*")[0]


def _blur(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
    """Gaussian mean around every position at which the window fits."""
    height, width = images.shape[-2:]
    side = min(11, height, width)
    offsets = torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2
    weights = torch.softmax(-(offsets**2) / (2 * 1.5**2), dim=0)
    # As products with two band matrices: a convolution is ten times slower on a CPU.
    down, across = (
        torch.stack([F.pad(weights, (k, size - side - k)) for k in range(size - side + 1)])
        for size in (height, width)
    )
    return down @ images @ across.T


def scroll(
    before: Float[Tensor, "b 3 h w"], after: Float[Tensor, "b 3 h w"], max_shift: int = 24
) -> Int[Tensor, "b 2"]:
    """Motion of the view from one frame to the next in whole pixels, as (dx, dy).

    Positive dx: the view moved right (the picture's content moved left). Positive dy: the view
    moved up (the content moved down). Of all shifts of up to `max_shift` pixels, at most half the
    frame, on each axis, the one wins at which the overlapping parts have the most information in
    common: the overlap times the mutual information of two Gaussians with the parts' correlation.
    So neither a flat corner (correlation 0) nor a chance match of a small part wins. Among equally
    good shifts, as in flat or periodic pictures, the smallest wins.
    """
    height, width = before.shape[-2:]
    up, right = (min(max_shift, side // 2) for side in (height, width))
    overlap, correlation = _overlaps(before, after, up, right)
    information = -overlap * torch.log1p(-(correlation.clamp(0, 0.9999) ** 2))
    dy = torch.arange(-up, up + 1, device=before.device)
    dx = torch.arange(-right, right + 1, device=before.device)
    # Prefer small shifts, by much less than a real match gains, but by more than rounding errors.
    information = information - 0.1 * (dy[:, None] ** 2 + dx**2).sqrt()
    best = rearrange(information, "b y x -> b (y x)").argmax(dim=1)
    return torch.stack([dx[best % len(dx)], dy[best // len(dx)]], dim=1)


def _overlaps(
    before: Float[Tensor, "b 3 h w"], after: Float[Tensor, "b 3 h w"], up: int, right: int
) -> tuple[Float[Tensor, "1 y x"], Float[Tensor, "b y x"]]:
    """Number of pixels in the overlap, and their correlation, for every motion (dy, dx)."""
    ones = torch.ones_like(before[:1, :1])
    overlap = _slide(ones, ones, up, right).round()
    middle = reduce(before, "b c h w -> b c 1 1", "mean")
    before, after = before - middle, after - middle  # keeps float32 sums exact enough
    mean_a = _slide(before, ones, up, right) / overlap
    mean_b = _slide(ones, after, up, right) / overlap
    variance_a = _slide(before**2, ones, up, right) / overlap - mean_a**2
    variance_b = _slide(ones, after**2, up, right) / overlap - mean_b**2
    covariance = _slide(before, after, up, right) / overlap - mean_a * mean_b
    # Assume noise of 1/100 of the range, so that flat parts are uncorrelated.
    spread_a, spread_b = (
        reduce(variance.clamp(min=0) + 0.01**2, "b c y x -> b y x", "sum")
        for variance in (variance_a, variance_b)
    )
    shared = reduce(covariance, "b c y x -> b y x", "sum")
    return overlap[:, 0], shared / (spread_a * spread_b).sqrt()


def _slide(
    a: Float[Tensor, "#b #c h w"], b: Float[Tensor, "#b #c h w"], up: int, right: int
) -> Float[Tensor, "#b #c y x"]:
    """Sum of a times b over their overlap, for every motion of the view from a to b.

    By Fourier transform; zero padding keeps the frames from overlapping around the edges.
    """
    size = (a.shape[-2] + up, a.shape[-1] + right)
    spectrum = torch.fft.rfft2(a, s=size).conj() * torch.fft.rfft2(b, s=size)
    sums = torch.fft.irfft2(spectrum, s=size).roll((up, right), dims=(-2, -1))
    # Content that moves right is a view that moves left, hence the flip of x.
    return sums[..., : 2 * up + 1, : 2 * right + 1].flip(-1)


def eta_squared(values: Float[Tensor, " n"], groups: Int[Tensor, " n"]) -> float:
    """Share of the variance of `values` that their group explains, 0..1.

    0 if all values are equal. By chance alone it is about (groups - 1) / (values - 1).
    """
    values = values.double()
    _, group = groups.unique(return_inverse=True)
    sizes = torch.bincount(group)
    means = torch.bincount(group, weights=values) / sizes
    between = (sizes * (means - values.mean()) ** 2).sum()
    total = ((values - values.mean()) ** 2).sum()
    return (between / total).item() if total > 0 else 0.0


def sharpness(frames: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b"]:
    """How much neighbouring pixels of each frame differ: the mean absolute difference, 0..1."""
    across = (frames[..., 1:] - frames[..., :-1]).abs()
    down = (frames[..., 1:, :] - frames[..., :-1, :]).abs()
    return (
        reduce(across, "... c h w -> ...", "mean") + reduce(down, "... c h w -> ...", "mean")
    ) / 2


def frechet_distance(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """Squared Fréchet distance of two sets of features, taken for Gaussians; 0 if they are alike.

    The squared distance of the means plus a term for the covariances (Dowson and Landau 1982). It
    is too large for few samples: compare it with the distance of two real sets. Needs two samples
    or more of each.
    """
    a, b = a.double(), b.double()
    root = _square_root(a.T.cov())
    shared = _square_root(root @ b.T.cov() @ root).trace()
    spread = a.var(dim=0).sum() + b.var(dim=0).sum() - 2 * shared
    return ((a.mean(dim=0) - b.mean(dim=0)).square().sum() + spread).clamp(min=0).item()


def _square_root(matrix: Float[Tensor, "f f"]) -> Float[Tensor, "f f"]:
    """The symmetric root of a symmetric matrix; negative eigenvalues count as rounding errors."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
