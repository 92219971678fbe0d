"""Compile a preset's nets before there are frames: `python -m train.warm_up --preset quarter`.

Compiling for a GPU takes minutes in which the GPU is idle. Run this while frames are recorded or
prepared, which needs no GPU: it computes one training step of each net on random clips, so that the
stages find their compiled code in torch.compile's cache. Trains nothing and writes nothing else.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import nn

from genie.compiling import compile_parts, failed_to_compile
from genie.dynamics import Dynamics
from genie.errors import UserError
from genie.machine import allow_quick_float32, best_device, check_compiler
from genie.orphans import end_with_parent
from genie.st_transformer import recompute_blocks
from genie.tokenizer import Tokenizer
from genie.world import make_latent_action
from train.errors import one_line_errors
from train.loop.compile_cache import load_compiled, save_compiled
from train.loop.config import LoopConfig
from train.loop.trainer import mixed_precision
from train.presets import PRESETS, AnyStage, DynamicsStage, LatentActionStage, TokenizerStage
from train.stage import PIPELINE


@dataclass(frozen=True, kw_only=True)
class WarmUpConfig:
    """Compile what a preset's stages will train."""

    preset: str = "quarter"
    """Preset of `python -m train`."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames that will come."""
    compile_cache: Path | None = None
    """Folder of the stages' compile caches (--compile-cache of python -m train)."""


def main(config: WarmUpConfig) -> None:
    """Compute a step of each net that the preset compiles.

    Raises:
        UserError: if there is no such preset, or nothing to compile with.
    """
    if config.preset not in PRESETS:
        raise UserError(f"no preset {config.preset!r}: choose one of {', '.join(PRESETS)}")
    check_compiler(best_device())
    if PIPELINE in os.environ:
        end_with_parent()
    chosen = vars(PRESETS[config.preset]).values()
    if not any(stage.loop.compile for stage in chosen):
        print(f"preset {config.preset} compiles nothing")
    warm_up(*chosen, config.size, config.compile_cache)


def warm_up(
    tokenizer: TokenizerStage,
    latent_action: LatentActionStage,
    dynamics: DynamicsStage,
    size: tuple[int, int],
    cache: Path | None = None,
) -> None:
    """Compute a step of each of the three nets that is compiled, on random clips.

    Args:
        size: of the frames, height and width.
        cache: folder of the stages' compile caches.
    """
    stages: dict[str, AnyStage] = {
        "tokenizer": tokenizer,
        "latent_action": latent_action,
        "dynamics": dynamics,
    }
    for name, make_net, draw_batch in _nets(tokenizer, latent_action, dynamics, size):
        if stages[name].loop.compile:
            path = cache and cache / f"{name}.bin"
            load_compiled(path)
            began = time.perf_counter()
            try:
                _take_step(make_net(), draw_batch, stages[name].loop)
            except RuntimeError as error:
                if not failed_to_compile(error):
                    raise
                print(f"{name}: the compiler failed: {' '.join(str(error).split())[:200]}")
                continue
            save_compiled(path)
            print(f"{name}: compiled in {time.perf_counter() - began:.0f} s")


def _nets(
    tokenizer: TokenizerStage,
    latent_action: LatentActionStage,
    dynamics: DynamicsStage,
    size: tuple[int, int],
) -> Iterator[tuple[str, Callable[[], nn.Module], Callable[[torch.device], tuple]]]:
    """For each stage its name, and functions that make its net and a batch of the right shape."""
    height, width = size
    sizes = {"height": height, "width": width}
    tokens = replace(tokenizer.model, **sizes)
    actions = replace(latent_action.model, **sizes)
    model = replace(
        dynamics.model,
        num_tokens=tokens.num_tokens,
        codebook_size=tokens.codebook.size,
        factors=tokens.codebook.factors,
        num_actions=actions.num_actions,
    )

    def frames(stage: AnyStage) -> Callable[[torch.device], tuple[torch.Tensor]]:
        shape = stage.loop.batch_size, stage.clip_frames, 3, height, width
        return lambda device: (torch.rand(shape, device=device),)

    def ids(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        b, t = dynamics.loop.batch_size, dynamics.clip_frames
        return (
            torch.randint(model.codebook_size, (b, t, model.num_tokens), device=device),
            torch.randint(model.num_actions, (b, t - 1), device=device),
        )

    yield "tokenizer", lambda: Tokenizer(tokens), frames(tokenizer)
    yield "latent_action", lambda: make_latent_action(actions), frames(latent_action)
    yield "dynamics", lambda: Dynamics(model), ids


def _take_step(
    net: nn.Module, draw_batch: Callable[[torch.device], tuple], loop: LoopConfig
) -> None:
    """Compute loss and gradients as the trainer does."""
    device = best_device()
    if loop.precision != "float32":
        allow_quick_float32(device)
    if loop.recompute:
        recompute_blocks(net)
    compile_parts(net.to(device).train())
    is_mixed = mixed_precision(loop.precision) == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
        loss, _ = net(*draw_batch(device))
    loss.backward()


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(WarmUpConfig, description=__doc__))
