"""How a net is trained, as values. Knows nothing of how that is done."""

from dataclasses import dataclass
from typing import Literal

from genie.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a net is trained."""

    num_steps: int
    """Optimiser steps in all."""
    batch_size: int
    """Clips per step, over all processes."""
    accumulation: int = 1
    """Parts in which a process computes its clips of a step, one after the other, to save memory;
    the step is the same."""
    learning_rate: float
    """At the top of the schedule."""
    final_learning_rate: float = 0.0
    """At the last step."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """wsd: warm up, stay, fall linearly over the last decay_share. cosine: fall all the way."""
    warmup_steps: int = 100
    """Steps over which the rate rises from 0."""
    decay_share: float = 0.4
    """Share of the steps in which the rate falls (wsd only)."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the layers' matrices and kernels, AdamW for all else. adamw: for all, as the
    shipped worlds were trained, and are trained further."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    weight_decay: float = 1e-4
    """Of matrices."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    average: float = 0.0
    """Decay of the running average of the weights (EMA), which is what is evaluated and kept; 0
    keeps the last weights."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bf16 where this machine computes it quickly, or what `accelerate launch` was told."""
    compile: bool = False
    """torch.compile the net's repeated parts: the first step takes half a minute, the others less.
    On a CPU this wants a C++ compiler."""
    recompute: bool = False
    """Keep no activations of ST-blocks for the backward pass: slower, in far less memory."""
    shard: bool = False
    """Divide weights, gradients and moments over the processes (FSDP), for nets too large for one
    device."""
    seed: int = 0
    """Of the weights, the order of the clips and every draw while training."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    evaluate_every: int = 400
    """Steps between two evaluations on held-out clips; there is always one at the end."""
    evaluate_batches: int = 8
    """Batches in one evaluation."""
    pictures: bool = True
    """Whether evaluations draw pictures, too; a fast GPU would wait for them."""
    save_every: int = 200
    """Steps between two saves of the training state; there is always one at the end."""
    keep_states: int = 2
    """How many of the last states stay on disk, besides the one before the rate falls."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers to log to besides metrics.jsonl, such as tensorboard or wandb."""
    num_workers: int = 0
    """Processes that load clips; 0 loads in the training process."""
    resident: Literal["auto", "yes", "no"] = "auto"
    """Whether all clips lie on the device, where batches are gathered, instead of being loaded.
    auto: on a GPU of whose memory they take at most 40 %, but not from another machine."""

    def __post_init__(self) -> None:
        counts = ("num_steps", "batch_size", "log_every", "evaluate_every", "save_every")
        for name in (*counts, "evaluate_batches", "accumulation", "keep_states"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: 1 or more is wanted")
        if not 0 <= self.average < 1:
            raise UserError(f"average is {self.average}: 0, or a decay below 1, is wanted")
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate is {self.learning_rate}: more than 0 is wanted")

    @property
    def last_stable_step(self) -> int:
        """Steps after which nothing yet depends on how many there will be in all."""
        return stable_steps(self.num_steps, self.decay_share) if self.schedule == "wsd" else 0


def stable_steps(num_steps: int, decay_share: float) -> int:
    """After how many steps of a warm-up-stay-decay schedule the rate begins to fall."""
    return int(num_steps * (1 - decay_share))
