"""What is on disk while a net trains: whole, not too much of it, and enough to go on."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import (
    ONE_CORE,
    ROOT,
    lines_of,
    one_core,
    open_stores,
    small_trainer,
    to_its_end,
)

from genie.errors import UserError
from train.loop import states as states_file
from train.loop.run_folder import claim, is_finished
from train.loop.states import States
from train.loop.trainer import MOST_STRIKES, Trainer


@pytest.fixture(autouse=True)
def on_one_core() -> Iterator[None]:
    with one_core():
        yield


@pytest.fixture
def trainer(prepared_folder: Path, tmp_path: Path) -> Callable[..., Trainer]:
    stores = open_stores(prepared_folder)

    def make(folder: str = "run", net: str = "dynamics", **values) -> Trainer:
        return small_trainer(stores, tmp_path / folder, net, **values)

    return make


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("state-*.pt"))


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_after(trainer: Trainer, step: int, number: signal.Signals) -> None:
    """Send this process a signal in the middle of a step."""
    compute = trainer._train_step

    def signalled(parts):
        if trainer.step == step - 1:
            os.kill(os.getpid(), number)
        return compute(parts)

    trainer._train_step = signalled


# Signals


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_run_that_is_told_to_stop_saves_its_step_and_goes_on_from_it(
    trainer, tmp_path: Path, number: signal.Signals, raised: type, step: int
):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    to_its_end(trainer("unbroken", average=0.9))
    broken = trainer("broken", average=0.9)
    stop_after(broken, step, number)
    with pytest.raises(raised) as told:
        broken.run()
    assert raised is KeyboardInterrupt or told.value.code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert steps_in(tmp_path / "broken")[-1] == step
    assert not is_finished(tmp_path / "broken")
    again = trainer("broken", average=0.9)
    assert again.step == step
    to_its_end(again)
    assert same_weights(tmp_path / "unbroken", tmp_path / "broken")
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "unbroken")


def test_a_second_signal_breaks_off_at_once(trainer, tmp_path: Path):
    run = trainer()
    compute = run._train_step

    def signalled(parts):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return compute(parts)

    run._train_step = signalled
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.step == 0 and steps_in(tmp_path / "run") == []


def test_a_run_that_is_told_to_stop_in_its_last_step_has_finished(trainer, tmp_path: Path):
    run = trainer()
    stop_after(run, 8, signal.SIGTERM)
    to_its_end(run)
    assert is_finished(tmp_path / "run")


def test_a_run_beside_the_main_thread_still_trains(trainer, tmp_path: Path):
    thread = threading.Thread(target=lambda: to_its_end(trainer(num_steps=2)))
    thread.start()
    thread.join()
    assert is_finished(tmp_path / "run")


LONG = ["--loop.num-steps", "100000", "--loop.log-every", "1", "--loop.save-every", "100000"]


def start(prepared: Path, run: Path, *words: object) -> subprocess.Popen:
    """A command in a group of its own, as a terminal starts it, that has begun to train."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, words), "--data", prepared, "--run", run],
        cwd=ROOT,
        env=os.environ | ONE_CORE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ends = time.monotonic() + 120
    while not list(run.glob("*/metrics.jsonl")) or not all(
        path.stat().st_size for path in run.glob("*/metrics.jsonl")
    ):
        assert process.poll() is None and time.monotonic() < ends, process.stderr.read()
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_told_to_stop_saves_and_exits_as_told(
    prepared_folder: Path, tmp_path: Path, number: signal.Signals, code: int
):
    words = ["train.tokenizer", "--preset", "tiny", "--threads", "1", *LONG]
    process = start(prepared_folder, tmp_path, *words)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err[-2000:]
    assert len(steps_in(tmp_path / "tokenizer")) == 1, "what was learnt is lost"
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stages_save_when_the_command_that_started_them_is_told_to_stop(
    prepared_folder: Path, tmp_path: Path, number: signal.Signals, code: int
):
    words = ["train", "--preset", "tiny", "--out", tmp_path / "world"]
    process = start(prepared_folder, tmp_path / "run", *words)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal tells all of them
    else:
        process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err[-2000:]
    stages = [path.parent for path in (tmp_path / "run").glob("*/metrics.jsonl")]
    assert stages
    unsaved = [stage.name for stage in stages if not steps_in(stage)]
    assert not unsaved, f"{unsaved} lost what they had learnt"
    assert "Traceback" not in err


# Torn files


