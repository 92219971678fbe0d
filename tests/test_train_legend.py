"""`python -m train.legend`, and what the shipped worlds' legends promise."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genie import legend
from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.world import World
from play.keymap import KeyMap
from train.legend import LegendConfig, main, table
from train.measure import effects as effects_of
from train.measure.true_actions import Meeting, TrueActions, label_transitions, meetings

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
SHIPPED = sorted(path.parent for path in CHECKPOINTS.glob("*/legend.json"))
WORDS = {"left": "left", "right": "right", "up": ("up", "rising"), "none": "stay"}


@pytest.fixture
def config(tiny_world_folder: Path, prepared_folder: Path, tmp_path: Path) -> LegendConfig:
    world = shutil.copytree(tiny_world_folder, tmp_path / "tiny")
    return LegendConfig(world=world, data=prepared_folder, prompts=3)


def test_a_worlds_legend_is_measured_anew(config: LegendConfig, capsys):
    main(config)
    said = capsys.readouterr().out
    measured = json.loads((config.world / legend.FILE_NAME).read_text())
    assert measured["num_prompts"] == 3 and (config.world / legend.STRIP_NAME).is_file()
    for action, effect in enumerate(measured["actions"]):
        line = next(line for line in said.splitlines() if line.startswith(f"{action} "))
        assert effect["name"] in line and f"{effect['agreement']:.0%}" in line
    assert dict(KeyMap.load(config.world, 5).bindings) == measured["keys"]


def test_true_buttons_are_told_and_change_nothing(
    config: LegendConfig, recorded_folder: Path, capsys
):
    main(config)
    before = (config.world / legend.FILE_NAME).read_text()
    main(replace(config, true_actions=recorded_folder / "true_actions.npz"))
    assert (config.world / legend.FILE_NAME).read_text() == before
    assert "RIGHT" in capsys.readouterr().out


def test_meetings_count_the_buttons_that_were_pressed(
    tiny_world: World, prepared_folder: Path, recorded_folder: Path
):
    store = FrameStore.open(prepared_folder, "heldout")
    truth = TrueActions.open(recorded_folder / "true_actions.npz")
    latent, true, _ = label_transitions(tiny_world, store, truth, horizon=6, seed=0)
    met = meetings(tiny_world, store, truth, horizon=6)
    is_left = torch.from_numpy(np.array([name == "LEFT" for name in truth.names]))[true]
    assert sum(one.num_transitions for one in met.values()) == len(latent)
    for action, one in met.items():
        here = latent == action
        assert one.num_transitions == here.sum()
        assert one.everywhere["LEFT"] == pytest.approx(is_left.double().mean().item())
        if here.any():
            assert one.share["LEFT"] == pytest.approx(is_left[here].double().mean().item())


def test_an_action_that_is_never_met_is_told_as_well():
    effects = effects_of.effects(torch.zeros(2, 1, 8, 2, dtype=torch.long))
    never = Meeting(share={"LEFT": float("nan")}, everywhere={"LEFT": 0.4}, num_transitions=0)
    assert table(effects, {"none": 0}, {0: never}).endswith("never met")


@pytest.mark.parametrize("prompts", [0, -3])
def test_a_legend_wants_a_prompt(config: LegendConfig, prompts: int):
    with pytest.raises(UserError, match="at least 1"):
        main(replace(config, prompts=prompts))


@pytest.mark.parametrize("world", SHIPPED, ids=lambda world: world.name)
def test_shipped_names_agree_and_arrows_go_to_them(world: Path):
    shipped = json.loads((world / legend.FILE_NAME).read_text())
    names = [effect["name"] for effect in shipped["actions"]]
    for effect in shipped["actions"]:
        is_hedged = effect["name"].startswith(("mostly", "unclear"))
        assert is_hedged == (effect["agreement"] < effects_of.CLEAR), effect["name"]
    for key, word in WORDS.items():
        words = (word,) if isinstance(word, str) else word
        assert any(part in names[shipped["keys"][key]] for part in words), key
    assert len(set(shipped["keys"].values())) == len(names), "every action has a key"


def test_worlds_are_shipped():
    assert len(SHIPPED) >= 2
