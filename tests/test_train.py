"""Training: schedules, exact resume, honest refusals, and the commands of the README."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import HEIGHT, WIDTH

from genie import video
from genie.data import FrameStore
from genie.errors import UserError
from genie.world import World
from train import dynamics, latent_action, tokenizer
from train.loop import LoopConfig, Trainer, learning_rate
from train.stage import parse

SIZE = ["--size", str(HEIGHT), str(WIDTH)]


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=170, cwd=cwd
    )


def _stage(data: Path, run: Path, **loop) -> tokenizer.TokenizerStage:
    tiny = tokenizer.PRESETS["tiny"]
    settings = {"num_steps": 8, "save_every": 2, "evaluate_every": 8, "precision": "float32"}
    return replace(tiny, data=data, run=run, threads=1, loop=replace(tiny.loop, **settings | loop))


def test_learning_rate_warms_up_stays_and_falls():
    config = LoopConfig(
        num_steps=100, batch_size=1, learning_rate=1.0, warmup_steps=10, decay_share=0.4
    )
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:60] == pytest.approx([1.0] * 51)
    assert all(a > b for a, b in pairwise(rates[61:]))
    assert rates[-1] == pytest.approx(0.025)
    cosine = replace(config, schedule="cosine", final_learning_rate=0.5)
    assert learning_rate(cosine, 50) == pytest.approx(0.75)


def test_resumed_run_ends_bit_for_bit_like_an_unbroken_one(
    prepared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, broken = (_stage(prepared_folder, tmp_path / name) for name in ("whole", "broken"))
    tokenizer.main(whole)

    ordinary = Trainer._train_step

    def stops_at_five(trainer: Trainer, batch):
        if trainer.step == 5:
            raise KeyboardInterrupt
        return ordinary(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stops_at_five)
        with pytest.raises(KeyboardInterrupt):
            tokenizer.main(broken)
    folder = tmp_path / "broken" / "tokenizer"
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 4
    tokenizer.main(broken)
    weights = [
        (tmp_path / name / "tokenizer" / "weights.safetensors").read_bytes()
        for name in ("whole", "broken")
    ]
    assert weights[0] == weights[1], "the resumed run went another way"
    steps = [
        json.loads(line)["step"]
        for line in (folder / "metrics.jsonl").read_text().splitlines()
        if json.loads(line)["split"] == "train"
    ]
    assert steps == sorted(set(steps)), "a step is logged twice"


def test_other_settings_in_the_same_folder_are_refused(prepared_folder: Path, tmp_path: Path):
    tokenizer.main(_stage(prepared_folder, tmp_path, num_steps=2))
    with pytest.raises(UserError, match=r"loop\.learning_rate"):
        tokenizer.main(_stage(prepared_folder, tmp_path, num_steps=2, learning_rate=1.0))


def test_finished_run_is_not_trained_again(prepared_folder: Path, tmp_path: Path):
    stage = _stage(prepared_folder, tmp_path, num_steps=2)
    tokenizer.main(stage)
    weights = tmp_path / "tokenizer" / "weights.safetensors"
    stamp = weights.stat().st_mtime_ns
    assert tokenizer.main(stage)["psnr"] > 0
    assert weights.stat().st_mtime_ns == stamp


def test_loss_that_is_no_number_stops_the_run(prepared_folder: Path, tmp_path: Path):
    stage = _stage(prepared_folder, tmp_path, learning_rate=1e9, warmup_steps=1, log_every=1)
    with pytest.raises(UserError, match="learning-rate"):
        tokenizer.main(stage)


@pytest.mark.parametrize(("perplexity", "delta"), [(1.2, 3.0), (6.0, 0.0)])
def test_collapsed_actions_are_refused(perplexity: float, delta: float):
    with pytest.raises(UserError, match="collapsed"):
        latent_action.check_alive({"perplexity": perplexity, "delta_psnr": delta})
    latent_action.check_alive({"perplexity": 6.0, "delta_psnr": 3.0})


def test_presets_can_be_overridden():
    stage = parse(dynamics.PRESETS, "", ["--preset", "tiny", "--model.dim", "48"])
    assert stage.model.dim == 48 and stage.loop == dynamics.PRESETS["tiny"].loop
    stage = parse(latent_action.PRESETS, "", ["--preset=paper", "--model.num-actions", "7"])
    assert stage.model.num_actions == 7 and stage.model.num_blocks == 8
    with pytest.raises(UserError, match="no preset 'huge'"):
        parse(dynamics.PRESETS, "", ["--preset", "huge"])


def test_all_three_paper_presets_fit_together():
    assert tokenizer.PRESETS.keys() == latent_action.PRESETS.keys() == dynamics.PRESETS.keys()
    paper = tokenizer.PRESETS["paper"].model
    assert (paper.num_tokens, paper.codebook.size) == (256, 1024)


@pytest.fixture(scope="module")
def trained(recorded_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole pipeline by its one command, from videos to a world."""
    folder = tmp_path_factory.mktemp("pipeline")
    command = ["-m", "train", "--data", str(recorded_folder), "--out", "world", "--preset", "tiny"]
    done = _run(*command, "--run", "run", *SIZE, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pipeline_makes_a_world_that_plays(trained: Path, recorded_folder: Path):
    world = World.from_pretrained(trained / "world")
    assert world.size == (HEIGHT, WIDTH) and world.fps == 12
    clip = next((recorded_folder / "heldout").glob("*.mp4"))
    session = world.start(video.read(clip)[:3])
    assert session.step(1).shape == (HEIGHT, WIDTH, 3)


def test_pipeline_repeated_changes_nothing(trained: Path, recorded_folder: Path):
    files = sorted(path for path in trained.rglob("weights.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in files]
    command = ["-m", "train", "--data", str(recorded_folder), "--out", "world", "--preset", "tiny"]
    done = _run(*command, "--run", "run", *SIZE, cwd=trained)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(files) == 3 and [path.stat().st_mtime_ns for path in files] == stamps


def test_stored_tokens_are_what_the_nets_say(trained: Path, monkeypatch: pytest.MonkeyPatch):
    run = trained / "run"
    nets = dynamics.load_encoders(run)
    store = FrameStore.open(run / "data", "heldout")
    with monkeypatch.context() as patch:
        patch.setattr(dynamics, "_pieces", lambda store: pytest.fail("encoded a second time"))
        tokens = dynamics.encode_split(*nets, store, run / "tokens" / "heldout")
    first, stop = store.video_starts[:2]
    frames = video.to_float(store.read(int(first), int(stop)))[None]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, dynamics.has_fast_bf16()):
        wanted = nets[0].encode(frames)[0], nets[1].infer(frames)[0]
    found = tokens.read(int(first), int(stop))
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_long_videos_are_encoded_in_pieces_without_a_seam(trained: Path, tmp_path: Path):
    run = trained / "run"
    nets = dynamics.load_encoders(run)
    store = FrameStore.open(run / "data", "heldout")
    whole = dynamics.encode_split(*nets, store, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "ENCODE_FRAMES", 11)
        pieces = dynamics.encode_split(*nets, store, tmp_path / "pieces")
    inner = torch.ones(len(store), dtype=torch.bool)
    inner[store.video_starts[1:] - 1] = False  # at a video's end there is no action
    assert (whole.actions == pieces.actions)[inner].float().mean() > 0.98
    assert (whole.tokens == pieces.tokens).float().mean() > 0.98


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["-m", "train", "--data", "nowhere", "--out", "x", "--preset", "tiny"], "nowhere"),
        (["-m", "train", "--data", "nowhere", "--out", "x", "--preset", "huge"], "huge"),
        (["-m", "train.prepare", "nowhere", "--out", "x"], "nowhere"),
        (["-m", "train.tokenizer", "--data", "nowhere"], "train.prepare"),
    ],
)
def test_mistakes_end_in_one_line(command: list[str], message: str, tmp_path: Path):
    done = _run(*command, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_dynamics_without_its_encoders_says_what_to_run(prepared_folder: Path, tmp_path: Path):
    config = replace(dynamics.PRESETS["tiny"], data=prepared_folder, run=tmp_path)
    with pytest.raises(UserError, match=r"train/tokenizer\.py"):
        dynamics.main(config)


def test_accelerate_launches_a_stage(prepared_folder: Path, tmp_path: Path):
    script = Path(tokenizer.__file__)
    done = _run(
        *["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", str(script)],
        *["--preset", "tiny", "--data", str(prepared_folder), "--run", str(tmp_path)],
        *["--loop.num-steps", "3"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "tokenizer" / "weights.safetensors").is_file()


@pytest.mark.parametrize("stage", ["tokenizer", "latent_action", "dynamics", "prepare", "evaluate"])
def test_help_is_there(stage: str):
    assert _run("-m", f"train.{stage}", "--help").returncode == 0
