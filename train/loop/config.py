"""The settings of the training loop. The loop itself is in `train/loop/trainer.py`."""

from dataclasses import dataclass
from typing import Literal

from genie.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a net is trained."""

    num_steps: int
    """Optimiser steps in total."""
    batch_size: int
    """Clips per step, over all processes."""
    accumulation: int = 1
    """Number of parts in which a process computes its clips of a step, one after the other, to save
    memory; the step is the same."""
    learning_rate: float
    """The highest one of the schedule."""
    final_learning_rate: float = 0.0
    """The one at the end of the run."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """wsd: warm up, stay constant, then fall linearly over the last decay_share of the steps.
    cosine: warm up, and fall along half a cosine from the first step on."""
    warmup_steps: int = 100
    """Steps over which the rate rises from 0."""
    decay_share: float = 0.4
    """Share of the steps in which the rate falls (wsd only)."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the layers' matrices and kernels, AdamW for the rest. adamw: AdamW for all
    weights, which is how finished worlds are trained further."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Those of AdamW."""
    weight_decay: float = 1e-4
    """For weights with two or more axes."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    average: float = 0.0
    """Decay of the running average of the weights (EMA), which is evaluated and becomes the result;
    0 takes the last weights instead."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: what `accelerate launch` was given, else bf16 if this machine computes it quickly."""
    compile: bool = False
    """Apply torch.compile to the net's repeated parts: the first step takes half a minute, every
    later one less time. On a CPU this needs a C++ compiler."""
    recompute: bool = False
    """Compute the activations of ST-blocks again in the backward pass instead of keeping them:
    slower, in far less memory."""
    shard: bool = False
    """Shard weights, gradients and moments over the processes (FSDP), for nets too large for one
    device."""
    seed: int = 0
    """Seed of the weights, the order of the clips and all random draws in training."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    evaluate_every: int = 400
    """Steps between two evaluations on held-out clips; there is always one at the end."""
    evaluate_batches: int = 8
    """Batches in one evaluation."""
    pictures: bool = True
    """Whether evaluations draw pictures; a fast GPU has to wait for them."""
    save_every: int = 200
    """Steps between two saves of the training state; there is always one at the end."""
    keep_states: int = 2
    """How many of the latest states stay on disk, besides the one before the rate falls."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers to log to besides metrics.jsonl, such as tensorboard or wandb."""
    num_workers: int = 0
    """Processes that load clips; 0 loads in the training process."""
    resident: Literal["auto", "yes", "no"] = "auto"
    """Whether all clips are kept on the device, so that no batch has to be loaded. auto: on a GPU,
    if they take at most 40 % of its memory and do not come from another machine."""

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
        """Number of steps before the rate falls: they are the same for every num_steps."""
        return stable_steps(self.num_steps, self.decay_share) if self.schedule == "wsd" else 0


def stable_steps(num_steps: int, decay_share: float) -> int:
    """Number of steps of a wsd schedule before the rate begins to fall."""
    return int(num_steps * (1 - decay_share))