@pytest.mark.parametrize("tear", ["half", "empty", "noise"])
def test_the_state_before_a_torn_one_is_taken(trainer, tmp_path: Path, capsys, tear: str):
    to_its_end(trainer("unbroken", save_every=2))
    to_its_end(trainer("torn", save_every=2))
    folder = tmp_path / "torn"
    (folder / "weights.safetensors").unlink()
    newest = folder / f"state-{steps_in(folder)[-1]:07d}.pt"
    content = newest.read_bytes()
    newest.write_bytes(
        {"half": content[: len(content) // 2], "empty": b"", "noise": bytes(999)}[tear]
    )
    before = steps_in(folder)
    again = trainer("torn", save_every=2)
    said = capsys.readouterr()
    assert newest.name in said.out + said.err, "it does not say which file is torn"
    assert again.step == before[-2]
    to_its_end(again)
    assert same_weights(tmp_path / "unbroken", folder)
    assert lines_of(folder) == lines_of(tmp_path / "unbroken")


def test_a_state_cut_off_anywhere_is_torn(trainer, tmp_path: Path):
    to_its_end(trainer())
    states = States(tmp_path / "run", 2, say=lambda _: None)
    newest, other = (states._path(step) for step in reversed(states.steps()[-2:]))
    other.write_bytes(newest.read_bytes())
    content = newest.read_bytes()
    for length in range(0, len(content), len(content) // 200):
        newest.write_bytes(content[:length])
        assert states.newest()["step"] == 8


def test_a_run_all_of_whose_states_are_torn_starts_over(trainer, tmp_path: Path):
    to_its_end(trainer("unbroken"))
    to_its_end(trainer("torn"))
    (tmp_path / "torn" / "weights.safetensors").unlink()
    for path in (tmp_path / "torn").glob("state-*.pt"):
        path.write_bytes(b"")
    again = trainer("torn")
    assert again.step == 0
    to_its_end(again)
    assert same_weights(tmp_path / "unbroken", tmp_path / "torn")


# No room


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_a_state(_state, file, **__):
    """As torch reports it: half is written, and the error is none of the system's."""
    file.write(b"half")
    raise RuntimeError("[enforce fail at inline_container.cc:672] .\nunexpected pos 64 vs 8")


@pytest.mark.parametrize("where", ["fsync", "save"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    trainer, tmp_path: Path, monkeypatch, where: str
):
    to_its_end(trainer("unbroken"))
    run = trainer("full")
    saved = States.save

    def save(self, step, state, *, milestone):
        with pytest.MonkeyPatch.context() as patch:
            if step == 6 and where == "fsync":
                patch.setattr(states_file.os, "fsync", full_disk)
            elif step == 6:
                patch.setattr(states_file.torch, "save", half_a_state)
            saved(self, step, state, milestone=milestone)

    monkeypatch.setattr(States, "save", save)
    with pytest.raises(UserError, match=r"cannot save step 6.*make room.*step 4 is whole") as told:
        run.run()
    assert "\n" not in str(told.value)
    folder = tmp_path / "full"
    assert steps_in(folder) == [3, 4]
    assert not list(folder.glob(".state*")), "half a file is left"
    monkeypatch.setattr(States, "save", saved)
    again = trainer("full")
    assert again.step == 4
    to_its_end(again)
    assert same_weights(tmp_path / "unbroken", folder)


def test_a_run_without_room_for_its_first_state_says_so(trainer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(states_file.os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot save step 3.*No space left.*none yet"):
        trainer().run()


def test_a_limit_on_the_size_of_files_is_one_line(prepared_folder: Path, tmp_path: Path):
    """The system itself refuses, in the middle of the file."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))\n"
        "import train.tokenizer as stage\n"
        "from train.errors import one_line_errors\n"
        "from train.presets import parse, presets_of\n"
        "with one_line_errors(): stage.main(parse(presets_of('tokenizer'), ''))\n"
    )
    words = ["--preset", "tiny", "--data", prepared_folder, "--run", tmp_path]
    words += ["--loop.num-steps", "2"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=ROOT,
        env=os.environ | ONE_CORE,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1 and "cannot save step" in errors[0], done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "tokenizer").glob("*state*"))


def test_what_a_kill_left_half_written_goes_when_the_next_state_is_saved(trainer, tmp_path: Path):
    run = trainer()
    (tmp_path / "run" / ".state-0000001.pt.partial").write_bytes(b"half")
    to_its_end(run)
    assert not list((tmp_path / "run").glob("*.partial"))


# How many states, and longer runs


def test_the_last_states_stay_and_the_one_before_the_rate_falls(trainer, tmp_path: Path):
    to_its_end(trainer(num_steps=20, save_every=3, keep_states=2))
    assert steps_in(tmp_path / "run") == [12, 18, 20]
    to_its_end(trainer("one", num_steps=20, save_every=3, keep_states=1))
    assert steps_in(tmp_path / "one") == [12, 20]


def test_how_many_states_stay_may_change_when_a_run_goes_on(trainer, tmp_path: Path):
    run = trainer(num_steps=20, save_every=2, keep_states=4)
    stop_after(run, 11, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert steps_in(tmp_path / "run") == [6, 8, 10, 11]
    to_its_end(trainer(num_steps=20, save_every=2, keep_states=1))
    assert steps_in(tmp_path / "run") == [12, 20]


@pytest.mark.parametrize("values", [{}, {"average": 0.9, "save_every": 5}, {"save_every": 100}])
def test_a_run_made_longer_is_the_long_run(trainer, tmp_path: Path, values: dict):
    to_its_end(trainer("long", num_steps=14, **values))
    to_its_end(trainer("grown", num_steps=8, **values))
    short = (tmp_path / "grown" / "weights.safetensors").read_bytes()
    grown = trainer("grown", num_steps=14, **values)
    assert grown.step == 4, "it should go on from before the rate fell"
    assert not is_finished(tmp_path / "grown"), "the short run's weights pass for the long one's"
    to_its_end(grown)
    assert same_weights(tmp_path / "long", tmp_path / "grown")
    assert (tmp_path / "grown" / "weights-8-steps.safetensors").read_bytes() == short
    trained = [
        [line for line in lines_of(tmp_path / run) if line["split"] == "train"]
        for run in ("long", "grown")
    ]
    assert trained[0] == trained[1]


def test_a_run_grows_twice(trainer, tmp_path: Path):
    to_its_end(trainer("long", num_steps=14))
    for num_steps in (5, 9, 14):
        to_its_end(trainer("grown", num_steps=num_steps))
    assert same_weights(tmp_path / "long", tmp_path / "grown")
    kept = sorted(path.name for path in (tmp_path / "grown").glob("weights-*"))
    assert kept == ["weights-5-steps.safetensors", "weights-9-steps.safetensors"]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"schedule": "cosine"}, {"schedule": "cosine", "num_steps": 14}),
        ({}, {"num_steps": 6}),
        ({}, {"num_steps": 14, "learning_rate": 1e-3}),
        ({}, {"num_steps": 14, "seed": 1}),
    ],
)
def test_what_cannot_be_made_longer_is_refused(trainer, tmp_path: Path, first: dict, then: dict):
    to_its_end(trainer(**first))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match="other settings"):
        trainer(**then)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert after == before, "a refused run was touched"


def test_a_run_from_before_tokens_had_digits_goes_on(tmp_path: Path):
    model = {"codebook_size": 60, "dim": 8}
    folder = tmp_path / "run"
    claim(folder, {"model": model, "loop": {}})
    claim(folder, {"model": model | {"factors": []}, "loop": {}})
    with pytest.raises(UserError, match="other settings"):
        claim(folder, {"model": model | {"factors": [12, 5]}, "loop": {}})


def test_a_run_from_before_there_was_a_choice_of_optimisers_goes_on_with_adamw(
    trainer, tmp_path: Path
):
    to_its_end(trainer(num_steps=5, optimizer="adamw"))
    config = tmp_path / "run" / "config.json"
    description = json.loads(config.read_text())
    assert description["loop"].pop("optimizer") == "adamw"
    config.write_text(json.dumps(description))
    with pytest.raises(UserError, match="optimizer"):
        trainer(num_steps=5, optimizer="muon")
    to_its_end(trainer(num_steps=9, optimizer="adamw"))


def test_a_finished_run_whose_states_were_deleted_is_left_alone(trainer, tmp_path: Path):
    metrics = to_its_end(trainer())
    for path in (tmp_path / "run").glob("state-*.pt"):
        path.unlink()
    before = lines_of(tmp_path / "run")
    again = trainer()
    again._train_step = lambda _: pytest.fail("a finished net is trained again")
    assert to_its_end(again)["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    assert lines_of(tmp_path / "run") == before


@pytest.mark.parametrize("evaluate_every", [4, 100])
def test_a_run_killed_before_its_last_evaluation_makes_up_for_it(
    trainer, tmp_path: Path, evaluate_every: int
):
    to_its_end(trainer("unbroken", evaluate_every=evaluate_every))
    run = trainer("broken", evaluate_every=evaluate_every)

    def broken(_bar, last: bool):
        if last:
            raise EOFError("killed")

    judge, run._judge = run._judge, lambda bar, last: broken(bar, last) or judge(bar, last)
    with pytest.raises(EOFError):
        run.run()
    found = to_its_end(trainer("broken", evaluate_every=evaluate_every))
    assert found, "a net was accepted that nobody has measured"
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "unbroken")


def test_a_run_killed_before_an_evaluation_at_a_saved_step_makes_up_for_it(trainer, tmp_path: Path):
    to_its_end(trainer("unbroken", save_every=4))
    run = trainer("broken", save_every=4)

    def broken(*_):
        raise EOFError("killed")

    run._judge = broken
    with pytest.raises(EOFError):
        run.run()
    to_its_end(trainer("broken", save_every=4))
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "unbroken")


# Runs that break down


def test_a_loss_that_is_no_number_leaves_the_last_good_state(trainer, tmp_path: Path):
    run = trainer(save_every=2)
    compute = run._train_step

    def broken(parts):
        metrics = compute(parts)
        return metrics | {"loss": torch.tensor(float("nan"))} if run.step >= 4 else metrics

    run._train_step = broken
    with pytest.raises(UserError, match=r"loss became nan at step 6.*--loop.learning-rate"):
        run.run()
    assert steps_in(tmp_path / "run") == [2, 4]


def test_gradients_that_are_no_numbers_stop_the_run(trainer, tmp_path: Path):
    run = trainer(save_every=2)

    def broken(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if run.step == 5 else gradient

    run.net.out.weight.register_hook(broken)
    with pytest.raises(UserError, match=r"grad norm became nan at step 6.*--loop.learning-rate"):
        run.run()
    assert steps_in(tmp_path / "run") == [2, 4], "weights that are no numbers were saved"
    for tensor in torch.load(tmp_path / "run" / "state-0000004.pt")["net"].values():
        assert tensor.isfinite().all()


def advice(*collapses: bool) -> Callable[[dict], str]:
    told = iter(collapses)
    return lambda _: "the net collapsed: lower --loop.learning-rate" * next(told)


def test_one_collapse_is_a_warning(trainer, tmp_path: Path, capsys):
    options = {"advise": advice(True, True, False, True, True, False)}
    to_its_end(trainer(num_steps=6, evaluate_every=1, options=options))
    assert is_finished(tmp_path / "run")
    said = "".join(capsys.readouterr())
    warnings = re.findall(r"warning: the net collapsed.*\((\d) of 3", said)
    assert warnings == ["1", "2", "1", "2"]


def test_a_net_that_stays_collapsed_is_given_up(trainer, tmp_path: Path):
    options = {"advise": advice(False, *[True] * MOST_STRIKES)}
    run = trainer(num_steps=20, evaluate_every=2, options=options)
    with pytest.raises(UserError, match="the net collapsed"):
        run.run()
    assert run.step == 2 * (1 + MOST_STRIKES) and not is_finished(tmp_path / "run")


def test_a_kill_is_no_way_round_giving_up(trainer, tmp_path: Path):
    settings = {"num_steps": 20, "evaluate_every": 2, "save_every": 2}
    run = trainer(options={"advise": advice(False, True, True)}, **settings)
    run._judge = killed_after(run._judge, 3)
    with pytest.raises(EOFError):
        run.run()
    # What is asked about the three evaluations of before, newest first, then the next one.
    again = trainer(options={"advise": advice(True, True, False, True)}, **settings)
    with pytest.raises(UserError, match="the net collapsed"):
        again.run()
    assert again.step == 8


def killed_after(work: Callable, times: int) -> Callable:
    left = iter(range(times))

    def done(*arguments):
        result = work(*arguments)
        if next(left) == times - 1:
            raise EOFError("killed")
        return result

    return done


def test_how_often_to_save_may_change_on_the_way(trainer, tmp_path: Path):
    to_its_end(trainer("unbroken"))
    run = trainer("changed", save_every=2)
    run._judge = lambda *_: None
    run._train_step = killed_after(run._train_step, 5)
    with pytest.raises(EOFError):
        run.run()
    to_its_end(trainer("changed", save_every=3, log_every=2, keep_states=5))
    assert same_weights(tmp_path / "unbroken", tmp_path / "changed")
    described = json.loads((tmp_path / "changed" / "config.json").read_text())
    assert described["loop"]["save_every"] == 3, "the folder tells how it began, not how it is"


def test_a_net_that_ends_collapsed_is_refused_each_time(trainer, tmp_path: Path):
    for _ in range(2):
        with pytest.raises(UserError, match="the net collapsed"):
            trainer(options={"advise": lambda _: "the net collapsed"}, num_steps=1).run()
    assert not is_finished(tmp_path / "run")


def test_a_state_says_what_it_holds(trainer, tmp_path: Path):
    to_its_end(trainer(average=0.5))
    state = torch.load(tmp_path / "run" / "state-0000008.pt", weights_only=True)
    assert state["step"] == 8
    assert state.keys() == {"step", "net", "optimizer", "average"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["net"] == "dynamics"
