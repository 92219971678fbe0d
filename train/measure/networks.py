"""Figures that need networks whose weights cannot be shipped here: LPIPS, FID and FVD.

In: TorchScript files that the user supplies, and frames. Out: distances. Nothing is downloaded;
without a network there is no figure, and no other network's distance goes by the same name.
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
FVD_SIDE = 224  # what I3D was trained on
FEWEST_FRAMES = 10  # that I3D can take


@dataclass(frozen=True, kw_only=True)
class LpipsStep:
    """Mean LPIPS of rollouts after so many frames; smaller is closer to the truth."""

    generated: float
    copy_last_frame: float


@dataclass(frozen=True, kw_only=True)
class NetworkFigures:
    """Each None without its network; smaller is better."""

    lpips: dict[int, LpipsStep] | None = None
    """By the number of frames since the prompt."""
    fid: float | None = None
    """Of all generated frames against all true ones."""
    fvd: float | None = None
    """Of clips that begin with their prompts."""


@dataclass(frozen=True)
class Supplied:
    """The networks that the user supplied, if any."""

    lpips: torch.jit.ScriptModule | None = None
    """Two batches of frames in -1..1 to a distance each."""
    fvd: torch.jit.ScriptModule | None = None
    """Clips "b 3 t 224 224" in -1..1 to features, called with rescale=False, resize=False and
    return_features=True, as the I3D files in use are."""
    fid: torch.jit.ScriptModule | None = None
    """Stored frames "b 3 h w" to features, called with return_features=True, as the Inception files
    in use are, which resize by themselves."""

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
        """Measure rollouts with every network there is.

        Raises:
            UserError: if a network refuses the frames, or they are too few for it.
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
            films = [torch.cat([prompts[:, None], frames], dim=1) for frames in (generated, future)]
            fvd = _fvd(self.fvd, *films)
        if self.fid is not None:
            fid = _fid(self.fid, generated.flatten(0, 1), future.flatten(0, 1))
        return NetworkFigures(lpips=lpips, fid=fid, fvd=fvd)


Network = Callable[..., Tensor]


def _lpips(
    network: Network, frames: UInt8[Tensor, "b 3 h w"], target: UInt8[Tensor, "b 3 h w"]
) -> float:
    pairs = zip(frames.split(BATCH), target.split(BATCH), strict=True)
    found = [_ask("LPIPS", network, _signed(a), _signed(b)).flatten() for a, b in pairs]
    distances = torch.cat(found)
    if len(distances) != len(frames):
        raise UserError(
            f"the LPIPS network gives {len(distances)} distances of {len(frames)} pairs: one "
            "a pair is wanted"
        )
    return _finite("LPIPS", distances.mean().item())


def _fvd(
    network: Network, clips: UInt8[Tensor, "b t 3 h w"], others: UInt8[Tensor, "b t 3 h w"]
) -> float:
    if clips.shape[1] < FEWEST_FRAMES:
        raise UserError(f"FVD wants {FEWEST_FRAMES} frames or more: give a larger --horizon")
    if len(clips) < 2:
        raise UserError("FVD wants 2 clips or more: give a larger --num-clips")
    features = (_clip_features(network, films) for films in (clips, others))
    return _finite("FVD", metrics.frechet_distance(*features))


def _clip_features(network: Network, clips: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b f"]:
    options = {"rescale": False, "resize": False, "return_features": True}
    found = []
    for part in clips.split(BATCH):
        frames = F.interpolate(_signed(part.flatten(0, 1)), (FVD_SIDE, FVD_SIDE), mode="bilinear")
        batch = rearrange(frames, "(b t) c h w -> b c t h w", b=len(part))
        found.append(_ask("FVD", network, batch, **options))
    return _checked("FVD", torch.cat(found), len(clips))


def _fid(
    network: Network, frames: UInt8[Tensor, "n 3 h w"], others: UInt8[Tensor, "n 3 h w"]
) -> float:
    if len(frames) < 2:
        raise UserError("FID wants 2 frames or more: give a larger --num-clips")
    features = (_frame_features(network, pictures) for pictures in (frames, others))
    return _finite("FID", metrics.frechet_distance(*features))


def _frame_features(network: Network, frames: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
    found = [
        _ask("FID", network, part.to(best_device()), return_features=True)
        for part in frames.split(BATCH)
    ]
    return _checked("FID", torch.cat(found), len(frames))


def _checked(name: str, features: Tensor, count: int) -> Float[Tensor, "n f"]:
    if features.ndim != 2 or len(features) != count:
        raise UserError(
            f"the {name} network gives features of shape {tuple(features.shape)} of {count} "
            "pictures or clips: a row of numbers each is wanted"
        )
    return features


def _finite(name: str, figure: float) -> float:
    if not math.isfinite(figure):
        raise UserError(f"the {name} network gives {figure}: is it whole, and the right one?")
    return figure


def _load(path: Path) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(str(path), map_location=best_device()).eval()
    except (RuntimeError, ValueError, OSError) as error:
        why = str(error).strip().splitlines()[0].split(". ")[0]
        raise UserError(f"cannot read {path} ({why}): give a TorchScript file") from error


def _signed(frames: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    return 2 * to_float(frames.to(best_device())) - 1


def _ask(name: str, network: Network, *inputs: Tensor, **options: bool) -> Tensor:
    try:
        return network(*inputs, **options).float().cpu()
    except (AttributeError, RuntimeError) as error:
        lines = [line for line in str(error).strip().splitlines() if "(Cast error" not in line]
        why = lines[-1] if lines else "its answer is no tensor"
        raise UserError(f"the {name} network does not take these frames ({why})") from error
