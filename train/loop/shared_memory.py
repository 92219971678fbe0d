"""Whether the batches that loaders hold ready fit where processes hand tensors to each other.

In: clips and how they are loaded. Out: nothing, or an error. Containers often have 64 MiB there,
and a loader that finds it full is killed without a word.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from genie.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
BATCHES_PER_WORKER = 2  # that a DataLoader has its workers hold ready
NUM_LOADERS = 2  # that of the training clips goes on while the held-out ones are read


def check_shared_memory(clips: Dataset, clips_per_batch: int, num_workers: int) -> None:
    """Refuse to start loaders that could not hand over their batches.

    Args:
        clips: one is read, for its size.
        clips_per_batch: of one process.
        num_workers: of one process.

    Raises:
        UserError: telling how much there is and how much is wanted.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return
    num_workers *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # set where a host has several
    held = NUM_LOADERS * BATCHES_PER_WORKER * num_workers
    wanted = held * clips_per_batch * _num_bytes(clips[0])
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < wanted:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and {num_workers} loaders want "
            f"{wanted / 2**20:.0f}: start the container with more (docker run --shm-size=2g), or "
            "give --loop.num-workers 0"
        )


def _num_bytes(clip: Any) -> int:
    tensors = (clip,) if isinstance(clip, torch.Tensor) else clip
    return sum(tensor.nbytes for tensor in tensors)
