"""The optimiser and how its learning rate goes over a run.

In: a step's number and the share of the run before it. Out: the rate. Knows no nets but their
parameters.

Source: AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); warm-up, stay, decay (Hu et al. 2024,
arXiv:2404.06395).
"""

import math

import torch
from torch import nn

from train.config import LoopConfig


def learning_rate(config: LoopConfig, step: int, share: float) -> float:
    """The schedule's rate at a step (0-based), before which lies a share of the run (0..1)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        fall = 0.5 + 0.5 * math.cos(math.pi * share)
    else:
        fall = min(1.0, (1 - share) / max(1e-9, config.decay_share))
    span = config.learning_rate - config.final_learning_rate
    return warmup * (config.final_learning_rate + span * fall)


def make_optimizer(net: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
