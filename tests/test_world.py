"""Worlds on disk: strictly read, whole or not at all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH, tiny_world_config

from genie import checkpoint, world
from genie.codebook import CodebookConfig
from genie.errors import UserError
from genie.sampling import SamplingConfig
from genie.session import Session
from genie.st_latent_action import STLatentActionConfig
from genie.world import NETS, World, WorldConfig

ACTIONS = [0, 1, 1, 4, 2, 3, 0, 2, 2, 1, 4, 4]


def play(session: Session, actions: list[int] = ACTIONS) -> np.ndarray:
    return np.stack([session.step(action) for action in actions])


# On disk


def test_saved_world_comes_back_bit_for_bit(tiny_world: World, tiny_world_folder: Path, prompt):
    loaded = World.from_pretrained(tiny_world_folder)
    assert loaded.config == tiny_world.config
    wanted = tiny_world.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor.cpu(), wanted[name]), f"{name} changed on its way over the disk"
    assert not loaded.training, "a loaded world must not learn from being played"
    loaded.cpu()
    assert (play(loaded.start(prompt)) == play(tiny_world.start(prompt))).all()


def test_a_fingerprint_tells_weights_and_settings_apart(tiny_world: World):
    """Replaying wants all of it to be as it was."""
    other = World(tiny_world_config(guidance=2.0))
    other.load_state_dict(tiny_world.state_dict())
    same = World(tiny_world.config)
    same.load_state_dict(tiny_world.state_dict())
    assert same.fingerprint == tiny_world.fingerprint != other.fingerprint
    with torch.no_grad():
        same.dynamics.out.bias[0] += 1
    assert same.fingerprint != tiny_world.fingerprint


def test_world_says_what_it_is(tiny_world_folder: Path):
    loaded = World.from_pretrained(str(tiny_world_folder))
    assert (loaded.name, loaded.size, loaded.num_actions, loaded.fps) == (
        "tiny",
        (HEIGHT, WIDTH),
        5,
        12.0,
    )


def test_folder_holds_no_pickle_and_nothing_half_written(tiny_world_folder: Path):
    wanted = {"config.json", *(f"{net}.safetensors" for net in NETS)}
    assert {path.name for path in tiny_world_folder.iterdir()} == wanted


def test_saving_again_replaces_the_old_world(tiny_world: World, tmp_path: Path):
    tiny_world.save_pretrained(tmp_path / "world")
    other = World(tiny_world_config(temperature=0.25))
    other.save_pretrained(tmp_path / "world")
    loaded = World.from_pretrained(tmp_path / "world")
    assert loaded.config.sampling.temperature == 0.25
    assert torch.equal(loaded.dynamics.out.weight.cpu(), other.dynamics.out.weight)


def test_a_world_with_the_papers_latent_actions_comes_back(tmp_path: Path, prompt: torch.Tensor):
    paper = STLatentActionConfig(
        height=HEIGHT, width=WIDTH, num_actions=5, dim=16, num_blocks=1, num_heads=2, window=4
    )
    torch.manual_seed(0)
    saved = World(replace(tiny_world_config(), latent_action=paper))
    saved.save_pretrained(tmp_path / "paper")
    loaded = World.from_pretrained(tmp_path / "paper").cpu()
    assert loaded.config == saved.config
    for frames in (prompt, prompt[0]):
        found, wanted = (play(each.start(frames), [1, 4]) for each in (loaded, saved))
        assert (found == wanted).all()


def test_a_world_of_version_2_draws_as_it_always_did(
    tiny_world: World, tmp_path: Path, prompt: torch.Tensor
):
    tiny_world.save_pretrained(tmp_path / "old")
    values = json.loads((tmp_path / "old" / "config.json").read_text())
    del values["sampling"]["entropy_bound"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(values | {"version": 2}))
    old = World.from_pretrained(tmp_path / "old").cpu()
    assert old.config.sampling.entropy_bound == 0
    session = old.start(prompt)
    play(session, [1, 4, 2])
    assert session.num_passes == 9, "three frames of always three passes"
    other = replace(old.config.sampling, entropy_bound=0.5)
    keys_belong_to = old.fingerprint
    old.config = replace(old.config, sampling=other)
    assert old.fingerprint != keys_belong_to


def test_place_that_cannot_be_written_is_refused(tiny_world: World, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        tiny_world.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def folder(tiny_world_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_world_folder, tmp_path / "broken"))


def change_config(folder: Path, change: Callable[[dict], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def load_error(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        World.from_pretrained(folder)
    message = str(error.value)
    assert "\n" not in message, f"more than one line: {message!r}"
    return message


def test_missing_folder_and_empty_folder(tmp_path: Path):
    assert "config.json" in load_error(tmp_path / "nowhere")
    assert "config.json" in load_error(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(version=99), "version 99"),
        (lambda c: c.pop("version"), "version None"),
        (lambda c: c.update(gravity=9.8), "'gravity'"),
        (lambda c: c.pop("fps"), "'fps'"),
        (lambda c: c["dynamics"].update(colour=3), "'colour'"),
        (lambda c: c["tokenizer"]["codebook"].pop("levels"), "'levels'"),
        (lambda c: c["latent_action"].update(num_actions="5"), "num_actions"),
        (lambda c: c["dynamics"].update(num_blocks=2.5), "num_blocks"),
        (lambda c: c["dynamics"].update(masking="frames"), "masking"),
        (lambda c: c["tokenizer"].update(codebook=60), "codebook"),
        (lambda c: c["tokenizer"]["codebook"].update(levels=60), "levels"),
        (lambda c: c["tokenizer"].update(width="wide"), "width"),
        (lambda c: c["dynamics"].update(dim={}), "dim"),
        (lambda c: c["sampling"].update(temperature=-1), "temperature"),
        (lambda c: c["sampling"].update(maskgit_steps=0), "maskgit_steps"),
        (lambda c: c["dynamics"].update(dim=41), "dim 41"),
    ],
)
def test_config_that_does_not_fit_names_its_field(folder: Path, change: Callable, named: str):
    change_config(folder, change)
    assert named in load_error(folder)


def test_broken_config_names_the_file(folder: Path):
    path = folder / "config.json"
    for broken in (path.read_text()[:-10], "", "[]", '"text"', "\0"):
        path.write_text(broken)
        assert str(path) in load_error(folder)


@pytest.mark.parametrize("net", NETS)
def test_bad_weights_name_the_file(folder: Path, net: str):
    path = folder / f"{net}.safetensors"
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:3], b"", b"text" * 100):
        path.write_bytes(broken)
        assert str(path) in load_error(folder)
    path.unlink()
    assert str(path) in load_error(folder)


def test_swapped_weights_are_refused(folder: Path):
    first, second = folder / "tokenizer.safetensors", folder / "dynamics.safetensors"
    spare = folder / "spare"
    first.rename(spare), second.rename(first), spare.rename(second)
    assert str(first) in load_error(folder)


@pytest.mark.parametrize(
    ("net", "field", "value"),
    [
        ("dynamics", "dim", 48),
        ("dynamics", "num_blocks", 3),
        ("tokenizer", "dim", 36),
        ("latent_action", "code_dim", 7),
    ],
)
def test_weights_of_another_size_are_refused(folder: Path, net: str, field: str, value: int):
    change_config(folder, lambda config: config[net].update({field: value}))
    message = load_error(folder)
    assert f"{net}.safetensors" in message and "config.json" in message


@pytest.mark.parametrize(
    ("net", "change", "named"),
    [
        ("dynamics", {"num_tokens": 23}, ("num_tokens", "23", "24")),
        ("dynamics", {"codebook_size": 64}, ("codebook_size", "64", "60")),
        (
            "tokenizer",
            {"codebook": CodebookConfig(levels=(5, 4))},
            ("dynamics.codebook_size", "tokenizer.codebook.size", "20", "60"),
        ),
        ("dynamics", {"num_actions": 6}, ("dynamics.num_actions", "latent_action.num_actions")),
        ("latent_action", {"height": 64}, ("latent_action.height", "tokenizer.height", "64", "32")),
        ("latent_action", {"width": 32}, ("latent_action.width", "tokenizer.width", "32", "48")),
    ],
)
def test_configs_that_do_not_fit_each_other_are_named(net: str, change: dict, named: tuple):
    config = tiny_world_config()
    with pytest.raises(UserError) as error:
        replace(config, **{net: replace(getattr(config, net), **change)})
    assert all(word in str(error.value) for word in named), str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"maskgit_steps": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"guidance": float("nan")},
        {"choice_temperature": -1.0},
        {"entropy_bound": -1.0},
        {"entropy_bound": float("nan")},
        {"guidance": 0.5},
    ],
)
def test_impossible_sampling_is_refused(values: dict):
    with pytest.raises(UserError):
        SamplingConfig(**values)


def test_guidance_wants_a_dynamics_that_knows_no_action():
    config = tiny_world_config(guidance=2.0)
    assert config.sampling.guidance == 2.0
    with pytest.raises(UserError, match="action_dropout"):
        replace(config, dynamics=replace(config.dynamics, action_dropout=0.0))


def test_world_config_is_json_and_back(tiny_world_folder: Path):
    text = (tiny_world_folder / "config.json").read_text()
    assert world.read_config(tiny_world_folder) == tiny_world_config()
    assert json.loads(text)["version"] == WorldConfig().version


def test_large_weights_are_divided_over_files(
    tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, divided = tmp_path / "whole", tmp_path / "divided"
    tiny_world.save_pretrained(whole)
    monkeypatch.setattr(checkpoint, "MOST_BYTES", 40_000)
    tiny_world.save_pretrained(divided)
    files = sorted(divided.glob("dynamics-*.safetensors"))
    assert len(files) > 2 and not (divided / "dynamics.safetensors").exists()
    largest = max(weight.nbytes for weight in tiny_world.parameters())
    assert all(file.stat().st_size < max(40_000, largest) + 5_000 for file in files)
    again = World.from_pretrained(divided)
    assert again.fingerprint == World.from_pretrained(whole).fingerprint
    told = checkpoint.fingerprint_weights(divided / "dynamics.safetensors")
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert checkpoint.fingerprint_weights(divided / "dynamics.safetensors") != told
        file.write_bytes(content)
    files[1].unlink()
    with pytest.raises(UserError, match=r"1 of \d+ files dynamics-\*.safetensors are missing"):
        World.from_pretrained(divided)
    monkeypatch.undo()
    tiny_world.save_pretrained(divided)
    assert World.from_pretrained(divided).fingerprint == again.fingerprint
    assert not list(divided.glob("*-of-*")), "parts of before are gone"
