"""Runs that are killed over and over, at any moment, end up as if nothing had happened."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import ONE_CORE, ROOT, STAGES, lines_of, make_net

NUM_KILLS = 20
LEAST_HITS = 15
SAVE_EVERY = {"tokenizer": 1, "latent_action": 2, "dynamics": 3}
TIMEOUT_S = 560
NUM_STEPS = {"tokenizer": 60, "latent_action": 70, "dynamics": 60}
BEGINS, STEPS, SAVES = b"b", b"t", b"s"  # what a child tells


@pytest.fixture(scope="module")
def killed(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Per stage how its kills went; runs are in `folder`/unbroken and `folder`/killed."""
    folder = tmp_path_factory.mktemp("kills")
    result = subprocess.run(
        [sys.executable, __file__, prepared_folder, folder],
        cwd=ROOT,
        env=os.environ | ONE_CORE | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return {"folder": folder} | json.loads(result.stdout.splitlines()[-1])


# The first test waits for all kills.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(TIMEOUT_S + 40)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_twenty_times_is_the_unbroken_run(killed: dict, stage: str):
    story = killed[stage]
    assert story["hits"] >= LEAST_HITS, f"most kills came too late to prove anything: {story}"
    assert story["with_states"] >= LEAST_HITS // 2, f"hardly a kill had anything to lose: {story}"
    assert story["while_saving"], f"no state was half written when a kill came: {story}"
    assert sum(start > 0 for start in story["starts"]) >= LEAST_HITS // 2, (
        f"hardly a try went on from a state: {story}"
    )
    assert story["ways"] == [-signal.SIGKILL], f"a try ended by itself, and not well: {story}"
    unbroken, broken = (killed["folder"] / run / stage for run in ("unbroken", "killed"))
    wanted, found = (load_file(run / "weights.safetensors") for run in (unbroken, broken))
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), f"{name} differs from the unbroken run: {story}"
    trained, again = (
        [line for line in lines_of(run) if line["split"] == "train"] for run in (unbroken, broken)
    )
    assert trained == again, "metrics were lost, or written twice"
    assert len(list(broken.glob("state-*.pt"))) <= 3, "old states pile up"


def test_the_world_of_a_killed_run_is_that_of_the_unbroken_one(killed: dict):
    worlds = [killed["folder"] / run / "world" for run in ("unbroken", "killed")]
    wanted, found = (
        {path.relative_to(world): path.read_bytes() for path in world.rglob("*") if path.is_file()}
        for world in worlds
    )
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if wanted[name] != found[name]] == []


# What follows runs in a process of its own, which imports once and then forks.


def train(stage: str, data: Path, run: Path, events: int) -> None:
    """A small run of a stage, from wherever it had got to."""
    from train import dynamics, latent_action, tokenizer
    from train.presets import PRESETS

    module = {"tokenizer": tokenizer, "latent_action": latent_action, "dynamics": dynamics}[stage]
    module.COLLAPSED_PERPLEXITY, module.COLLAPSED_DELTA_PSNR = 0, -100  # it is no time to learn
    tiny = getattr(PRESETS["tiny"], stage)
    loop = replace(
        tiny.loop,
        num_steps=NUM_STEPS[stage],
        batch_size=2,
        log_every=1,
        save_every=SAVE_EVERY[stage],
        evaluate_every=40,
        evaluate_batches=1,
        average=0.9,
        precision="float32",
    )
    tell(events, run.parent / f"{run.name}-{stage}-starts")
    module.main(replace(tiny, data=data, run=run, loop=loop))


def tell(events: int, starts: Path) -> None:
    """Have the trainer write a byte into the pipe `events` as it begins, steps and saves.

    `starts` gets the step at which each process begins.
    """
    from train.loop.states import States
    from train.loop.trainer import Trainer

    def telling(owner: type, name: str, byte: bytes) -> None:
        method = getattr(owner, name)

        def told(self: object, *args: object, **kwargs: object) -> object:
            if byte == BEGINS:
                with starts.open("a") as file:
                    file.write(f"{self.step}\n")
            os.write(events, byte)
            return method(self, *args, **kwargs)

        setattr(owner, name, told)

    telling(Trainer, "run", BEGINS)
    telling(Trainer, "_train_step", STEPS)
    telling(States, "save", SAVES)


