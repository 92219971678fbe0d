"""Training: the schedule, runs that resume as if nothing had happened, and the commands."""

import contextlib
import json
import math
import os
import platform
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import scrolling_ground, tiny_world_config
from safetensors.torch import load_file
from torch import nn

from genie import machine, video
from genie.data.clips import Clips, FrameStore, TokenStore
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
from genie.dynamics import Dynamics
from genie.errors import UserError
from genie.frames import to_float
from genie.latent_action import LatentActionModel
from genie.tokenizer import Tokenizer
from genie.world import NETS
from train import __main__ as pipeline
from train import encode as encoding
from train import latent_action, tokenizer
from train.loop.config import LoopConfig
from train.loop.previews import dynamics_judge
from train.loop.run_folder import RunFolder, describe, is_finished, load_finished
from train.loop.schedule import learning_rate
from train.loop.trainer import Trainer
from train.presets import StageConfig, parse, presets_of
from train.stage import HOW_IT_RUNS, fit

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("tokenizer", "latent_action", "dynamics")
ONE_CORE = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Bits repeat on one kind of machine with one number of threads."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE_CORE.items():
            patch.setenv(name, value)
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def on_one_core() -> Iterator[None]:
    with one_core():
        yield


def loop_config(**values) -> LoopConfig:
    small = {
        "num_steps": 8,
        "batch_size": 3,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "precision": "float32",
        "log_every": 2,
        "evaluate_every": 4,
        "evaluate_batches": 2,
        "save_every": 3,
    }
    return LoopConfig(**small | values)


# The schedule


def test_wsd_warms_up_stays_and_falls():
    config = loop_config(num_steps=100, warmup_steps=10, decay_share=0.4, learning_rate=2.0)
    rates = [learning_rate(config, step, step / 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:60] == pytest.approx([2.0] * 50), "the rate should stay"
    assert rates[60:] == pytest.approx([2.0 * (100 - step) / 40 for step in range(60, 100)])


def test_cosine_falls_from_the_first_step_to_the_last():
    config = loop_config(num_steps=50, warmup_steps=0, schedule="cosine", learning_rate=2.0)
    rates = [learning_rate(config, step, step / 50) for step in range(50)]
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 50) for step in range(50)])


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_final_rate_is_where_it_ends(schedule: str):
    config = loop_config(
        num_steps=1000, schedule=schedule, learning_rate=2.0, final_learning_rate=0.5
    )
    assert learning_rate(config, 999, 0.999) == pytest.approx(0.5, rel=0.01)
    constant = replace(config, final_learning_rate=2.0)
    assert {round(learning_rate(constant, step, step / 1000), 9) for step in range(5, 1000)} == {
        2.0
    }


