"""Our training step compared with a plain one: float32, eager, with PyTorch's AdamW."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from genie.compiling import compile_parts
from genie.dynamics import Dynamics
from genie.machine import autocast, best_device, has_compiler, quick_dtype
from genie.tokenizer import Tokenizer
from genie.world import make_latent_action
from tests.benchmarks.timing import ratio, take_turns
from train.loop.config import LoopConfig
from train.loop.schedule import make_optimizers
from train.loop.speed import count_operations, matrix_rate
from train.presets import PRESETS

NETS = {"tokenizer": Tokenizer, "latent_action": make_latent_action, "dynamics": Dynamics}
DEVICE = best_device()


def whole_preset(name: str, rounds: int) -> list[dict]:
    """A row for each stage, and one for all their steps together."""
    rows = [step_times(name, stage, rounds) for stage in NETS]
    total = {"preset": name, "stage": "all steps"}
    for way in ("plain", "ours", "compiled"):  # without a compiler, the last repeats ours
        ms = sum(row["steps"] * row.get(way, row["ours"])["ms"] for row in rows)
        total[way] = {"ms": ms}
        total[way]["times faster"] = total["plain"]["ms"] / ms
    return [*rows, total]


def step_times(name: str, stage: str, rounds: int, num_clips: int | None = None) -> dict:
    """Frames per second, share of the matrix rate, and speed relative to the plain step.

    Args: num_clips: per step; None takes the preset's.
    """
    config = fitted(name, stage)
    clips = num_clips or config.loop.batch_size
    batch = make_batch(stage, config, clips)

    def net() -> nn.Module:
        torch.manual_seed(0)
        return NETS[stage](config.model).to(DEVICE)

    functions = {"plain": plain_step(net(), batch), "ours": our_step(net(), batch, config.loop)}
    if has_compiler(DEVICE):
        compiled = net()
        compile_parts(compiled)
        functions["compiled"] = our_step(compiled, batch, config.loop)
    operations = count_operations(net(), batch)
    peak = matrix_rate(DEVICE, quick_dtype(DEVICE))
    seconds = take_turns(functions, rounds, warm_up=1)
    row = {"preset": name, "stage": stage, "clips": clips, "steps": config.loop.num_steps}
    for way, times in seconds.items():
        step_s = float(np.median(times))
        row[way] = {
            "ms": 1000 * step_s,
            "frames/s": clips * config.clip_frames / step_s,
            "mfu": operations / step_s / peak,
            "times faster": ratio(seconds["plain"], times),
        }
    return row


def fitted(name: str, stage: str):
    """A stage's preset; that of the dynamics gets the sizes of the preset's tokenizer."""
    config = getattr(PRESETS[name], stage)
    if stage != "dynamics":
        return config
    tokens = PRESETS[name].tokenizer.model
    facts = {"num_tokens": tokens.num_tokens, "codebook_size": tokens.codebook.size}
    return replace(config, model=replace(config.model, **facts))


def make_batch(stage: str, config, clips: int) -> tuple[torch.Tensor, ...]:
    """Random data in the shape of the stage's batches."""
    if stage != "dynamics":
        size = config.model.height, config.model.width
        return (torch.rand(clips, config.clip_frames, 3, *size, device=DEVICE),)
    tokens = torch.randint(
        config.model.codebook_size, (clips, config.clip_frames, config.model.num_tokens)
    )
    actions = torch.randint(config.model.num_actions, (clips, config.clip_frames - 1))
    return tokens.to(DEVICE), actions.to(DEVICE)


def plain_step(net: nn.Module, batch: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """A step without any of our optimisations."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step() -> None:
        net(*batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(
    net: nn.Module, batch: tuple[torch.Tensor, ...], config: LoopConfig
) -> Callable[[], None]:
    """The step of train/loop/trainer.py, without its bookkeeping."""
    optimizers = make_optimizers(net, config)

    def step() -> None:
        with autocast(DEVICE):
            loss, _ = net(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step
