"""Frames per second from a prepared folder to batches for a net, on one core."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from genie import video
from genie.data.clips import Clips, FrameStore
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
from genie.frames import to_float
from train.loop.clip_order import Pool, StepSampler
from train.loop.config import LoopConfig

SIZE = (64, 64)
NUM_VIDEOS, NUM_FRAMES = 8, 256


def loader(num_batches: int) -> list[dict]:
    """Load clips of the tokenizer's and of the latent action model's shape."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder))
        return [measure(store, frames, batch, num_batches) for frames, batch in ((8, 4), (6, 16))]


def make_store(folder: Path) -> FrameStore:
    """A few videos of noise, recorded and prepared."""
    generator = np.random.default_rng(0)
    (folder / "videos").mkdir()
    for number in range(NUM_VIDEOS):
        frames = generator.integers(0, 256, (NUM_FRAMES, *SIZE, 3), dtype=np.uint8)
        video.write(folder / "videos" / f"{number}.mp4", list(frames), fps=15, scale=1)
    prepare([folder / "videos"], folder / "data", FrameOptions(size=SIZE))
    return FrameStore.open(folder / "data", "train")


def measure(store: FrameStore, num_frames: int, batch: int, num_batches: int) -> dict:
    """Load shuffled clips, collated and converted to floats."""
    clips = Clips(store, num_frames)
    config = LoopConfig(num_steps=num_batches, batch_size=batch, learning_rate=1.0)
    batches = iter(
        DataLoader(clips, batch_sampler=StepSampler([Pool(len(clips), batch)], config, 0))
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    next(batches)
    seconds = []
    for _ in range(num_batches):
        started = time.perf_counter()
        to_float(next(batches))
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    frames = batch * num_frames
    # The mean is what training gets; a median far above it means that the machine was disturbed.
    return {
        "clip": num_frames,
        "batch": batch,
        "mean frames/s": frames / float(np.mean(seconds)),
        "median frames/s": frames / float(np.median(seconds)),
    }
