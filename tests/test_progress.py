"""--until: a run that watches the clock, which here strikes once a step."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from genie.errors import UserError
from train import __main__ as pipeline
from train import tokenizer
from train.loop import budget, progress
from train.loop.progress import ByClock
from train.loop.trainer import Trainer
from train.presets import PRESETS

UNTIL = 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Seconds that pass with the steps of training, and with nothing else; saves are frequent."""
    state = SimpleNamespace(now=0.0, age=0.0)
    step = Trainer._train_step

    def strike(trainer: Trainer, parts: list) -> dict:
        metrics = step(trainer, parts)
        state.now += 1
        return metrics

    monkeypatch.setattr(Trainer, "_train_step", strike)
    for module in (budget, progress):
        monkeypatch.setattr(module, "process_age_s", lambda: state.age)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: state.now))
    monkeypatch.setattr(progress, "SAVE_EVERY_S", 3.0)
    return state


def configure(prepared_folder: Path, run: Path, until: float = UNTIL) -> tokenizer.TokenizerStage:
    tiny = PRESETS["tiny"].tokenizer
    loop = replace(tiny.loop, precision="float32", log_every=1, evaluate_batches=1, average=0.5)
    return replace(tiny, data=str(prepared_folder), run=run, until=until, threads=1, loop=loop)


def described(run: Path) -> dict:
    return json.loads((run / "tokenizer" / "config.json").read_text())


def trained(run: Path) -> list[dict]:
    lines = (run / "tokenizer" / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == "train"]


def test_a_run_ends_with_its_seconds_and_says_after_how_many_steps(
    prepared_folder: Path, tmp_path: Path, clock: SimpleNamespace
):
    """The start-up counts; the same command later finds everything done."""
    clock.age = 4.0
    stage = configure(prepared_folder, tmp_path)
    tokenizer.main(stage)
    assert described(tmp_path)["steps_taken"] == trained(tmp_path)[-1]["step"] == UNTIL - 4
    weights = tmp_path / "tokenizer" / "weights.safetensors"
    stamp = weights.stat().st_mtime_ns
    tokenizer.main(stage)
    assert weights.stat().st_mtime_ns == stamp and described(tmp_path)["steps_taken"] == 16


def test_the_rate_follows_the_clock(prepared_folder: Path, tmp_path: Path, clock: SimpleNamespace):
    stage = configure(prepared_folder, tmp_path)
    tokenizer.main(replace(stage, loop=replace(stage.loop, warmup_steps=0)))
    rates = [line["learning_rate"] / stage.loop.learning_rate for line in trained(tmp_path)]
    falls = [min(1, (UNTIL - second) / (0.4 * UNTIL)) for second in range(UNTIL)]
    assert rates == pytest.approx(falls, rel=1e-4)


def test_a_run_that_broke_off_goes_on_with_the_seconds_that_are_left(
    prepared_folder: Path, tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    """And shows small weights on its way, which are gone at its end."""
    stage, step = configure(prepared_folder, tmp_path), Trainer._train_step

    def break_off(trainer: Trainer, parts: list) -> dict:
        if trainer.step == 8:
            raise EOFError
        return step(trainer, parts)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", break_off)
        with pytest.raises(EOFError):
            tokenizer.main(stage)
    folder = tmp_path / "tokenizer"
    shown = load_file(folder / "weights-so-far.safetensors")
    average = torch.load(folder / "state-0000006.pt", weights_only=True)["average"]
    both = shown.keys() & average.keys()
    assert len(both) > 10 and all(torch.equal(shown[n], average[n].half()) for n in both)
    clock.now = 1000.0  # what passes while nobody works on it does not count
    tokenizer.main(stage)
    assert [line["step"] for line in trained(tmp_path)] == list(range(1, UNTIL + 1))
    assert described(tmp_path)["steps_taken"] == UNTIL
    assert not list(folder.glob("weights-so-far*"))


def test_a_stage_that_was_begun_keeps_its_seconds(
    prepared_folder: Path, tmp_path: Path, clock: SimpleNamespace
):
    """A pipeline that goes on has fewer to share out than it had at first."""
    tokenizer.main(configure(prepared_folder, tmp_path))
    tokenizer.main(configure(prepared_folder, tmp_path, 9 * UNTIL))
    assert described(tmp_path)["until"] == UNTIL
    tokenizer.main(replace(configure(prepared_folder, tmp_path, 0), minutes=1))
    assert described(tmp_path)["steps_taken"] == UNTIL
    with pytest.raises(UserError, match="num_steps: by the clock there, 60 now"):
        tokenizer.main(configure(prepared_folder, tmp_path, 0))


def test_a_stage_that_was_begun_by_steps_keeps_them(
    prepared_folder: Path, tmp_path: Path, clock: SimpleNamespace
):
    stage = configure(prepared_folder, tmp_path, 0)
    tokenizer.main(replace(stage, loop=replace(stage.loop, num_steps=25)))
    tokenizer.main(configure(prepared_folder, tmp_path))
    assert described(tmp_path)["steps_taken"] == described(tmp_path)["loop"]["num_steps"] == 25


def test_a_stage_that_saved_nothing_yet_takes_other_seconds(
    prepared_folder: Path, tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    def break_off(*_: object) -> dict:
        raise EOFError

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", break_off)
        with pytest.raises(EOFError):
            tokenizer.main(configure(prepared_folder, tmp_path, 5))
    assert described(tmp_path)["until"] == 5
    tokenizer.main(configure(prepared_folder, tmp_path))
    assert described(tmp_path)["until"] == described(tmp_path)["steps_taken"] == UNTIL


def test_a_late_start_leaves_a_tenth_of_the_seconds(
    prepared_folder: Path, tmp_path: Path, clock: SimpleNamespace
):
    clock.age = 10 * UNTIL
    tokenizer.main(configure(prepared_folder, tmp_path))
    assert described(tmp_path)["steps_taken"] == 0.1 * UNTIL


def test_the_real_clock_counts_a_process_from_its_start():
    assert ByClock(1e9).passed_s > 0.5, "importing this took longer"
    assert ByClock(1e9, 500.0).passed_s > 500.5


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_stages_share_what_is_left(at_once: int, monkeypatch: pytest.MonkeyPatch):
    now = 100.0  # preparing took so long
    monkeypatch.setattr(pipeline, "process_age_s", lambda: now)
    timing = pipeline._Timing(minutes=0, until=700)
    seconds = {}
    for stage in ("tokenizer", "latent_action"):
        seconds[stage] = float(timing.flags(stage, at_once)[1])
    now += seconds["tokenizer"] + (seconds["latent_action"] if at_once == 1 else 0)
    seconds["dynamics"] = float(timing.flags("dynamics", 1)[1])
    assert now + seconds["dynamics"] == pytest.approx(640, abs=1), "a minute to finish the world"
    assert seconds["dynamics"] > 0.55 * 540
    now = 690.0
    assert float(timing.flags("dynamics", 1)[1]) == 70, "late is better than no dynamics"