@pytest.mark.parametrize(
    "values",
    [
        {"num_steps": 0},
        {"batch_size": 0},
        {"log_every": 0},
        {"evaluate_every": 0},
        {"evaluate_batches": 0},
        {"save_every": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
    ],
)
def test_impossible_loop_is_refused(values: dict):
    with pytest.raises(UserError, match=next(iter(values))):
        loop_config(**values)


# Runs that stop and go on


class Interrupted(Clips):
    """Clips whose reading is broken off after a while."""

    num_reads = 0
    last_read = 10**9

    def __getitem__(self, index: int):
        self.num_reads += 1
        if self.num_reads > self.last_read:
            raise EOFError("the reader broke")
        return super().__getitem__(index)


def make_net(name: str) -> nn.Module:
    config = tiny_world_config()
    makers = {"tokenizer": Tokenizer, "latent_action": LatentActionModel, "dynamics": Dynamics}
    torch.manual_seed(0)
    return makers[name](getattr(config, name))


def open_stores(prepared_folder: Path) -> dict[str, tuple]:
    """Both splits of what each net learns from."""
    frames = [FrameStore.open(prepared_folder, split) for split in ("train", "heldout")]
    generator = torch.Generator().manual_seed(0)
    tokens = [
        TokenStore(
            torch.randint(60, (len(store), 24), generator=generator, dtype=torch.int32),
            torch.randint(5, (len(store),), generator=generator, dtype=torch.int32),
            store.scene_starts,
        )
        for store in frames
    ]
    return {"tokenizer": frames, "latent_action": frames, "dynamics": tokens}


def small_trainer(
    stores: dict[str, tuple],
    folder: Path,
    net: str,
    last_read: int = 10**9,
    made: nn.Module | None = None,
    options: dict | None = None,
    **values,
) -> Trainer:
    """The trainer of a small run; `last_read` breaks it off, `options` are the trainer's own."""
    train, heldout = (Interrupted(store, 5) for store in stores[net])
    train.last_read = last_read
    config = loop_config(**values)
    described = {k: v for k, v in describe(loop=config)["loop"].items() if k not in HOW_IT_RUNS}
    description = describe(loop=described, net=net)
    made = make_net(net) if made is None else made
    return Trainer(made, train, heldout, config, folder, description, **options or {})


@pytest.fixture(scope="module")
def stores(prepared_folder: Path) -> dict[str, tuple]:
    return open_stores(prepared_folder)


@pytest.fixture
def trainer(stores: dict[str, tuple], tmp_path: Path) -> Callable[..., Trainer]:
    """See `small_trainer`; all folders are in one."""

    def make(net: str, folder: str = "run", **values) -> Trainer:
        return small_trainer(stores, tmp_path / folder, net, **values)

    return make


def to_its_end(trainer: Trainer) -> dict[str, float]:
    metrics = trainer.run()
    trainer.finish()
    return metrics


CLOCKED = {"step_s", "wait_s", "frames_per_s", "tokens_per_s", "mfu"}


def lines_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKED} for line in lines]


@pytest.mark.parametrize("net", NETS)
def test_a_resumed_run_is_the_unbroken_run(trainer, tmp_path: Path, net: str):
    to_its_end(trainer(net, "unbroken"))
    with pytest.raises(EOFError):
        trainer(net, "broken", last_read=18).run()  # in step 6 or 7; step 3 or 6 was saved
    assert not is_finished(tmp_path / "broken"), "half a run must not pass for a whole one"
    with pytest.raises(UserError, match="finished"):
        load_finished(make_net(net), tmp_path / "broken")
    again = trainer(net, "broken")
    assert 0 < again.step < 8, "the run should go on in its middle"
    to_its_end(again)
    wanted = load_file(tmp_path / "unbroken" / "weights.safetensors")
    found = load_file(tmp_path / "broken" / "weights.safetensors")
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), f"{name} differs from the unbroken run"
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "unbroken")


def test_training_moves_the_weights_and_another_seed_moves_them_elsewhere(trainer, tmp_path: Path):
    to_its_end(trainer("dynamics", "one"))
    to_its_end(trainer("dynamics", "other", seed=1))
    one, other = (load_file(tmp_path / n / "weights.safetensors") for n in ("one", "other"))
    start = make_net("dynamics").state_dict()
    assert not torch.equal(one["out.weight"], start["out.weight"])
    assert not torch.equal(one["out.weight"], other["out.weight"]), "the seed has no effect"


