"""Several processes train as one does: whole nets in each, or one net divided over them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import (
    ONE_CORE,
    ROOT,
    encoders,  # noqa: F401
    lines_of,
    on_one_core,  # noqa: F401
    open_stores,
    small_trainer,
    to_its_end,
    write_encoders,
)
from torch import nn

from train import tokenizer
from train.loop.run_folder import is_finished
from train.presets import PRESETS

SMALL = ["--preset", "tiny", "--threads", "1", "--loop.precision", "float32"]
SMALL += ["--loop.num-steps", "12", "--loop.log-every", "1", "--loop.save-every", "4"]


def on_two(script: str, *words: object, timeout: int = 120) -> subprocess.CompletedProcess:
    """What a script says, run by two processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--"]
    result = subprocess.run(
        [sys.executable, *launcher, script, *map(str, words)],
        cwd=ROOT,
        env=os.environ | ONE_CORE | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-6000:]
    return result


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor([line["loss"] for line in lines_of(folder) if line["split"] == "train"])


def heldout_losses(folder: Path) -> torch.Tensor:
    return torch.tensor([line["loss"] for line in lines_of(folder) if line["split"] == "heldout"])


def furthest(ones: Path, others: Path) -> float:
    """The largest difference of two runs' weights, beside how large they are."""
    a, b = (load_file(folder / "weights.safetensors") for folder in (ones, others))
    assert a.keys() == b.keys()
    return max(
        ((a[name].float() - b[name].float()).norm() / (1e-3 + a[name].float().norm())).item()
        for name in a
    )


# A net without draws or batch statistics, of which two processes make just what one makes.


class Guess(nn.Module):
    """The last frame of a clip, guessed from the first ones."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(12, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 3, 3, padding=1)
        )

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict]:
        error = self.layers(frames[:, :-1].flatten(1, 2)) - frames[:, -1]
        return error.square().mean(), {"absolute": error.detach().abs().mean()}


def train_guess(prepared: Path, folder: Path, **values) -> None:
    torch.manual_seed(0)
    made = Guess()
    small = {"batch_size": 8, "num_steps": 9, "save_every": 2, "log_every": 1, "average": 0.5}
    stores = open_stores(prepared)
    to_its_end(small_trainer(stores, folder, "tokenizer", made=made, **small | values))


def note_share(prepared: Path, folder: Path) -> None:
    """Which share of a sharded tokenizer, and of its moments, this process holds."""
    torch.manual_seed(0)
    stores = open_stores(prepared)
    small = {"num_steps": 1, "batch_size": 2, "shard": True}
    run = small_trainer(stores, folder, "tokenizer", **small)
    run.run()
    weights = list(run.net.parameters())
    states = [state for one in run.raw_optimizers for state in one.state.values()]
    moments = [state.get("momentum", state.get("exp_avg")) for state in states]
    assert len(moments) == len(weights)
    held = {
        name: sum(t.to_local().numel() for t in tensors) / sum(t.numel() for t in tensors)
        for name, tensors in (("weights", weights), ("moments", moments))
    }
    rank = os.environ["RANK"]
    (folder.parent / f"share-{rank}.json").write_text(json.dumps(held))


@pytest.fixture(scope="module")
def guesses(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs by two processes: `two`, `two-in-parts`."""
    folder = tmp_path_factory.mktemp("guesses")
    on_two(__file__, prepared_folder, folder)
    return folder


@pytest.mark.parametrize("run", ["two", "two-in-parts"])
def test_two_processes_take_the_steps_of_one(guesses: Path, prepared_folder: Path, run: str):
    train_guess(prepared_folder, guesses / "one" / run)
    one, two = guesses / "one" / run, guesses / run
    assert [line["step"] for line in lines_of(two)] == [line["step"] for line in lines_of(one)]
    assert torch.allclose(losses(two), losses(one), rtol=1e-5)
    assert torch.allclose(heldout_losses(two), heldout_losses(one), rtol=1e-5)
    assert furthest(one, two) < 1e-5


