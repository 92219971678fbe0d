"""The optimisers, and their learning rate over a run.

In: a net; a step's number and the share of the run before it. Out: optimisers; a learning rate.
Never calls the net.

Source: Muon, see `train/loop/muon.py`; AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); warm-up,
stay, decay (Hu et al. 2024, arXiv:2404.06395).
"""

import math

import torch
from torch import nn

from train.loop.config import LoopConfig
from train.loop.muon import Muon

WIDE = 32  # Muon takes matrices whose shorter side has at least this length
LOGITS = "out"  # name of the dynamics' layer that computes the logits


def learning_rate(config: LoopConfig, step: int, share: float) -> float:
    """The learning rate at a step (0-based), given the share of the run before it (0..1)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        fall = 0.5 + 0.5 * math.cos(math.pi * share)
    else:
        fall = min(1.0, (1 - share) / max(1e-9, config.decay_share))
    span = config.learning_rate - config.final_learning_rate
    return warmup * (config.final_learning_rate + span * fall)


def make_optimizers(net: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """Muon for the layers' wide matrices and kernels, AdamW for the rest; or AdamW for all.

    AdamW's weight decay is only for weights with two or more axes.
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
    """Weights of linear and convolutional layers both sides of which are wide.

    A narrow side, such as that of a code, has few directions whose lengths Muon could equalise.
    Embeddings are left out because each row is looked up by itself, and the layer of the logits
    because its rows are just as independent.
    """
    layers = [
        layer
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name != LOGITS
    ]
    weights = [layer.weight for layer in layers]
    return [w for w in weights if min(len(w), w[0].numel()) >= WIDE]
