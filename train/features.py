"""A small network whose features tell how alike two sets of frames look.

    python -m train.features DATA --out train/features.safetensors

In: a prepared folder of many games. Out: weights. Learnt without labels: of two neighbouring
frames, each shifted, it finds the pair again among frames of the same videos and of others, and
tells it from spoilt copies (blurred, noisy, coarse, put together wrongly), which is what generated
frames are like where they fail. The weights beside this file were made once and are the same for
every world, so that worlds can be compared: by this command, from 1,600 frames each of Procgen's
sixteen games, easy and hard, and of plain CoinRun (`record_game.py --seed 5 --num-envs 16`).
What is measured with them is never called FID or FVD, whose networks are others.
Source: contrastive learning as in SimCLR (Chen et al. 2020, arXiv:2002.05709), equation 1; pairs
are neighbours in time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from genie import video
from genie.checkpoint import load_weights, save_tensors
from genie.data import FrameStore
from genie.errors import UserError
from genie.machine import autocast
from train.stage import one_line_errors

WEIGHTS = Path(__file__).with_suffix(".safetensors")
SIDE = 64  # frames of another size are resized to this
WIDTH = 64  # numbers that a frame becomes
NEAR = 3  # frames apart, at most, are the two of a pair
MOST_SHIFT = 6
TEMPERATURE = 0.1
SCENES, WINDOWS = 24, 4  # in a batch: scenes, and pairs of each


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Train the network; done once for the project."""

    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare, with videos of many games."""
    out: Path = WEIGHTS
    """Where the weights go."""
    num_steps: int = 2500
    """Optimiser steps."""
    seed: int = 0
    """Of weights and draws."""


class Features(nn.Module):
    """Frames to `WIDTH` numbers each."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, WIDTH)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 4, stride=2, padding=1), nn.GroupNorm(8, b), nn.GELU()
                )
                for a, b in pairwise(widths)
            )
        )
        self.compare = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """The mean over places of the last layer."""
        if frames.shape[-2:] != (SIDE, SIDE):
            frames = F.interpolate(frames, (SIDE, SIDE), mode="area")
        return self.layers(frames - 0.5).mean(dim=(-2, -1))

    def loss(self, pairs: Float[Tensor, "b 2 3 h w"]) -> Float[Tensor, ""]:
        """How hard it is to find the other one of each pair among all, spoilt ones included."""
        a, b = pairs.unbind(1)
        views = torch.cat([a, b, _spoilt(a)])
        found, wanted, wrong = F.normalize(self.compare(self(views)), dim=1).chunk(3)
        target = torch.arange(len(found))
        forth = found @ torch.cat([wanted, wrong]).T / TEMPERATURE
        back = wanted @ torch.cat([found, wrong]).T / TEMPERATURE
        return (F.cross_entropy(forth, target) + F.cross_entropy(back, target)) / 2


@cache
def load_features() -> Features:
    """The network that the project's figures are measured with.

    Raises:
        UserError: if its weights are missing or damaged.
    """
    net = Features()
    load_weights(net, WEIGHTS)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def features_of(frames: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
    """Features of stored frames."""
    net = load_features()
    return torch.cat([net(video.to_float(part)) for part in frames.split(256)])


def main(config: FeaturesConfig) -> None:
    """Train, and write the weights in half precision.

    Raises:
        UserError: if the folder has too few videos, or the file cannot be written.
    """
    net = fit(FrameStore.open(config.data, "train"), config.num_steps, config.seed)
    save_tensors({name: tensor.half() for name, tensor in net.state_dict().items()}, config.out)


def fit(store: FrameStore, num_steps: int, seed: int) -> Features:
    """Train on pairs of all scenes alike."""
    torch.manual_seed(seed)
    net = Features()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, num_steps)
    steps = zip(_pairs(store, seed), range(num_steps), strict=False)
    for pairs, _ in (bar := tqdm(steps, "features", total=num_steps, mininterval=10)):
        with autocast(torch.device("cpu")):
            loss = net.loss(pairs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix_str(f"loss={loss.item():.3f}", refresh=False)
    return net


def _pairs(store: FrameStore, seed: int) -> Iterator[Float[Tensor, "b 2 3 h w"]]:
    """Neighbouring frames, a few pairs of a scene and far enough apart not to be one another's."""
    rng = np.random.default_rng(seed)
    edges = list(pairwise(store.scene_starts.tolist()))
    edges = [(start, end) for start, end in edges if end - start >= WINDOWS * (NEAR + 1)]
    if len(edges) < SCENES:
        raise UserError(f"{SCENES} scenes of {WINDOWS * (NEAR + 1)} frames are wanted: record more")
    while True:
        pairs = []
        for index in rng.choice(len(edges), SCENES, replace=False):
            start, end = edges[int(index)]
            for window in rng.choice((end - start) // (NEAR + 1), WINDOWS, replace=False).tolist():
                frames = store.read(start + window * (NEAR + 1), start + (window + 1) * (NEAR + 1))
                pair = frames[torch.from_numpy(rng.choice(NEAR + 1, 2))]
                pairs.append(torch.stack([_shifted(frame, rng) for frame in pair]))
        yield torch.stack(pairs)


def _shifted(frame: UInt8[Tensor, "3 h w"], rng: np.random.Generator) -> Float[Tensor, "3 h w"]:
    top, left = rng.integers(0, 2 * MOST_SHIFT, 2, endpoint=True).tolist()
    padded = F.pad(video.to_float(frame)[None], (MOST_SHIFT,) * 4, mode="replicate")[0]
    return padded[:, top : top + frame.shape[-2], left : left + frame.shape[-1]]


def _spoilt(frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Each frame spoilt in one of four ways, a little or much."""
    much = torch.rand(len(frames), 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(frames, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    noisy = (frames + 0.2 * torch.randn_like(frames)).clamp(0, 1)
    coarse = F.interpolate(F.avg_pool2d(frames, 4), scale_factor=4.0)
    tiles = rearrange(frames, "b c (i p) (j q) -> b (i j) c p q", p=8, q=8)
    moved = torch.rand(tiles.shape[:2]) < 0.1 + 0.3 * much[:, 0, 0]
    tiles = torch.where(moved[:, :, None, None, None], tiles.roll(1, dims=1), tiles)
    across = frames.shape[-1] // 8
    mixed = rearrange(tiles, "b (i j) c p q -> b c (i p) (j q)", j=across)
    share = 0.3 + 0.7 * much
    ways = torch.stack([frames + share * (way - frames) for way in (blurred, noisy, coarse)])
    ways = torch.cat([ways, mixed[None]])
    return ways[torch.randint(len(ways), (len(frames),)), torch.arange(len(frames))]


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(FeaturesConfig, description=__doc__))
