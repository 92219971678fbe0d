"""The order in which clips are seen: a function of seed and step, so that it can start anywhere.

In: a seed and a step. Out: the rows of the step's batch. Needs the number of clips, not the clips.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from genie.errors import UserError
from train.loop.config import LoopConfig

BLOCKS_AT_ONCE = 3


@dataclass(frozen=True)
class Pool:
    """A set of clips, of which every step takes the same number."""

    num_clips: int
    """How many there are."""
    per_step: int
    """How many a step takes."""
    block_sizes: tuple[int, ...] = ()
    """Sizes of the blocks of neighbouring clips that lie in one remote file and are best read
    together: the blocks are shuffled, then the clips within a few blocks at a time. () if any order
    is equally fast."""


def fit_pools(pools: Sequence[Pool], num_parts: int) -> list[Pool]:
    """Limit each pool's `per_step` to its number of clips, and drop pools that give none.

    Raises:
        UserError: if the clips of a step cannot be divided into equal parts.
    """
    fitted = [replace(pool, per_step=min(pool.per_step, pool.num_clips)) for pool in pools]
    fitted = [pool for pool in fitted if pool.per_step]
    num_clips = sum(pool.per_step for pool in fitted)
    if num_clips % num_parts:
        raise UserError(
            f"{num_clips} clips a step cannot be divided into {num_parts} equal parts (processes "
            "times --loop.accumulation): choose another --loop.batch-size"
        )
    return fitted


class StepSampler:
    """Rows of every batch of one process: every epoch, each pool is shuffled with a new seed.

    The rows of a step depend neither on the number of processes nor on the number of parts.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        config: LoopConfig,
        first_step: int,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Args: first_step: where to start; the steps before it are skipped at no cost."""
        self.pools, self.first_step = pools, first_step
        self.num_steps, self.seed, self.accumulation = (
            config.num_steps, config.seed, config.accumulation,
        )  # fmt: skip
        self.process, self.num_processes = process, num_processes

    def __len__(self) -> int:
        return self.num_steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        num_parts = self.accumulation * self.num_processes
        streams = [self._rows(number) for number in range(len(self.pools))]
        for _ in range(self.first_step, sys.maxsize):
            rows = [row for stream in streams for row in next(stream)]
            for part in range(self.accumulation):
                yield rows[part * self.num_processes + self.process :: num_parts]

    def _rows(self, number: int) -> Iterator[list[int]]:
        pool, offset = self.pools[number], sum(pool.num_clips for pool in self.pools[:number])
        per_epoch = pool.num_clips // pool.per_step
        epoch, order = -1, torch.empty(0)
        for index in range(self.first_step, sys.maxsize):
            if index // per_epoch != epoch:
                epoch = index // per_epoch
                generator = torch.Generator().manual_seed(mix(self.seed, epoch, number))
                order = _shuffle(pool, generator)
            start = index % per_epoch * pool.per_step
            yield (order[start : start + pool.per_step] + offset).tolist()


def _shuffle(pool: Pool, generator: torch.Generator) -> Int[Tensor, " clips"]:
    if len(pool.block_sizes) <= 1:
        return torch.randperm(pool.num_clips, generator=generator)
    blocks = torch.arange(pool.num_clips).split(pool.block_sizes)
    order = torch.randperm(len(blocks), generator=generator)
    parts = []
    for chosen in order.split(BLOCKS_AT_ONCE):
        clips = torch.cat([blocks[block] for block in chosen.tolist()])
        parts.append(clips[torch.randperm(len(clips), generator=generator)])
    return torch.cat(parts)


def mix(*numbers: int) -> int:
    """Combine several numbers into one seed."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 12_345) % 2**63
    return mixed
