"""Clips that are kept on the device: batches are gathered there by row, and nothing is loaded.

In: clips, and the rows of each batch. Out: the batches that a loader would give, bit for bit. Knows
nothing of nets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genie.data.clips import Clips, starts
from train.loop.clip_order import StepSampler

MOST_SHARE = 0.4  # of a GPU's memory; the net needs the rest


class ResidentClips:
    """Clips of frames or of tokens, from one data set or from several in order."""

    def __init__(self, parts: Sequence[Clips], device: torch.device) -> None:
        """Copy all clips to the device, where they stay."""
        self.device = device
        self.store: Any = parts[0].store  # of the same kind as all others: frames, or tokens
        offsets = starts(len(part.store) for part in parts)
        self.columns = self.store.make_room(int(offsets[-1]), device)
        for part, start, stop in zip(parts, offsets[:-1], offsets[1:], strict=True):
            store: Any = part.store
            store.bring(tuple(column[start:stop] for column in self.columns))
        rows = [part.rows + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
        self.rows = torch.from_numpy(np.concatenate(rows)).to(device)
        self.steps = torch.arange(parts[0].num_frames, device=device)

    def __getitem__(self, indices: list[int]) -> Any:
        """A batch of these clips, as `torch.utils.data.default_collate` makes it."""
        chosen = torch.tensor(indices)
        if self.device.type == "cuda":  # from pinned memory, or the host would wait for the copy
            chosen = chosen.pin_memory().to(self.device, non_blocking=True)
        first = self.rows[chosen.to(self.device)]
        return self.store.pick(self.columns, first[:, None] + self.steps)


@dataclass(frozen=True)
class ResidentBatches:
    """Takes the place of a `DataLoader`."""

    clips: ResidentClips
    sampler: StepSampler

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        return (self.clips[indices] for indices in self.sampler)


def fit_on_device(parts: Sequence[Clips], device: torch.device) -> bool:
    """Whether clips leave enough of a GPU's memory free; on other devices loading costs little.

    Clips on another machine are streamed, so that training need not wait for all of them.
    """
    if device.type != "cuda" or any(len(part.block_sizes) > 1 for part in parts):
        return False
    wanted = sum(part.store.num_bytes for part in parts)
    return wanted < MOST_SHARE * torch.cuda.get_device_properties(device).total_memory
