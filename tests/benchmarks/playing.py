"""Time of a frame in a running world: by history, by passes, alone and among many worlds."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import psutil
import torch

from genie.playable import GraphWorld
from genie.session import Sessions
from genie.world import World
from tests.benchmarks.timing import ratio, spread_ms, take_turns, wait
from tests.benchmarks.worlds import Uncached, start

HISTORIES = (1, 4, 15, 63, 1000, 10_000)
LONGEST_UNCACHED = 63  # longer ones take minutes, or more memory than there is
ROWS = (1, 2, 4, 8, 16, 32)
HELD_FRAMES = 8  # frames for which a key is held, as a player does


class Player:
    """Takes steps with random actions and records how long a player would wait for each."""

    def __init__(
        self, world: World | GraphWorld, running: Sessions, *, has_idle_time: bool = False
    ) -> None:
        self.running, self.has_idle_time = running, has_idle_time
        self.num_actions = world.num_actions
        self.waited: list[float] = []

    def __call__(self) -> None:
        if self.has_idle_time:
            self.running.prepare()
            wait()
        actions = torch.randint(self.num_actions, (len(self.running.frames),))
        started = time.perf_counter()
        self.running.step(actions)
        wait()
        self.waited.append(time.perf_counter() - started)


def by_history(world: World, steps: int, rounds: int) -> list[dict]:
    """Time of a frame of `steps` passes, by the number of frames before it."""
    return [frame_cost(world, age, steps, rounds) for age in HISTORIES]


def frame_cost(world: World, age: int, steps: int, rounds: int, compile: bool = False) -> dict:
    """Time of a frame: one after the other, from key to picture after idle time, and uncached."""
    players = {
        name: Player(world, start(world, age, 1, compile, maskgit_steps=steps), has_idle_time=idle)
        for name, idle in (("sustained", False), ("key to picture", True))
    }
    functions = dict(players)
    if age <= LONGEST_UNCACHED:
        sampling = replace(world.config.sampling, maskgit_steps=steps)
        functions["uncached"] = Uncached(world, age, sampling).step
    seconds = take_turns(functions, rounds, warm_up=1)
    waited = {name: np.array(player.waited[1:]) for name, player in players.items()}
    row = {
        "world": world.name,
        "engine": world.engine_name,
        "history": age,
        "passes": steps,
        "compiled": compile,
    }
    row |= {name: spread_ms(times) for name, times in waited.items()}
    row["frames/s"] = 1 / float(np.median(waited["sustained"]))
    if "uncached" in seconds:
        row["uncached"] = spread_ms(seconds["uncached"])
        for name, times in waited.items():
            row[f"{name}, times faster"] = ratio(seconds["uncached"], times)
    return row


def uncached_frame(world: World, age: int, steps: int, rounds: int) -> dict:
    """Time of an uncached frame alone."""
    sampling = replace(world.config.sampling, maskgit_steps=steps)
    seconds = take_turns({"": Uncached(world, age, sampling).step}, rounds, warm_up=0)[""]
    return {"world": world.name, "history": age, "passes": steps, "uncached": spread_ms(seconds)}


def old_and_young(world: World, num_frames: int, rounds: int) -> dict:
    """Play `num_frames` frames: does a frame then take longer, or the session more memory?"""
    process = psutil.Process()
    old, memory = Player(world, start(world, 1)), []
    for index in range(num_frames):
        old()
        if index in (num_frames // 10, num_frames - 1):
            memory.append(process.memory_info().rss / 2**20)
    young = Player(world, start(world, 20))
    seconds = take_turns({"old": old, "young": young}, rounds)
    return {
        "frames": num_frames,
        "old over young": ratio(seconds["old"], seconds["young"]),
        "MiB after a tenth": memory[0],
        "MiB at the end": memory[1],
    }


def many_at_once(world: GraphWorld, rounds: int) -> list[dict]:
    """Frames per second of several worlds in one forward pass."""
    players = {str(rows): Player(world, start(world, 15, rows)) for rows in ROWS}
    seconds = take_turns(players, rounds)
    return [
        {
            "engine": world.engine_name,
            "worlds": rows,
            "frames/s": rows / float(np.median(seconds[str(rows)])),
        }
        for rows in ROWS
    ]


def foresight(world: GraphWorld, num_frames: int) -> list[dict]:
    """Time from key to picture while keys are held, by what idle time is spent on."""
    waited: dict[str, list[float]] = {way: [] for way in ("nothing", "the past", "a guess")}
    functions = {way: _held_keys(world, way, times) for way, times in waited.items()}
    take_turns(functions, num_frames, warm_up=HELD_FRAMES)
    measured = {way: np.array(times[HELD_FRAMES:]) for way, times in waited.items()}
    return [
        {
            "engine": world.engine_name,
            "idle time is spent on": way,
            **spread_ms(times),
            "mean_ms": float(1000 * times.mean()),
        }
        for way, times in measured.items()
    ]


def _held_keys(world: GraphWorld, way: str, times: list[float]) -> Callable[[], None]:
    running = start(world, 15)
    generator = torch.Generator().manual_seed(0)
    held = torch.zeros(1, dtype=torch.long)

    def play() -> None:
        nonlocal held
        if way != "nothing":
            running.prepare(held if way == "a guess" else None)
            wait()
        if len(times) % HELD_FRAMES == 0:
            held = torch.randint(world.num_actions, (1,), generator=generator)
        started = time.perf_counter()
        running.step(held)
        wait()
        times.append(time.perf_counter() - started)

    return play
