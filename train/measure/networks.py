"""Figures that need networks whose weights cannot be included here: LPIPS, FID and FVD.

In: TorchScript files that the user supplies, and frames. Out: distances. Downloads nothing; without
its network a figure is None, and no other network is used in its place.
Source: LPIPS, Zhang et al. 2018 (arXiv:1801.03924); FID, Heusel et al. 2017 (arXiv:1706.08500);
FVD, Unterthiner et al. 2018 (arXiv:1812.01717).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from genie.errors import UserError
from genie.frames import to_float
from genie.machine import best_device
from train.measure import metrics

BATCH = 16
FVD_SIDE = 224  # pixels; I3D was trained at this size
FEWEST_FRAMES = 10  # in a clip, for I3D


@dataclass(frozen=True, kw_only=True)
class LpipsStep:
    """Mean LPIPS of rollouts a given number of frames after the prompt; smaller is better."""

    generated: float
    copy_last_frame: float


@dataclass(frozen=True, kw_only=True)
class NetworkFigures:
    """Figures of the supplied networks, None for the others; smaller is better."""

    lpips: dict[int, LpipsStep] | None = None
    """By the number of frames since the prompt."""
    fid: float | None = None
    """All generated frames against all true ones."""
    fvd: float | None = None
    """Generated clips against true ones; both begin with the prompts."""


@dataclass(frozen=True)
class Supplied:
    """The networks that the user supplied, if any."""

    lpips: torch.jit.ScriptModule | None = None
    """Maps two batches of frames in -1..1 to one distance per pair."""
    fvd: torch.jit.ScriptModule | None = None
    """Maps clips "b 3 t 224 224" in -1..1 to features. Called with rescale=False, resize=False and
    return_features=True, as the common I3D files expect."""
    fid: torch.jit.ScriptModule | None = None
    """Maps uint8 frames "b 3 h w" to features. Called with return_features=True, as the common
    Inception files expect, which resize frames themselves."""

    @classmethod
    def open(cls, lpips: Path | None, fvd: Path | None, fid: Path | None = None) -> "Supplied":
        """Read the files.

        Raises:
            UserError: if one cannot be read.
        """
        return cls(*(None if path is None else _load(path) for path in (lpips, fvd, fid)))

    @torch.no_grad()
    def figures(
        self,
        generated: UInt8[Tensor, "b s 3 h w"],
        future: UInt8[Tensor, "b s 3 h w"],
        prompts: UInt8[Tensor, "b 3 h w"],
    ) -> NetworkFigures:
        """Measure rollouts with every supplied network.

        Raises:
            UserError: if a network does not accept the frames, returns something unexpected, or
                needs more frames.
        """
        lpips, fid, fvd = None, None, None
        if self.lpips is not None:
            lpips = {
                step + 1: LpipsStep(
                    generated=_lpips(self.lpips, generated[:, step], future[:, step]),
                    copy_last_frame=_lpips(self.lpips, prompts, future[:, step]),
                )
                for step in range(future.shape[1])
            }
        if self.fvd is not None:
            clips = [torch.cat([prompts[:, None], frames], dim=1) for frames in (generated, future)]
            fvd = _fvd(self.fvd, *clips)
        if self.fid is not None:
            fid = _fid(self.fid, generated.flatten(0, 1), future.flatten(0, 1))
        return NetworkFigures(lpips=lpips, fid=fid, fvd=fvd)


Network = Callable[..., Tensor]


def _lpips(
    network: Network, frames: UInt8[Tensor, "b 3 h w"], target: UInt8[Tensor, "b 3 h w"]
) -> float:
    pairs = zip(frames.split(BATCH), target.split(BATCH), strict=True)
    found = [_call("LPIPS", network, _signed(a), _signed(b)).flatten() for a, b in pairs]
    distances = torch.cat(found)
    if len(distances) != len(frames):
        raise UserError(
            f"the LPIPS network gives {len(distances)} distances of {len(frames)} pairs: supply "
            "one that gives one distance per pair"
        )
    return _finite("LPIPS", distances.mean().item())


def _fvd(
    network: Network, clips: UInt8[Tensor, "b t 3 h w"], others: UInt8[Tensor, "b t 3 h w"]
) -> float:
    if clips.shape[1] < FEWEST_FRAMES:
        raise UserError(f"FVD needs {FEWEST_FRAMES} frames or more: give a larger --horizon")
    if len(clips) < 2:
        raise UserError("FVD needs 2 clips or more: give a larger --num-clips")
    features = (_clip_features(network, each) for each in (clips, others))
    return _finite("FVD", metrics.frechet_distance(*features))


def _clip_features(network: Network, clips: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b f"]:
    options = {"rescale": False, "resize": False, "return_features": True}
    found = []
    for part in clips.split(BATCH):
        frames = F.interpolate(_signed(part.flatten(0, 1)), (FVD_SIDE, FVD_SIDE), mode="bilinear")
        batch = rearrange(frames, "(b t) c h w -> b c t h w", b=len(part))
        found.append(_call("FVD", network, batch, **options))
    return _checked("FVD", torch.cat(found), len(clips))


def _fid(
    network: Network, frames: UInt8[Tensor, "n 3 h w"], others: UInt8[Tensor, "n 3 h w"]
) -> float:
    if len(frames) < 2:
        raise UserError("FID needs 2 frames or more: give a larger --num-clips")
    features = (_frame_features(network, pictures) for pictures in (frames, others))
    return _finite("FID", metrics.frechet_distance(*features))


def _frame_features(network: Network, frames: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
    found = [
        _call("FID", network, part.to(best_device()), return_features=True)
        for part in frames.split(BATCH)
    ]
    return _checked("FID", torch.cat(found), len(frames))


def _checked(name: str, features: Tensor, count: int) -> Float[Tensor, "n f"]:
    if features.ndim != 2 or len(features) != count:
        raise UserError(
            f"the {name} network gives features of shape {tuple(features.shape)} for {count} "
            "frames or clips: supply one that gives a row of numbers for each"
        )
    return features


def _finite(name: str, figure: float) -> float:
    if not math.isfinite(figure):
        raise UserError(f"the {name} network gives {figure}: check that its file is the right one")
    return figure


def _load(path: Path) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(str(path), map_location=best_device()).eval()
    except (RuntimeError, ValueError, OSError) as error:
        why = str(error).strip().splitlines()[0].split(". ")[0]
        raise UserError(f"cannot read {path} ({why}): give a TorchScript file") from error


def _signed(frames: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    return 2 * to_float(frames.to(best_device())) - 1


def _call(name: str, network: Network, *inputs: Tensor, **options: bool) -> Tensor:
    try:
        return network(*inputs, **options).float().cpu()
    except (AttributeError, RuntimeError) as error:
        lines = [line for line in str(error).strip().splitlines() if "(Cast error" not in line]
        why = lines[-1] if lines else "its result is not a tensor"
        raise UserError(f"the {name} network does not take these frames ({why})") from error
