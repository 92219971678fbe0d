"""Preparing videos beside merely decoding them, in one process each, and the memory it takes."""

import multiprocessing
import resource
import tempfile
from pathlib import Path

import av
import numpy as np

from genie import video
from genie.parts import FrameOptions, make_part
from genie.preparing import prepare
from genie.sources import find_sources
from tests.benchmarks.timing import ratio, take_turns

SIZE = (64, 64)
KINDS = {  # height, width, whether lossless
    "64x64 lossless": (64, 64, True),
    "320x240": (240, 320, False),
    "1280x720": (720, 1280, False),
}
NUM_FRAMES = 240
NUM_VIDEOS = 4


def throughput(rounds: int) -> list[dict]:
    """Frames a second of a recording, of small and of usual video; H.264 at 30 frames a second."""
    return [_measure(name, *kind, rounds) for name, kind in KINDS.items()]


def memory() -> dict:
    """Peak memory of a process that prepares some videos, and of one with ten times as many."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "videos"
        _record(source, *KINDS["64x64 lossless"], num_videos=40)
        for copy in range(1, 10):
            for path in sorted(source.glob("video-*.mp4"))[:40]:
                (source.parent / "many").mkdir(exist_ok=True)
                (source.parent / "many" / f"{copy}-{path.name}").hardlink_to(path)
        places = {"1x": [source], "10x": [source, source.parent / "many"]}
        peaks = {
            name: _peak(place, source.parent / f"out-{name}") for name, place in places.items()
        }
    return {f"{name} MiB": peak for name, peak in peaks.items()} | {
        "ratio": peaks["10x"] / peaks["1x"]
    }


def _measure(name: str, height: int, width: int, lossless: bool, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        source, parts = Path(folder) / "videos", Path(folder) / "parts"
        parts.mkdir()
        _record(source, height, width, lossless, NUM_VIDEOS)
        paths, options = sorted(source.iterdir()), FrameOptions(size=SIZE)
        sources = list(find_sources([str(source)]))
        seconds = take_turns(
            {
                "decode": lambda: [_decode(path) for path in paths],
                "prepare": lambda: [make_part(one, options, parts) for one in sources],
            },
            rounds,
            warm_up=1,
        )
    frames = NUM_VIDEOS * NUM_FRAMES
    return {
        "videos": name,
        **{f"{what} frames/s": frames / float(np.median(s)) for what, s in seconds.items()},
        "ratio": ratio(seconds["decode"], seconds["prepare"]),
    }


def _decode(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _record(folder: Path, height: int, width: int, lossless: bool, num_videos: int) -> None:
    """A view that scrolls over a landscape of blocks and noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 200, (2 * height // 16 + 1, 2 * width // 16 + 1, 3), np.uint8)
    ground = blocks.repeat(16, axis=0).repeat(16, axis=1)
    ground = ground + rng.integers(0, 12, ground.shape, np.uint8)
    for number in range(num_videos):
        steps = np.cumsum(rng.integers(-2, 4, (NUM_FRAMES, 2)), axis=0) % (height, width)
        frames = [ground[y : y + height, x : x + width] for y, x in steps]
        video.write(folder / f"video-{number:03d}.mp4", frames, fps=30, lossless=lossless)


def _peak(places: list[Path], out: Path) -> float:
    """MiB that a fresh process needs."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_prepare_and_tell, (places, out))


def _prepare_and_tell(places: list[Path], out: Path) -> float:
    prepare(places, out, FrameOptions(size=SIZE), workers=1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
