"""The optimisers and how their learning rate goes over a run.

In: a step's number and the share of the run before it. Out: the rate. Knows no nets but their
parameters.

Source: Muon, see `train/loop/muon.py`; AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); warm-up,
stay, decay (Hu et al. 2024, arXiv:2404.06395).
"""

import math

import torch
from torch import nn

from train.loop.config import LoopConfig
from train.loop.muon import Muon

WIDE = 32  # numbers on the shorter side of a matrix, from which on Muon takes it
LOGITS = "out"  # the layer of the dynamics that gives them


def learning_rate(config: LoopConfig, step: int, share: float) -> float:
    """The schedule's rate at a step (0-based), before which lies a share of the run (0..1)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        fall = 0.5 + 0.5 * math.cos(math.pi * share)
    else:
        fall = min(1.0, (1 - share) / max(1e-9, config.decay_share))
    span = config.learning_rate - config.final_learning_rate
    return warmup * (config.final_learning_rate + span * fall)


def make_optimizers(net: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices and kernels, AdamW for all else.

    Of AdamW's, only what has two or more axes decays.
    """
    rate, decay = config.learning_rate, config.weight_decay
    by_muon = _wide_weights(net) if config.optimizer == "muon" else []
    known = set(map(id, by_muon))
    rest = [weight for weight in net.parameters() if id(weight) not in known]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True)
    if not by_muon:
        return [adamw]
    return [Muon(by_muon, learning_rate=rate, weight_decay=decay), adamw]


def _wide_weights(net: nn.Module) -> list[nn.Parameter]:
    """Of layers that multiply, those of which both sides are wide.

    Where a side is narrow, such as a code's, there are few directions to make alike. Embeddings are
    looked up row by row, and the rows of what gives logits are as much by themselves.
    """
    layers = [
        layer
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name != LOGITS
    ]
    weights = [layer.weight for layer in layers]
    return [w for w in weights if min(len(w), w[0].numel()) >= WIDE]
