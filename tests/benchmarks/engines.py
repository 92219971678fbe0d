"""onnxruntime and PyTorch, each as play starts it: alone, and next to busy processes.

Every run has its own process, since the threads of one engine would disturb those of the other.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from genie import video
from genie.playable import open_world
from genie.session import EngineName
from play.worlds import first_prompt

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINES: tuple[EngineName, ...] = ("torch", "onnxruntime")
HELD_FRAMES = 8  # frames for which a key is held, as a player does


def compare(world: str, rounds: int, num_frames: int) -> list[dict]:
    """Medians over alternating runs: start-up, and frames one after the other."""
    rows = []
    for num_busy in (0, os.cpu_count() or 1):
        runs: dict[str, list[dict]] = {engine: [] for engine in ENGINES}
        with _busy(num_busy):
            for _ in range(rounds):
                for engine, found in runs.items():
                    found.append(_run(world, engine, num_frames))
        rows += [
            {"world": world, "engine": engine, "beside busy processes": num_busy, **_medians(found)}
            for engine, found in runs.items()
        ]
    return rows


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Run `count` processes that keep a core busy each."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run(world: str, engine: str, num_frames: int) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.engines", world, engine]
    command += [str(num_frames), str(time.time())]
    return json.loads(subprocess.check_output(command, cwd=REPOSITORY, text=True))


def _medians(runs: list[dict]) -> dict:
    found = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
    return found | {"frames/s": 1000 / found["mean_ms"]}


def play(world: str, engine: EngineName, num_frames: int, started: float) -> dict:
    """Play in this process, which was started at `started` seconds since the epoch."""
    folder = REPOSITORY / "checkpoints" / world
    opened = open_world(folder, engine)
    session = opened.start(video.read_image(first_prompt(folder), opened.size)[None], seed=0)
    rng, times = np.random.default_rng(0), []
    for frame in range(num_frames + 1):
        if frame % HELD_FRAMES == 0:
            action = int(rng.integers(opened.num_actions))
        before = time.perf_counter()
        session.step(action)
        times.append(1000 * (time.perf_counter() - before))
        if frame == 0:
            start_up = {"first frame, s": time.time() - started, "CPU s until then": _cpu_seconds()}
    p50, p99 = np.percentile(times[1:], (50, 99))
    return {
        **start_up,
        "MB": psutil.Process().memory_info().rss / 1e6,
        "p50_ms": p50,
        "p99_ms": p99,
        "mean_ms": float(np.mean(times[1:])),
        "passes": session.num_passes / session.num_steps,
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    world, engine, num_frames, started = sys.argv[1:]
    print(json.dumps(play(world, engine, int(num_frames), float(started))))
