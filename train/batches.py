"""The order in which clips are seen: a function of seed and step, so that it can start anywhere.

In: a seed and a step. Out: rows of the step's batch. Knows no clips but their number.
"""

import sys
from collections.abc import Iterator

import torch

from train.config import LoopConfig


class StepSampler:
    """Rows of the batch of every step: a seeded shuffle per epoch."""

    def __init__(self, num_clips: int, config: LoopConfig, first_step: int) -> None:
        """Args: first_step: where to start; the steps before it are skipped at no cost."""
        self.num_clips, self.first_step = num_clips, first_step
        self.batch_size = min(config.batch_size, num_clips)
        self.num_steps, self.seed = config.num_steps, config.seed

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.num_clips // self.batch_size
        epoch, order = -1, torch.empty(0)
        for index in range(self.first_step, sys.maxsize):
            if index // per_epoch != epoch:
                epoch = index // per_epoch
                generator = torch.Generator().manual_seed(mix(self.seed, epoch))
                order = torch.randperm(self.num_clips, generator=generator)
            start = index % per_epoch * self.batch_size
            yield order[start : start + self.batch_size].tolist()


def mix(*numbers: int) -> int:
    """One seed made of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 12_345) % 2**63
    return mixed