@dataclass(frozen=True)
class Child:
    """A process that trains, and the pipe in which it tells how far it is."""

    id: int
    events: int

    def wait_for(self, event: bytes, count: int) -> None:
        """Return at the `count`-th such event from now on, or when the child has ended."""
        while count and (byte := os.read(self.events, 1)):
            count -= byte == event

    def end(self) -> int:
        """Its exit code, once it is over."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])
        os.close(self.events)
        return code


def fork(stage: str, data: Path, run: Path, log: Path) -> Child:
    """A process that trains."""
    events, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        return Child(child, events)
    os.close(events)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1), os.dup2(handle, 2)
    try:
        train(stage, data, run, theirs)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def to_the_end(stage: str, data: Path, run: Path, log: Path) -> dict[bytes, float]:
    """Train to the last step; gives the seconds that beginning, a step and a save took."""
    then = time.perf_counter()
    child = fork(stage, data, run, log)
    last, took = BEGINS, {BEGINS: [], STEPS: [], SAVES: []}
    while byte := os.read(child.events, 1):
        now = time.perf_counter()
        took[last].append(now - then)
        last, then = byte, now
    if child.end():
        raise SystemExit(log.read_text())
    # Of the beginning there are two: until it trains, and from then to the first step.
    return {event: statistics.median_high(seconds) for event, seconds in took.items()}


def killed_often(
    stage: str, data: Path, run: Path, log: Path, took: dict[bytes, float]
) -> dict[str, Any]:
    """Kill the run `NUM_KILLS` times, then let it finish.

    Each kill comes at a random moment of the beginning, of a step or of a save. How many steps a
    try may make is drawn such that all of them together stay short of the last one.
    """
    draws = random.Random(stage)
    story: dict = {"hits": 0, "with_states": 0, "while_saving": 0, "ways": set(), "steps": [0]}
    for left in reversed(range(NUM_KILLS)):
        rest = NUM_STEPS[stage] - story["steps"][-1]
        event = draws.choice([BEGINS, STEPS, STEPS, SAVES, SAVES])
        per_event = SAVE_EVERY[stage] if event == SAVES else 1
        most = 2 * rest // (per_event * (left + 2))
        child = fork(stage, data, run, log)
        if event != BEGINS and most:
            child.wait_for(event, draws.randint(1, most))
        else:
            event = BEGINS
        time.sleep(draws.uniform(0, took[event]))
        os.kill(child.id, signal.SIGKILL)
        code = child.end()
        states = sorted((run / stage).glob("state-*.pt"))
        finished = (run / stage / "weights.safetensors").exists()
        if code != 0:
            story["ways"].add(code)
        story["hits"] += code == -signal.SIGKILL and not finished
        story["with_states"] += bool(states)
        story["while_saving"] += any((run / stage).glob(".state*.partial"))
        story["steps"].append(int(states[-1].stem.split("-")[1]) if states else 0)
    to_the_end(stage, data, run, log)
    starts = (run.parent / f"{run.name}-{stage}-starts").read_text().split()
    story["starts"] = list(map(int, starts))
    return story | {"ways": sorted(story["ways"])}


def batch_of(stage: str) -> tuple[torch.Tensor, ...]:
    if stage == "dynamics":
        return torch.zeros(1, 5, 24, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)
    return (torch.zeros(1, 5, 3, 32, 48),)


def drive(data: Path, folder: Path) -> None:
    import train.dynamics
    import train.latent_action
    import train.tokenizer  # noqa: F401
    from train.loop.speed import count_operations, matrix_rate

    torch.set_num_threads(1)
    matrix_rate(torch.device("cpu"), torch.float32)  # measured once; children find it known
    for stage in STAGES:  # and so is all that counting imports
        count_operations(make_net(stage), batch_of(stage))
    log, stories = folder / "log", {}
    for stage in STAGES:
        took = to_the_end(stage, data, folder / "unbroken", log)
        stories[stage] = killed_often(stage, data, folder / "killed", log, took)
    print(json.dumps(stories))


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]))
