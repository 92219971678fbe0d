"""Whether the batches that loader processes prepare fit into shared memory.

In: clips and how they are loaded. Out: nothing, or an error. Containers often have only 64 MiB of
it, and a loader that finds it full is killed without a message.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from genie.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
BATCHES_PER_WORKER = 2  # that each worker of a DataLoader prepares in advance
NUM_LOADERS = 2  # the one of the training clips goes on while held-out clips are loaded


def check_shared_memory(clips: Dataset, clips_per_batch: int, num_workers: int) -> None:
    """Check, before loaders start, that there is room for their batches.

    Args:
        clips: one of them is read for its size.
        clips_per_batch: of one process.
        num_workers: of one process.

    Raises:
        UserError: if there is not, saying how much is free and how much is needed.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return
    num_workers *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # training processes on this host
    num_batches = NUM_LOADERS * BATCHES_PER_WORKER * num_workers
    wanted = num_batches * clips_per_batch * _num_bytes(clips[0])
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < wanted:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, but {num_workers} loaders need "
            f"{wanted / 2**20:.0f}: start the container with more (docker run --shm-size=2g), or "
            "give --loop.num-workers 0"
        )


def _num_bytes(clip: Any) -> int:
    tensors = (clip,) if isinstance(clip, torch.Tensor) else clip
    return sum(tensor.nbytes for tensor in tensors)