def test_a_finished_run_is_left_alone(trainer, tmp_path: Path):
    metrics = to_its_end(trainer("dynamics"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    again = to_its_end(trainer("dynamics"))
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert again["cross_entropy"] == pytest.approx(metrics["cross_entropy"], rel=1e-5)
    net = load_finished(make_net("dynamics"), tmp_path / "run")
    assert torch.equal(
        net.out.weight, load_file(tmp_path / "run/weights.safetensors")["out.weight"]
    )
    assert not net.training


def test_other_settings_in_the_same_folder_are_refused_by_name(trainer, tmp_path: Path):
    to_its_end(trainer("dynamics"))
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"loop\.learning_rate: 0\.003 there, 0\.001 now"):
        trainer("dynamics", learning_rate=1e-3)
    with pytest.raises(UserError, match="net: dynamics there, tokenizer now"):
        trainer("tokenizer")
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before


def test_every_start_of_an_unfinished_run_is_written_down(trainer, tmp_path: Path):
    trainer("dynamics")
    to_its_end(trainer("dynamics"))
    to_its_end(trainer("dynamics"))
    lines = (tmp_path / "run" / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["python"] for line in lines] == [platform.python_version()] * 2


def test_a_run_folder_that_cannot_be_made_is_refused(trainer, tmp_path: Path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        trainer("dynamics")


def test_two_processes_never_train_in_one_folder(trainer, tmp_path: Path):
    running = trainer("dynamics")
    script = (
        "import sys\nfrom pathlib import Path\nfrom train.loop.run_folder import RunFolder\n"
        "from genie.errors import UserError\n"
        "try: RunFolder(Path(sys.argv[1]), {})\n"
        "except UserError as error: print(error)"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "run"], cwd=ROOT, capture_output=True, text=True
    )
    assert "by another process" in other.stdout, other.stderr
    assert running.step == 0


def test_a_stage_ends_with_the_pipeline_that_started_it():
    """Its parent is killed; the pipe that both write to closes only when the stage is gone too."""
    stage = (
        "import time; from genie.orphans import end_with_parent\n"
        "end_with_parent(); print('started', flush=True); time.sleep(100)"
    )
    pipeline = (
        "import os, signal, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stage!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    words = [sys.executable, "-c", pipeline]
    result = subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == -9


def test_a_torn_line_of_metrics_is_forgotten(trainer, tmp_path: Path):
    to_its_end(trainer("dynamics"))
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 8, "spl')
    again = to_its_end(trainer("dynamics"))
    assert again["cross_entropy"] > 0 and path.read_text() == whole


def test_metrics_of_a_run_that_never_saved_are_forgotten(tmp_path: Path):
    folder = RunFolder(tmp_path, {})
    folder.log(1, "train", {"loss": 1.0})
    assert folder.resume() is None
    assert lines_of(tmp_path) == []


def test_flags_that_the_data_contradicts_are_refused():
    config = tiny_world_config().tokenizer
    assert fit(config, height=config.height).height == config.height
    with pytest.raises(UserError, match=f"--model.height is {config.height}.*says 96"):
        fit(config, height=96)


def test_metrics_are_logged_for_both_splits(trainer, tmp_path: Path):
    trainer("tokenizer").run()
    lines = lines_of(tmp_path / "run")
    steps = {
        split: [line["step"] for line in lines if line["split"] == split]
        for split in ("train", "heldout")
    }
    assert steps == {"train": [2, 4, 6, 8], "heldout": [4, 8]}
    assert all(math.isfinite(line["loss"]) and line["psnr"] > 0 for line in lines)
    assert lines[0]["learning_rate"] == pytest.approx(3e-3)


def test_a_loss_that_is_no_number_stops_the_run(trainer, tmp_path: Path):
    run = trainer("dynamics")
    with torch.no_grad():
        run.net.out.bias[0] = float("nan")
    with pytest.raises(UserError, match="learning-rate"):
        run.run()
    assert not is_finished(tmp_path / "run")


def test_fewer_clips_than_a_batch_still_train(trainer, tmp_path: Path):
    to_its_end(trainer("dynamics", batch_size=10_000, num_steps=2))
    assert is_finished(tmp_path / "run")


def test_every_clip_is_seen_once_in_an_epoch(trainer):
    run = trainer("dynamics", batch_size=27)  # 6 videos of 36 windows: 8 batches
    batches = [run.batches.batch_sampler, iter(run.batches.batch_sampler)][1]
    epochs = [[row for _ in range(8) for row in next(batches)] for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(216)), "an epoch misses or repeats clips"
    assert epochs[0] != epochs[1], "every epoch has the same order"


# Collapse


@pytest.mark.parametrize(
    ("perplexity", "delta", "alive"),
    [(4.2, 2.0, True), (1.0, 2.0, False), (4.2, 0.0, False), (1.2, 0.01, False)],
)
def test_collapsed_actions_are_told(perplexity: float, delta: float, alive: bool):
    advice = latent_action.advise({"perplexity": perplexity, "delta_psnr": delta})
    if alive:
        assert advice == ""
    else:
        assert re.search(f"collapsed.*{perplexity:.2f}", advice) and "--loop" in advice


def test_a_collapsed_codebook_is_told():
    assert tokenizer.advise({"perplexity": 1.6}) == ""
    assert re.search("collapsed.*1.20.*--loop", tokenizer.advise({"perplexity": 1.2}))


def test_collapsed_actions_are_refused_each_time(
    prepared_folder: Path, monkeypatch, capsys, tmp_path: Path
):
    flags = ["--preset", "tiny", "--data", prepared_folder, "--run", tmp_path / "run"]
    flags += ["--loop.num-steps", "1", "--loop.precision", "float32"]
    for _ in range(2):
        assert run_module("train.latent_action", *flags, monkeypatch=monkeypatch) == 2
        assert "collapsed" in capsys.readouterr().err
        assert not is_finished(tmp_path / "run" / "latent_action")


# Tokens for the dynamics


@pytest.fixture
def encoders() -> tuple[Tokenizer, LatentActionModel]:
    return make_net("tokenizer").eval(), make_net("latent_action").eval()


@pytest.mark.parametrize("scenes_at_once", [None, 3])
def test_tokens_are_those_of_the_nets(
    encoders, prepared_folder: Path, monkeypatch: pytest.MonkeyPatch, scenes_at_once: int | None
):
    monkeypatch.setattr(machine, "has_fast_bf16", lambda _: False)
    monkeypatch.setattr(encoding, "ENCODE_FRAMES", 17)  # so that clips differ in length
    store = FrameStore.open(prepared_folder, "heldout")
    made = encoding.encode(*encoders, store, scenes_at_once)
    for start, stop in pairwise(store.scene_starts.tolist()):
        frames = to_float(store.read(start, stop))[None]
        tokens, actions = made.read(start, stop)
        with torch.no_grad():
            assert torch.equal(tokens, encoders[0].encode(frames)[0])
            assert torch.equal(actions, encoders[1].infer(frames)[0]), "an action beside its frame"


def test_pieces_of_a_long_video_join_without_a_seam(
    encoders, prepared_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "has_fast_bf16", lambda _: False)
    store = FrameStore.open(prepared_folder, "train")
    # Two blocks see twice as far back as one.
    deeper = Tokenizer(replace(encoders[0].config, encoder_blocks=2)).eval()
    torch.nn.init.normal_(deeper.codebook.quantizer.project_in.linear.weight, std=0.5)
    encoders = deeper, encoders[1]
    whole = encoding.encode(*encoders, store)
    monkeypatch.setattr(encoding, "ENCODE_FRAMES", 7)
    pieces = encoding.encode(*encoders, store)
    inside = torch.ones(len(store), dtype=torch.bool)
    inside[store.scene_starts[1:] - 1] = False  # no action leads out of a scene
    assert torch.equal(pieces.tokens, whole.tokens)
    assert torch.equal(pieces.actions[inside], whole.actions[inside])


def test_nets_that_encoding_moved_to_a_device_can_be_judged_with(
    encoders, prepared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On a GPU they move there within `encode`, which makes new tensors of all of theirs."""
    store = FrameStore.open(prepared_folder, "heldout")
    for net in encoders:

        def move(_, net=net):
            return net._apply(lambda tensor: tensor.clone())

        monkeypatch.setattr(net, "to", move)
    encoding.encode(*encoders, store)
    judge = dynamics_judge(tiny_world_config(), *encoders, store)
    assert judge(make_net("dynamics"), tmp_path)["rollout_psnr_4"] > 0


def write_encoders(run: Path, encoders: tuple[Tokenizer, LatentActionModel]) -> None:
    """As two stages that have finished."""
    for name, net in zip(("tokenizer", "latent_action"), encoders, strict=True):
        (run / name / "weights.safetensors").unlink(missing_ok=True)
        RunFolder(run / name, describe(model=net.config)).finish(net.state_dict(), 1)


def test_tokens_are_computed_once(
    encoders, prepared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = FrameStore.open(prepared_folder, "heldout")
    config = StageConfig(data=prepared_folder, run=tmp_path, clip_frames=4, loop=loop_config())
    made = encoding.open_tokens(config, *encoders, store)
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("computed a second time"))
    again = encoding.open_tokens(config, *encoders, store)
    assert torch.equal(again.tokens, made.tokens) and torch.equal(again.actions, made.actions)


@pytest.mark.parametrize("replays", [False, True])
def test_tokens_of_other_nets_are_refused_with_the_command_that_mends_it(
    encoders, prepared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replays: bool
):
    stores = [FrameStore.open(prepared_folder, split) for split in ("train", "heldout")]
    named = [(stores[0], None), (stores[1], None), *[(stores[0], "replay")] * replays]
    config = StageConfig(
        data=prepared_folder,
        run=tmp_path / "a run",
        replay=prepared_folder if replays else None,
        clip_frames=4,
        loop=loop_config(),
    )
    for store, name in named:
        encoding.open_tokens(config, *encoders, store, name)
    with torch.no_grad():
        encoders[0].encoder_position += 1
    write_encoders(config.run, encoders)
    with pytest.raises(UserError, match="tokens of other nets") as refusal:
        encoding.open_tokens(config, *encoders, *named[-1])
    assert "\n" not in str(refusal.value)
    words = shlex.split(str(refusal.value).split("anew with: ")[1])
    assert words[1:3] == ["-m", "train.encode"]
    assert run_module(*words[2:], monkeypatch=monkeypatch) == 0
    for store, name in named:
        opened = encoding.open_tokens(config, *encoders, store, name)
        assert torch.equal(opened.tokens, encoding.encode(*encoders, store).tokens)


def test_torn_tokens_are_refused_with_the_command_that_mends_them(
    encoders, prepared_folder: Path, tmp_path: Path
):
    store = FrameStore.open(prepared_folder, "heldout")
    config = StageConfig(data=prepared_folder, run=tmp_path, clip_frames=4, loop=loop_config())
    encoding.open_tokens(config, *encoders, store)
    rows = tmp_path / "tokens" / "heldout" / "rows.arrow"
    content = rows.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 100):
        rows.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"is damaged.*train\.encode"):
            encoding.open_tokens(config, *encoders, store)


def test_no_room_for_tokens_is_one_line(encoders, prepared_folder: Path, tmp_path: Path):
    config = StageConfig(data=prepared_folder, run=tmp_path, clip_frames=4, loop=loop_config())
    store = FrameStore.open(prepared_folder, "heldout")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*heldout"):
            encoding.open_tokens(config, *encoders, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not list((tmp_path / "tokens").iterdir()), "half of it is left"


# Commands


def run_module(name: str, *flags: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `python -m name flags`, run in this process because imports take seconds."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, name, raising=False)
        try:
            runpy.run_module(name, run_name="__main__")
        except SystemExit as exit_:
            return exit_.code or 0
    return 0


@pytest.mark.parametrize(
    "module", ["__main__", "prepare", "evaluate", "encode", "compare", *STAGES]
)
def test_every_command_explains_itself(module: str, monkeypatch, capsys):
    assert run_module(f"train.{module}", "--help", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "usage" in out and "--" in out


@pytest.mark.parametrize("module", ["__main__", *STAGES])
def test_unknown_preset_is_one_line_and_code_2(module: str, monkeypatch, capsys, tmp_path: Path):
    flags = ["--preset", "huge", "--data", tmp_path, *(["--out", "x"] * (module == "__main__"))]
    monkeypatch.chdir(tmp_path)
    assert run_module(f"train.{module}", *flags, monkeypatch=monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert "'huge'" in err and "nano" in err, "it does not say what there is"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["__main__", "prepare", "encode", *STAGES])
def test_missing_data_is_one_line_and_code_2(module: str, monkeypatch, capsys, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    flags = {
        "prepare": ["nowhere", "--out", "out"],
        "__main__": ["--data", "nowhere", "--out", "out"],
    }.get(module, ["--data", "nowhere", "--run", "run"])
    assert run_module(f"train.{module}", *flags, monkeypatch=monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ") and "nowhere" in err
    assert not list(tmp_path.iterdir()), "something was made for nothing"


def test_dynamics_wants_the_other_stages_first(
    prepared_folder: Path, monkeypatch, capsys, tmp_path: Path
):
    flags = ["--preset", "tiny", "--data", prepared_folder, "--run", tmp_path / "run"]
    assert run_module("train.dynamics", *flags, monkeypatch=monkeypatch) == 2
    assert "train/tokenizer.py" in capsys.readouterr().err


def test_videos_shorter_than_a_clip_are_named(
    prepared_folder: Path, monkeypatch, capsys, tmp_path: Path
):
    flags = ["--preset", "tiny", "--data", prepared_folder, "--run", tmp_path / "run"]
    flags += ["--clip-frames", "41"]
    assert run_module("train.tokenizer", *flags, monkeypatch=monkeypatch) == 2
    err = capsys.readouterr().err
    assert "41" in err and "40" in err and err.count("\n") == 1


def test_flags_lie_over_the_preset():
    small = StageConfig(threads=3, clip_frames=4, loop=loop_config())
    presets = {"small": small, "large": replace(small, threads=7)}
    for flags in (["--preset", "large"], ["--preset=large"]):
        config = parse(presets, "Test.", [*flags, "--run", "elsewhere"])
        assert (config.threads, config.run) == (7, Path("elsewhere"))
    assert parse(presets, "Test.", ["--preset", "small", "--threads", "1"]).threads == 1
    with pytest.raises(UserError, match="wants a name"):
        parse(presets, "Test.", ["--preset"])


def command(*words, timeout: int = 600) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        env=os.environ | ONE_CORE,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.timeout(600)
def test_accelerate_launches_a_stage(prepared_folder: Path, tmp_path: Path):
    flags = ["--preset", "tiny", "--data", prepared_folder, "--run", tmp_path / "run"]
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    result = command(
        *launch, "train/tokenizer.py", *flags, "--loop.num-steps", "40", "--threads", "1"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert is_finished(tmp_path / "run" / "tokenizer")
    assert "PSNR" in result.stdout + result.stderr or "psnr" in result.stdout + result.stderr


# The one command


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--out", ""], "--out is empty"),
        (["--size", "90", "160"], "--model.patch-size 10"),
        (["--size", "9000", "64"], "at most 1024"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_work(
    flags: list[str], told: str, recorded_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    words = ["--data", recorded_folder, "--out", tmp_path / "world", "--run", tmp_path / "run"]
    assert run_module("train.__main__", *words, *flags, monkeypatch=monkeypatch) == 2
    err = capsys.readouterr().err
    assert told in err and err.startswith("error: ") and err.count("\n") == 1
    assert not list(tmp_path.rglob("*.json")), "something was made for nothing"


def test_data_that_moved_is_known_by_what_it_holds(
    prepared_folder: Path, recorded_folder: Path, tmp_path: Path, monkeypatch
):
    for number, folder in enumerate((prepared_folder, recorded_folder)):
        here, there = tmp_path / f"here-{number}", tmp_path / f"there-{number}"
        run = tmp_path / f"run-{number}"
        shutil.copytree(folder, here)
        config = pipeline.PipelineConfig(data=str(here), out=tmp_path / "world")
        pipeline._prepared(config, "tiny", run)
        here.rename(there)
        pipeline._prepared(replace(config, data=str(there)), "tiny", run)
        with pytest.raises(UserError, match="other settings"):
            others = (recorded_folder, prepared_folder)[number]
            pipeline._prepared(replace(config, data=str(others)), "tiny", run)
    where = tmp_path / "there-0"  # runs of before noted only that
    noted = {"data": str(where), "preset": "tiny"}
    (tmp_path / "run-0" / "config.json").write_text(json.dumps(noted))
    pipeline._prepared(replace(config, data=str(where)), "tiny", tmp_path / "run-0")


def test_videos_that_cannot_be_used_leave_the_run_folder_to_others(
    recorded_folder: Path, tmp_path: Path
):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "a.mp4").write_bytes(b"no video")
    config = pipeline.PipelineConfig(data=str(tmp_path / "wrong"), out=tmp_path / "world")
    with pytest.raises(UserError, match="none of the videos can be used"):
        pipeline._prepared(config, "tiny", tmp_path / "run")
    mended = replace(config, data=str(recorded_folder))
    assert pipeline._prepared(mended, "tiny", tmp_path / "run") == str(tmp_path / "run" / "data")
    with pytest.raises(UserError, match="other settings"):
        pipeline._prepared(config, "tiny", tmp_path / "run")


def test_a_stage_left_alone_keeps_its_threads(tmp_path: Path, monkeypatch):
    """Else its sums would not be those of the undisturbed run."""
    started = []

    class Stage:
        def __init__(self, words: list[str], env: dict[str, str], **_: object) -> None:
            started.append((words[2], words[-1], env["OMP_NUM_THREADS"]))

        def poll(self) -> int:
            return 0

        terminate = wait = poll

    monkeypatch.setattr(pipeline.subprocess, "Popen", Stage)
    monkeypatch.setattr(pipeline.os, "cpu_count", lambda: 6)
    pipeline._run_stages(["tokenizer", "latent_action"], lambda *_: [], side_by_side=2)
    pipeline._run_stages(["latent_action"], lambda *_: [], side_by_side=2)
    pipeline._run_stages(["dynamics"], lambda *_: [], side_by_side=1)
    assert started == [
        ("train.tokenizer", "3", "3"),
        ("train.latent_action", "3", "3"),
        ("train.latent_action", "3", "3"),
        ("train.dynamics", "6", "6"),
    ]


def test_frames_that_are_no_square_train_as_the_readme_says(tmp_path: Path):
    for split in ("train", "heldout"):
        (tmp_path / "videos" / split).mkdir(parents=True)
        frames = scrolling_ground(20, seed=len(split))[0].repeat(3, axis=1).repeat(4, axis=2)
        video.write(tmp_path / "videos" / split / "a.mp4", list(frames), fps=12.0)
    prepare([tmp_path / "videos"], tmp_path / "data", FrameOptions(size=(90, 160)), workers=1)
    flags = ["--model.patch-size", "10", "--model.stem", "linear", "--loop.num-steps", "2"]
    words = ["--preset", "tiny", "--data", str(tmp_path / "data"), "--run", str(tmp_path / "run")]
    flags += ["--loop.precision", "float32", "--threads", "1"]
    config = parse(presets_of("tokenizer"), "", [*words, *flags])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "COLLAPSED_PERPLEXITY", 0)
        tokenizer.main(config)
    described = json.loads((tmp_path / "run" / "tokenizer" / "config.json").read_text())["model"]
    assert (described["height"], described["width"]) == (90, 160)
