"""Runs that are killed over and over, at any moment, end up as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import ONE_CORE, ROOT, STAGES, lines_of, make_net

NUM_KILLS = 20
LEAST_HITS = 15
SAVE_EVERY = {"tokenizer": 1, "latent_action": 2, "dynamics": 3}
TIMEOUT_S = 560
NUM_STEPS = {"tokenizer": 60, "latent_action": 70, "dynamics": 60}


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


pytestmark = pytest.mark.timeout(TIMEOUT_S + 40)  # the first test waits for all kills


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_twenty_times_is_the_unbroken_run(killed: dict, stage: str):
    story = killed[stage]
    assert story["hits"] >= LEAST_HITS, f"most kills came too late to prove anything: {story}"
    assert story["with_states"] >= LEAST_HITS // 2, f"hardly a kill had anything to lose: {story}"
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


def train(stage: str, data: Path, run: Path) -> None:
    """A small run of a stage, from wherever it had got to."""
    from train import dynamics, latent_action, tokenizer

    module = {"tokenizer": tokenizer, "latent_action": latent_action, "dynamics": dynamics}[stage]
    module.COLLAPSED_PERPLEXITY, module.COLLAPSED_DELTA_PSNR = 0, -100  # it is no time to learn
    tiny = module.PRESETS["tiny"]
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
    note_starts(run.parent / f"{run.name}-{stage}-starts")
    module.main(replace(tiny, data=data, run=run, loop=loop))


def note_starts(path: Path) -> None:
    """Write down the step at which each process begins to train."""
    from train.loop import Trainer

    run = Trainer.run

    def noted(self: Trainer) -> dict[str, float]:
        with path.open("a") as file:
            file.write(f"{self.step}\n")
        return run(self)

    Trainer.run = noted


def fork(work: Callable[[], None], log: Path) -> int:
    """The id of a child that does the work."""
    child = os.fork()
    if child:
        return child
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1), os.dup2(handle, 2)
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(child: int, log: Path) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise SystemExit(log.read_text())


def unbroken(stage: str, data: Path, run: Path, log: Path) -> tuple[float, float]:
    """Seconds until the first state is there, and from then on to the last."""
    started = time.perf_counter()
    child = fork(lambda: train(stage, data, run), log)
    last = f"state-{NUM_STEPS[stage]:07d}.pt"
    moments = []
    while len(moments) < 2:
        states = [path.name for path in (run / stage).glob("state-*.pt")]
        if (not moments and states) or last in states:
            moments.append(time.perf_counter() - started)
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.002)
    wait(child, log)
    return moments[0], moments[1] - moments[0]


def killed_often(stage: str, data: Path, run: Path, log: Path, start: float, work: float) -> dict:
    """Kill the run `NUM_KILLS` times, then let it finish."""
    draws, most = random.Random(stage), start + work / 12
    story: dict = {"hits": 0, "with_states": 0, "while_saving": 0, "ways": set(), "steps": []}
    for _ in range(NUM_KILLS):
        child = fork(lambda: train(stage, data, run), log)
        time.sleep(draws.uniform(0.2 * start, most))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        states = sorted((run / stage).glob("state-*.pt"))
        finished = (run / stage / "weights.safetensors").exists()
        if code != 0:
            story["ways"].add(code)
        story["hits"] += code == -signal.SIGKILL and not finished
        story["with_states"] += bool(states)
        story["while_saving"] += any((run / stage).glob(".state*.partial"))
        story["steps"].append(int(states[-1].stem.split("-")[1]) if states else 0)
        # The machine may be quicker or slower by now than when it was measured.
        learnt = story["steps"][-1] - [0, *story["steps"]][-2]
        most *= 0.8 if learnt > NUM_STEPS[stage] / 10 else 1 if learnt else 1.2
    wait(fork(lambda: train(stage, data, run), log), log)
    starts = (run.parent / f"{run.name}-{stage}-starts").read_text().split()
    story["starts"] = list(map(int, starts))
    return story | {"ways": sorted(story["ways"]), "start_s": start, "work_s": work}


def batch_of(stage: str) -> tuple[torch.Tensor, ...]:
    if stage == "dynamics":
        return torch.zeros(1, 5, 24, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)
    return (torch.zeros(1, 5, 3, 32, 48),)


def drive(data: Path, folder: Path) -> None:
    import train.dynamics
    import train.latent_action
    import train.tokenizer  # noqa: F401
    from train.speed import count_operations, matrix_rate

    torch.set_num_threads(1)
    matrix_rate(torch.device("cpu"), torch.float32)  # measured once; children find it known
    for stage in STAGES:  # and so is all that counting imports
        count_operations(make_net(stage), batch_of(stage))
    log, stories = folder / "log", {}
    for stage in STAGES:
        start, work = unbroken(stage, data, folder / "unbroken", log)
        stories[stage] = killed_often(stage, data, folder / "killed", log, start, work)
    print(json.dumps(stories))


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]))
