"""A world is trained further on another game: it starts as it was, and is measured against it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import torch
from conftest import HEIGHT, WIDTH, moving_square
from safetensors.torch import load_file
from test_train import one_core, run_module

from genie import video
from genie.data.clips import Clips, FrameStore
from genie.data.prepare import FrameOptions, prepare
from genie.world import NETS, World
from train import compare, dynamics, graphs, latent_action, tokenizer
from train.loop.run_folder import read_description
from train.presets import PRESETS
from train.stage import data_fingerprint

pytestmark = pytest.mark.timeout(900)
MODULES = {"tokenizer": tokenizer, "latent_action": latent_action, "dynamics": dynamics}


@pytest.fixture(autouse=True, scope="module")
def on_one_core() -> Iterator[None]:
    with one_core():
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another game than that of `prepared_folder`, in frames of the same size."""
    folder = tmp_path_factory.mktemp("square")
    for split, count in (("train", 5), ("heldout", 3)):
        (folder / split).mkdir()
        for seed in range(count):
            frames, _ = moving_square(40, seed + 100 * (split == "heldout"), hold=2)
            video.write(folder / split / f"{seed}.mp4", list(frames), fps=12.0, lossless=True)
    return folder


@pytest.fixture(scope="module")
def new_game(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "square"
    prepare([videos], out, FrameOptions(size=(HEIGHT, WIDTH)), workers=1)
    return out


@pytest.fixture(scope="module")
def story(
    tiny_world_folder: Path,
    new_game: Path,
    prepared_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:
    """A world trained further by the one command, and what it printed; its run is in `run`."""
    folder = tmp_path_factory.mktemp("further")
    words = ["--from", tiny_world_folder, "--data", new_game, "--replay", prepared_folder]
    words += ["--preset", "tiny", "--out", folder / "world", "--run", folder / "run"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(compare, "CompareConfig", partial(compare.CompareConfig, num_clips=8))
        patch.setattr(graphs, "main", lambda config: None)  # takes half a minute, tested elsewhere
        assert run_module("train.__main__", *map(str, words), monkeypatch=patch) == 0
    return folder, printed.getvalue()


def test_a_world_is_trained_further_by_one_command(story, new_game: Path, tiny_world: World):
    folder, _ = story
    world = World.from_pretrained(folder / "world")
    assert world.config.tokenizer == tiny_world.config.tokenizer
    assert world.config.dynamics == tiny_world.config.dynamics
    assert world.config.sampling == tiny_world.config.sampling
    assert not torch.equal(world.dynamics.out.weight, tiny_world.dynamics.out.weight)


def test_both_games_are_measured_before_and_after(story):
    folder, printed = story
    figures = json.loads((folder / "run" / "comparison.json").read_text())
    assert list(figures) == ["new game", "old game"]
    for game, worlds in figures.items():
        assert list(worlds) == ["before", "after"]
        assert f"{game} before" in printed and f"{game} after" in printed
        for row in worlds.values():
            assert {"tokenizer", "rollout", "copying", "delta PSNR"} <= row.keys()
            assert all(isinstance(number, float) for number in row.values()), row
    new = figures["new game"]
    assert new["after"]["tokenizer"] > new["before"]["tokenizer"], "nothing was learnt"
    assert new["after"]["copying"] == new["before"]["copying"], "other clips were taken"


def test_a_run_says_what_it_started_from_and_replays(story, new_game: Path, prepared_folder: Path):
    folder, _ = story
    stores = [FrameStore.open(place, "train") for place in (new_game, prepared_folder)]
    for net in NETS:
        described = read_description(folder / "run" / net)
        assert described["data"] == data_fingerprint(*stores)
        assert described["replay_share"] == 0.25
        assert len(described["started_from"]) == 16


@pytest.mark.parametrize("net", NETS)
def test_training_starts_from_the_weights_of_the_world(
    net: str, tiny_world_folder: Path, new_game: Path, tmp_path: Path, monkeypatch
):
    module = MODULES[net]
    for limit in ("COLLAPSED_PERPLEXITY", "COLLAPSED_DELTA_PSNR"):
        monkeypatch.setattr(module, limit, -100, raising=False)
    if net == "dynamics":  # on the encoders of the world, as they are
        for other in NETS[:2]:
            (tmp_path / other).mkdir()
            model = getattr(World.from_pretrained(tiny_world_folder).config, other)
            described = json.dumps({"model": model}, default=vars)
            (tmp_path / other / "config.json").write_text(described)
            weights = f"{other}.safetensors"
            shutil.copy(tiny_world_folder / weights, tmp_path / other / "weights.safetensors")
    tiny = getattr(PRESETS["tiny"], net)
    loop = replace(tiny.loop, num_steps=1, learning_rate=1e-9, precision="float32")
    config = replace(tiny, data=new_game, run=tmp_path, from_=tiny_world_folder, loop=loop)
    module.main(config)
    start = load_file(tiny_world_folder / f"{net}.safetensors")
    end = load_file(tmp_path / net / "weights.safetensors")
    assert start.keys() == end.keys()
    learnt = dict(make(net, tiny_world_folder).named_parameters())
    for name in learnt:
        difference = (end[name] - start[name].float()).abs().max().item()
        assert difference < 1e-7, f"{name} started elsewhere"


def make(net: str, world: Path) -> torch.nn.Module:
    return getattr(World.from_pretrained(world), net)


def test_a_quarter_of_every_step_is_replayed(
    tiny_world_folder: Path, new_game: Path, prepared_folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(tokenizer, "COLLAPSED_PERPLEXITY", 0)
    read = []
    take = Clips.__getitem__

    def note(clips: Clips, index: int):
        read.append((clips.store.fingerprint, clips.store.split))
        return take(clips, index)

    monkeypatch.setattr(Clips, "__getitem__", note)
    tiny = PRESETS["tiny"].tokenizer
    loop = replace(tiny.loop, num_steps=3, precision="float32", evaluate_batches=1)
    shared = {"data": new_game, "run": tmp_path, "from_": tiny_world_folder}
    tokenizer.main(replace(tiny, **shared, replay=prepared_folder, loop=loop))
    old, new = (FrameStore.open(place, "train") for place in (prepared_folder, new_game))
    steps = [name for name, split in read if split == "train"][1:]  # one is to measure speed by
    assert steps == [new.fingerprint, new.fingerprint, new.fingerprint, old.fingerprint] * 3


# What is refused


def refused(capsys: pytest.CaptureFixture, *words, monkeypatch) -> str:
    assert run_module(*map(str, words), monkeypatch=monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: "), err
    return err


@pytest.mark.parametrize("module", ["__main__", *NETS])
def test_replay_without_a_world_is_refused(
    module: str, new_game: Path, prepared_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    flags = ["--preset", "tiny", "--data", new_game, "--replay", prepared_folder]
    flags += ["--run", tmp_path / "run", *(["--out", tmp_path / "x"] if module[0] == "_" else [])]
    err = refused(capsys, f"train.{module}", *flags, monkeypatch=monkeypatch)
    assert "--from" in err
    assert not list(tmp_path.iterdir()), "something was made for nothing"


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2"])
def test_a_share_that_is_none_is_refused(
    share: str,
    tiny_world_folder: Path,
    new_game: Path,
    prepared_folder: Path,
    tmp_path: Path,
    monkeypatch,
    capsys,
):
    flags = ["--preset", "tiny", "--data", new_game, "--replay", prepared_folder]
    flags += ["--from", tiny_world_folder, "--run", tmp_path, "--replay-share", share]
    assert share in refused(capsys, "train.tokenizer", *flags, monkeypatch=monkeypatch)


@pytest.fixture(scope="module")
def other_size(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "small"
    prepare([videos], out, FrameOptions(size=(16, 32)), workers=1)
    return out


@pytest.mark.parametrize("which", ["--data", "--replay", "both"])
def test_frames_of_another_size_are_refused_in_one_line(
    which: str,
    tiny_world_folder: Path,
    new_game: Path,
    prepared_folder: Path,
    other_size: Path,
    tmp_path: Path,
    monkeypatch,
    capfd: pytest.CaptureFixture,
):
    places = {"--data": new_game, "--replay": prepared_folder} | {which: other_size}
    if which == "both":  # they fit each other, but not the world
        places = {"--data": other_size, "--replay": other_size}
    words = ["--from", tiny_world_folder, "--preset", "tiny"]
    words += [word for pair in places.items() for word in pair]
    words += ["--out", tmp_path / "world", "--run", tmp_path / "run"]
    err = refused(capfd, "train.__main__", *words, monkeypatch=monkeypatch)
    assert "16" in err and "32" in err, "it does not say which sizes"
    assert "leave the flag out" not in err, "no such flag was given"


def test_another_size_is_refused_before_videos_are_prepared(
    tiny_world_folder: Path, videos: Path, tmp_path: Path, monkeypatch, capsys
):
    flags = ["--from", tiny_world_folder, "--data", videos, "--size", 64, 64]
    flags += ["--out", tmp_path / "world", "--run", tmp_path / "run"]
    err = refused(capsys, "train.__main__", *flags, monkeypatch=monkeypatch)
    assert f"--size {HEIGHT} {WIDTH}" in err
    assert not list(tmp_path.iterdir()), "the folder is taken for settings that are refused"


def test_a_world_that_is_none_is_refused(new_game: Path, tmp_path: Path, monkeypatch, capsys):
    flags = ["--from", tmp_path / "nowhere", "--data", new_game, "--out", tmp_path / "world"]
    err = refused(capsys, "train.__main__", *flags, monkeypatch=monkeypatch)
    assert "nowhere" in err
    assert not list(tmp_path.iterdir())
