"""The legend: what an action does is measured, and the arrows go where the picture goes."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genie import legend
from genie.world import World
from play.keymap import KeyMap
from train.measure import effects as effects_of
from train.measure.effects import Effect


def effect(dx: float = 0.0, **agreements: float) -> Effect:
    """As measured where every prompt leaves room for everything."""
    shares = dict.fromkeys(effects_of.OUTCOMES, 0.0) | agreements
    return Effect(
        name="any",
        agreement=max(shares.values()),
        agreements=shares,
        median_dx=dx,
        median_dy=0.0,
        **shares,
    )


STILL = effect(still=1.0)
RUN = effect(20.0, right=1.0)
WALK = effect(9.0, right=0.9, still=0.1)
LEFT = effect(-6.0, left=0.6, still=0.4)
JUMP = effect(up=1.0)
LEAP = effect(12.0, up=0.9, right=0.9)
FALL = effect(down=0.9, still=0.1)


def test_arrows_go_where_the_picture_goes():
    keys = effects_of.assign_keys([FALL, WALK, JUMP, LEFT, STILL, RUN, LEAP])
    assert keys == {
        "down": 0, "up": 2, "left": 3, "none": 4, "right": 5, "right_up": 6, "z": 1
    }  # fmt: skip


def test_an_arrow_without_a_likely_action_stays_free():
    assert effects_of.assign_keys([STILL, RUN]) == {"right": 1, "none": 0}
    assert effects_of.assign_keys([effect(still=0.1)] * 3) == {"z": 0, "x": 1, "c": 2}


def test_a_single_jump_is_up_even_where_it_drifts():
    assert effects_of.assign_keys([effect(6.0, up=1.0, right=0.6)]) == {"up": 0}
    assert effects_of.assign_keys([effect(6.0, up=0.8, right=1.0)]) == {"right": 0}


shares = st.floats(0, 1)
pixels = st.floats(-60, 60)
anything = st.builds(effect, pixels, **dict.fromkeys(effects_of.OUTCOMES, shares))


@given(st.lists(anything, min_size=2, max_size=12))
def test_any_legend_can_be_played(tmp_path_factory: pytest.TempPathFactory, measured: list[Effect]):
    keys = effects_of.assign_keys(measured)
    folder = tmp_path_factory.mktemp("legend")
    (folder / legend.FILE_NAME).write_text(json.dumps({"keys": keys}))
    assert dict(KeyMap.load(folder, len(measured)).bindings) == keys


def pan(dx: int, dy: int, num_steps: int = 8) -> torch.Tensor:
    """Shifts of a view that moves evenly."""
    return torch.tensor([[dx, dy]]).expand(num_steps, 2)


def test_effects_are_those_of_a_scrolling_picture():
    """The picture moves left, so the view moves right; another jumps and lands."""
    scene = torch.randint(256, (3, 64, 200), dtype=torch.uint8, generator=torch.manual_seed(0))
    walk = torch.stack([scene[:, :, 4 * t : 4 * t + 64] for t in range(9)])
    heights = [0, 5, 9, 11, 9, 5, 0, 0, 0]
    tall = torch.randint(256, (3, 100, 64), dtype=torch.uint8, generator=torch.manual_seed(1))
    jump = torch.stack([tall[:, 30 - up : 94 - up] for up in heights])
    films = torch.stack([walk, jump, walk[:1].expand(9, -1, -1, -1)])[None]
    right, up, still = effects_of.effects(effects_of.scrolls(films))
    assert (right.median_dx, right.median_dy, right.right, right.still) == (32, 0, 1, 0)
    assert (up.median_dy, up.up, up.still) == (0, 1, 0)
    assert (still.median_dx, still.median_dy, still.still) == (0, 0, 1)
    assert [effect.name for effect in (right, up, still)] == ["right", "up", "stay"]


def test_names_say_what_most_prompts_show():
    """Five prompts; from two of them a wall on the left stops whatever would go left."""
    free = [pan(-2, 0), pan(3, 0), pan(1, 0), pan(0, 0), pan(2, 2), pan(0, -2)]
    walled = [pan(0, 0), *free[1:]]
    effects = effects_of.effects(torch.stack([torch.stack(f) for f in [free] * 3 + [walled] * 2]))
    names = [effect.name for effect in effects]
    assert names == ["left", "right", "slow right", "stay", "right, rising", "down"]
    assert all(effect.agreement == 1 for effect in effects), "a wall is no disagreement"
    assert effects[0].left == 0.6, "but it is told"


def test_what_disagrees_gets_no_name():
    """From three prompts of five the first action goes right, from the others left."""

    def measured(*prompts: list[torch.Tensor]) -> list[Effect]:
        return effects_of.effects(torch.stack([torch.stack(pair) for pair in prompts]))

    first, second = measured(*[[pan(2, 0), pan(0, 0)]] * 3, *[[pan(-2, 0), pan(0, 0)]] * 2)
    assert (first.name, first.agreement) == ("mostly right", 0.6)
    assert (second.name, second.agreement) == ("stay", 1.0)
    one, other = [pan(2, 0), pan(0, 0)], [pan(-2, 0), pan(0, 0)]
    first, second = measured(one, other, [pan(0, 2), pan(0, 0)], [pan(0, -2), pan(0, 0)])
    assert (first.name, second.name) == ("mostly left", "mostly stay")
    ways = [pan(-2, 0), pan(2, 0), pan(0, 2), pan(0, -2)]
    first, *others = measured(*([way, *ways] for way in ways))
    assert first.name == "unclear" and first.agreement < effects_of.LIKELY
    assert [other.name for other in others] == ["left", "right", "up", "down"]


def test_the_strip_shows_every_action(tiny_world: World, tmp_path: Path):
    generator = torch.manual_seed(0)
    prompts = torch.randint(256, (2, 3, *tiny_world.size), dtype=torch.uint8, generator=generator)
    effects_of.write_legend(tiny_world, prompts, tmp_path)
    height, width = tiny_world.size
    with Image.open(tmp_path / legend.STRIP_NAME) as strip:
        assert strip.size == (5 * width, tiny_world.num_actions * height)
        rows = np.split(np.array(strip), tiny_world.num_actions)
    starts = {row[:, :width].tobytes() for row in rows}
    shown = {picture.movedim(0, -1).numpy().tobytes() for picture in prompts}
    assert len(starts) == 1 and starts <= shown, "all start from one prompt"


def test_a_worlds_legend_is_measured_and_can_be_read(tiny_world: World, tmp_path: Path):
    generator = torch.manual_seed(0)
    prompts = torch.randint(256, (3, 3, *tiny_world.size), dtype=torch.uint8, generator=generator)
    measured, keys = effects_of.write_legend(tiny_world, prompts, tmp_path)
    saved = json.loads((tmp_path / legend.FILE_NAME).read_text())
    assert saved["keys"] == keys and saved["num_prompts"] == 3
    assert saved["actions"] == [asdict(effect) for effect in measured]
    assert len(measured) == tiny_world.num_actions
    assert KeyMap.load(tmp_path, tiny_world.num_actions).has_legend
