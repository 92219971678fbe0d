"""A run folder tells where it came from."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from test_train import encoders, on_one_core, write_encoders  # noqa: F401

from genie.data.clips import FrameStore
from train import dynamics, latent_action, tokenizer
from train.loop.provenance import FILE_NAME, commit, note_start
from train.presets import PRESETS


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *who, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_every_start_is_a_line(tmp_path: Path, monkeypatch):
    for argument in ("--data", "a b"):
        monkeypatch.setattr(sys, "argv", ["train/tokenizer.py", argument])
        note_start(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    for line in lines:  # what is there can be pasted
        assert shutil.which(shlex.split(line["command"])[0])
    assert lines[0]["command"].endswith(" --data") and lines[1]["command"].endswith(" 'a b'")
    assert lines[0]["versions"]["torch"] == version("torch")


def test_a_commit_is_named_and_marked_where_files_were_changed(tmp_path: Path):
    assert commit(tmp_path) is None, "no repository"
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) is None, "nothing committed"
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head
    (tmp_path / "other").write_text("not of the repository")
    assert commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == f"{head}+"


# What a stage leaves behind


@pytest.mark.parametrize("module", [tokenizer, latent_action, dynamics])
def test_the_folder_of_a_stage_explains_itself(
    module,
    encoders,  # noqa: F811
    prepared_folder: Path,
    tmp_path: Path,
    monkeypatch,
):
    for limit in ("COLLAPSED_PERPLEXITY", "COLLAPSED_DELTA_PSNR"):
        monkeypatch.setattr(module, limit, -100, raising=False)  # it is no time to learn
    name = module.__name__.split(".")[1]
    typed = ["--preset", "tiny", "--data", str(prepared_folder), "--run", str(tmp_path / "a run")]
    monkeypatch.setattr(sys, "argv", [f"train/{name}.py", *typed])
    tiny = getattr(PRESETS["tiny"], name)
    loop = replace(
        tiny.loop, num_steps=2, evaluate_every=1, evaluate_batches=1, precision="float32"
    )
    config = replace(tiny, data=prepared_folder, run=tmp_path / "a run", loop=loop)
    if module is dynamics:
        write_encoders(config.run, encoders)
    module.main(config)
    folder = config.run / name
    explained = (folder / "README.md").read_text()
    command = explained.split("```sh\n")[1].splitlines()[0]
    assert shutil.which(shlex.split(command)[0]) and "--preset tiny" in command
    assert f"--run '{tmp_path / 'a run'}'" in command, "the command cannot be pasted"
    if module is dynamics:
        evaluate, play = explained.split("```sh\n")[2].split("```")[0].splitlines()
        world = shlex.quote(str(config.run / "world"))
        assert evaluate.endswith(f"-m train.evaluate {world} {prepared_folder}")
        assert play.endswith(f"-m play --world {world}")
    assert command == json.loads((folder / FILE_NAME).read_text().splitlines()[-1])["command"]
    for path in folder.iterdir():
        told = path.name in explained or path.suffix in {".pt", ".lock"} or path.name == "README.md"
        assert told or path.name.startswith("."), f"{path.name} is not explained"
    described = json.loads((folder / "config.json").read_text())
    assert described["data"] == FrameStore.open(prepared_folder, "train").fingerprint
    assert described["loop"]["num_steps"] == 2 and described["model"]["dim"] == tiny.model.dim
    for step in ("step-0000001", "step-0000002"):
        pictures = list((folder / "samples" / step).glob("*.png"))
        assert pictures, f"nothing to see of {step}"
        for path in pictures:
            with Image.open(path) as picture:
                assert min(picture.size) > 32
                assert len(picture.convert("RGB").getcolors(1 << 24)) > 2, "an empty picture"