def test_only_one_process_writes(guesses: Path):
    assert len((guesses / "two" / "starts.jsonl").read_text().splitlines()) == 1
    assert sorted(path.name for path in (guesses / "two").glob("state-*.pt")) == [
        "state-0000005.pt" if step == 5 else f"state-{step:07d}.pt" for step in (5, 8, 9)
    ], "the last two, and the one before the rate falls"


# The command


@pytest.fixture(scope="module")
def tokenizers(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of the same tokenizer: `whole` and `sharded`, by two processes each."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, flags in (("whole", []), ("sharded", ["--loop.shard"])):
        words = [*SMALL, "--data", prepared_folder, "--run", folder / name, *flags]
        on_two("train/tokenizer.py", *words, "--loop.average", "0.9")
    return folder


def alone(prepared: Path, run: Path) -> None:
    """The same run by this process."""
    tiny = PRESETS["tiny"].tokenizer
    loop = replace(
        tiny.loop, num_steps=12, log_every=1, save_every=4, precision="float32", average=0.9
    )
    tokenizer.main(replace(tiny, data=prepared, run=run, threads=1, loop=loop))


def test_two_processes_learn_as_one_does(tokenizers: Path, prepared_folder: Path, tmp_path: Path):
    alone(prepared_folder, tmp_path)
    one, two = tmp_path / "tokenizer", tokenizers / "whole" / "tokenizer"
    # Each process weighs changes within its own half of the clips: steps are not quite the same.
    assert torch.allclose(losses(two), losses(one), rtol=0.02), losses(two) - losses(one)


def test_a_sharded_net_takes_the_steps_of_a_whole_one(tokenizers: Path):
    whole, sharded = (tokenizers / name / "tokenizer" for name in ("whole", "sharded"))
    assert torch.allclose(losses(sharded), losses(whole), rtol=1e-4)
    assert furthest(whole, sharded) < 1e-2


def test_each_of_two_processes_holds_a_half(guesses: Path):
    shares = [json.loads((guesses / f"share-{rank}.json").read_text()) for rank in (0, 1)]
    for held in shares:
        assert held["weights"] == pytest.approx(0.5, abs=0.05)
        assert held["moments"] == pytest.approx(0.5, abs=0.05)


def test_what_two_processes_saved_one_goes_on_with(
    tokenizers: Path, prepared_folder: Path, tmp_path: Path
):
    for name in ("whole", "sharded"):
        run = tmp_path / name / "tokenizer"
        shutil.copytree(tokenizers / name / "tokenizer", run)
        before = losses(run)
        (run / "weights.safetensors").unlink()
        (run / "state-0000012.pt").unlink()
        states = sorted(path.name for path in run.glob("state-*.pt"))
        assert states == ["state-0000007.pt", "state-0000008.pt"]
        alone(prepared_folder, tmp_path / name)
        assert is_finished(run)
        assert torch.equal(losses(run)[:8], before[:8]), "what was learnt is forgotten"
        assert torch.allclose(losses(run), before, rtol=0.02)


def test_a_world_whose_dynamics_was_sharded_plays(
    encoders,  # noqa: F811
    prepared_folder: Path,
    tmp_path: Path,
):
    run = tmp_path / "run"
    write_encoders(run, encoders)
    words = [*SMALL, "--data", prepared_folder, "--run", run, "--loop.shard"]
    on_two("train/dynamics.py", *words, "--loop.average", "0")
    assert all(torch.isfinite(losses(run / "dynamics")))
    film = tmp_path / "film.gif"
    words = ["--world", run / "world", "--headless", "--random", "3", "--export", film]
    played = subprocess.run(
        [sys.executable, "-m", "play", *map(str, words)],
        cwd=ROOT,
        env=os.environ | ONE_CORE,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert played.returncode == 0, played.stderr[-3000:]
    assert film.stat().st_size > 0


if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    train_guess(data, out / "two")
    train_guess(data, out / "two-in-parts", accumulation=2)
    note_share(data, out / "shared")
