"""The legend: what an action does is measured, and the arrows go where the picture goes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genie import legend
from genie.legend import Effect
from genie.world import World
from play.keymap import KeyMap

STILL = Effect(median_dx=0.0, median_dy=0.0, right=0.0, left=0.0, up=0.0, still=1.0)
RUN = replace(STILL, median_dx=20.0, right=1.0, still=0.0)
WALK = replace(STILL, median_dx=9.0, right=0.9, still=0.1)
LEFT = replace(STILL, median_dx=-6.0, left=0.6, still=0.4)
JUMP = replace(STILL, median_dy=20.0, up=1.0, still=0.0)
LEAP = replace(STILL, median_dx=12.0, median_dy=18.0, up=0.9, right=0.9, still=0.0)
FALL = replace(STILL, median_dy=-14.0, still=0.1)


def test_arrows_go_where_the_picture_goes():
    keys = legend.assign_keys([FALL, WALK, JUMP, LEFT, STILL, RUN, LEAP])
    assert keys == {
        "down": 0, "up": 2, "left": 3, "none": 4, "right": 5, "right_up": 6
    }  # fmt: skip


def test_an_arrow_without_a_likely_action_stays_free():
    assert legend.assign_keys([STILL, RUN]) == {"right": 1, "none": 0}
    assert legend.assign_keys([replace(STILL, still=0.1)] * 3) == {}


shares = st.floats(0, 1)
pixels = st.floats(-60, 60)
anything = st.builds(
    Effect, median_dx=pixels, median_dy=pixels, right=shares, left=shares, up=shares, still=shares
)


@given(st.lists(anything, min_size=2, max_size=12))
def test_any_legend_can_be_played(tmp_path_factory: pytest.TempPathFactory, measured: list[Effect]):
    keys = legend.assign_keys(measured)
    folder = tmp_path_factory.mktemp("legend")
    (folder / legend.FILE_NAME).write_text(json.dumps({"keys": keys}))
    assert dict(KeyMap.load(folder, len(measured)).bindings) == keys


def test_effects_are_those_of_a_scrolling_picture():
    """The picture moves left, so the view moves right; another jumps and lands."""
    scene = torch.randint(256, (3, 64, 200), dtype=torch.uint8, generator=torch.manual_seed(0))
    walk = torch.stack([scene[:, :, 4 * t : 4 * t + 64] for t in range(9)])
    heights = [0, 5, 9, 11, 9, 5, 0, 0, 0]
    tall = torch.randint(256, (3, 100, 64), dtype=torch.uint8, generator=torch.manual_seed(1))
    jump = torch.stack([tall[:, 30 - up : 94 - up] for up in heights])
    films = torch.stack([walk, jump, walk[:1].expand(9, -1, -1, -1)])[None]
    right, up, still = legend.effects(legend.scrolls(films))
    assert (right.median_dx, right.median_dy, right.right, right.still) == (32, 0, 1, 0)
    assert (up.median_dy, up.up, up.still) == (0, 1, 0)
    assert (still.median_dx, still.median_dy, still.still) == (0, 0, 1)


def test_a_worlds_legend_is_measured_and_can_be_read(tiny_world: World, tmp_path: Path):
    generator = torch.manual_seed(0)
    prompts = torch.randint(256, (3, 3, *tiny_world.size), dtype=torch.uint8, generator=generator)
    keys = legend.write_legend(tiny_world, prompts, tmp_path)
    saved = json.loads((tmp_path / legend.FILE_NAME).read_text())
    assert saved["keys"] == keys and saved["num_prompts"] == 3
    assert len(saved["actions"]) == tiny_world.num_actions
    assert KeyMap.load(tmp_path, tiny_world.num_actions).has_legend
