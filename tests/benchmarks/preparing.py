"""Speed of preparing videos, compared with only decoding them, in one process.

Decoders give YUV; decoding to RGB includes the conversion that any use of the frames needs.
"""

import tempfile
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from genie import video
from genie.data.parts import FrameOptions, make_part
from genie.data.sources import find_sources
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
    """Frames per second for videos of each of `KINDS`, H.264 at 30 frames per second."""
    return [_measure(name, *kind, rounds) for name, kind in KINDS.items()]


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
                "decode to RGB": lambda: [_decode_to_rgb(path) for path in paths],
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
        "ratio to RGB": ratio(seconds["decode to RGB"], seconds["prepare"]),
    }


def _decode(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _decode_to_rgb(path: Path) -> int:
    converter = VideoReformatter()
    with av.open(str(path)) as container:
        pictures = (
            converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            for frame in container.decode(video=0)
        )
        return sum(1 for _ in pictures)


def _record(folder: Path, height: int, width: int, lossless: bool, num_videos: int) -> None:
    """Write videos of a view that scrolls over a landscape of blocks and noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 200, (2 * height // 16 + 1, 2 * width // 16 + 1, 3), np.uint8)
    ground = blocks.repeat(16, axis=0).repeat(16, axis=1)
    ground = ground + rng.integers(0, 12, ground.shape, np.uint8)
    for number in range(num_videos):
        steps = np.cumsum(rng.integers(-2, 4, (NUM_FRAMES, 2)), axis=0) % (height, width)
        frames = [ground[y : y + height, x : x + width] for y, x in steps]
        video.write(folder / f"video-{number:03d}.mp4", frames, fps=30, lossless=lossless)
