"""The action prior: what it learns, and keys that are wishes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH, tiny_world_config

from genie import video
from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.legend import Legend
from genie.prior import NUM_FRAMES, ActionPrior, PriorConfig
from genie.session import Sessions
from genie.world import World
from play.__main__ import main as play
from play.game import Press, exactly
from play.keymap import KeyMap
from play.worlds import Library
from train import prior as training
from train.measure.effects import hold_keys
from train.measure.long_rollouts import long_figures, longest_scenes, play_on, run_on
from train.measure.table import _long_lines
from train.prior import PriorTraining

NUM_ACTIONS = 5
SHAPE = PriorConfig(height=HEIGHT, width=WIDTH, num_actions=NUM_ACTIONS, dim=4)
STEPS = 4


@pytest.fixture(scope="module")
def world() -> World:
    torch.manual_seed(0)
    return World(replace(tiny_world_config(), prior=SHAPE), name="tiny")


@pytest.fixture
def prompts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(3, 1, 3, HEIGHT, WIDTH), dtype=np.uint8)


def start(world: World, prompts: np.ndarray) -> Sessions:
    return world.start_many(prompts, seeds=range(len(prompts)))


def shares(world: World, running: Sessions) -> np.ndarray:
    """The prior's own probabilities, from the frames that were shown."""
    frames = torch.from_numpy(np.stack(running._recent, axis=1)).float() / 255
    with torch.no_grad():
        return world.prior.logits(frames).softmax(dim=-1).numpy()


# What it learns


def test_it_learns_from_frames_alone_what_comes_next():
    """Brightness that rises says 1, that falls says 0; a single frame says nothing."""
    torch.manual_seed(0)
    net = ActionPrior(replace(SHAPE, num_actions=2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    rising = torch.rand(64) < 0.5
    steps = torch.where(rising, 0.1, -0.1)[:, None] * torch.arange(5)
    levels = 0.5 + steps + 0.1 * torch.rand(64, 1)
    frames = levels[..., None, None, None].expand(-1, -1, 3, HEIGHT, WIDTH)
    actions = rising.long()[:, None].expand(-1, 4)
    for _ in range(60):
        optimizer.zero_grad()
        net(frames, actions)[0].backward()
        optimizer.step()
    _, metrics = net.eval()(frames, actions)
    assert metrics["accuracy"] == 1 and metrics["cross_entropy"] < 0.1


def test_each_target_follows_the_frames_that_are_seen():
    """The action after frames 0, 1, 2 is action 2, which leads from frame 2 to 3."""
    net = ActionPrior(SHAPE).eval()
    frames, actions = torch.rand(2, 6, 3, HEIGHT, WIDTH), torch.randint(NUM_ACTIONS, (2, 5))
    loss, _ = net(frames, actions)
    seen = torch.stack([frames[:, t - NUM_FRAMES + 1 : t + 1] for t in range(NUM_FRAMES - 1, 5)], 1)
    logits = net.logits(seen.flatten(0, 1))
    wanted = torch.nn.functional.cross_entropy(logits, actions[:, NUM_FRAMES - 1 :].flatten())
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (90, 160), (32, 48), (7, 5)])
def test_frames_of_any_size(height: int, width: int):
    net = ActionPrior(replace(SHAPE, height=height, width=width))
    assert net.logits(torch.rand(2, NUM_FRAMES, 3, height, width)).shape == (2, NUM_ACTIONS)


@pytest.mark.parametrize(
    "flags", [{"steps": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"weight_decay": -1.0}]
)
def test_impossible_training_is_refused(tmp_path: Path, flags: dict):
    with pytest.raises(UserError, match="--"):
        training.main(PriorTraining(world=tmp_path, data=str(tmp_path), **flags))


@pytest.mark.parametrize("values", [{"dim": 0}, {"height": 3}])
def test_impossible_shapes_are_refused(values: dict):
    with pytest.raises(UserError):
        replace(SHAPE, **values)


def test_a_world_gets_a_prior_and_is_otherwise_the_same(
    prepared_folder: Path, tiny_world_folder: Path, tmp_path: Path, prompts: np.ndarray
):
    folder = tmp_path / "world"
    before = World.from_pretrained(tiny_world_folder)
    before.save_pretrained(folder)
    config = PriorTraining(world=folder, data=str(prepared_folder), steps=3, batch_size=2, dim=4)
    metrics = training.main(config)
    assert 0 <= metrics["marginal"] <= np.log(NUM_ACTIONS) + 1e-6
    after = World.from_pretrained(folder)
    assert after.has_prior and not before.has_prior
    assert after.fingerprint == before.fingerprint, "recordings and bound keys still belong to it"
    running = [each.start_many(prompts, seeds=range(3)) for each in (before, after)]
    for action in range(3):
        one, other = (sessions.step(np.full(3, action)) for sessions in running)
        assert (one == other).all()
    training.main(config)
    assert World.from_pretrained(folder).has_prior, "a second one takes its place"


# Wishes


def test_actions_are_drawn_by_prior_times_wish(world: World, prompts: np.ndarray):
    many = np.repeat(prompts[:1], 4000, axis=0)
    running = Sessions.__new__(Sessions)
    engine = start(world, prompts)._engine
    running._allocate(engine, range(len(many)), world.sampling)
    running._show(many[:, 0])
    wish = np.array([0.0, 1.0, 0.2, 3.0, 0.5])
    drawn = running.choose(np.tile(wish, (len(many), 1)))
    wanted = shares(world, running)[0] * wish
    found = np.bincount(drawn, minlength=NUM_ACTIONS) / len(many)
    assert np.abs(found - wanted / wanted.sum()).max() < 0.03
    assert found[0] == 0, "what nobody wishes for is not taken"


def test_a_wish_means_the_same_until_the_next_step(world: World, prompts: np.ndarray):
    running, wishes = start(world, prompts), np.ones((3, NUM_ACTIONS))
    chosen, met = running.choose(wishes), []
    running.prepare(chosen)
    assert (running.choose(wishes) == chosen).all()
    moment = running.snapshot()
    for _ in range(STEPS):
        chosen = running.choose(wishes)
        met.append((chosen, running.step(chosen)))
    assert len({chosen.tobytes() for chosen, _ in met}) > 1, "the draws never change"
    running.restore(moment)
    for chosen, frames in met:
        assert (running.choose(wishes) == chosen).all()
        assert (running.step(chosen) == frames).all()


def test_frames_do_not_depend_on_wishes(world: World, prompts: np.ndarray):
    asked, silent = start(world, prompts), start(world, prompts)
    for action in range(STEPS):
        asked.choose(np.ones((3, NUM_ACTIONS)))
        actions = np.full(3, action)
        assert (asked.step(actions) == silent.step(actions)).all()


def test_worlds_in_a_batch_choose_by_themselves(world: World, prompts: np.ndarray):
    together = start(world, prompts)
    alone = [world.start_many(prompts[n : n + 1], seeds=[n]) for n in range(3)]
    for step in range(STEPS):
        chosen = together.choose(np.ones((3, NUM_ACTIONS)))
        singly = [one.choose(np.ones((1, NUM_ACTIONS)))[0] for one in alone]
        assert chosen.tolist() == singly, f"step {step}"
        together.step(chosen)
        for one, action in zip(alone, singly, strict=True):
            one.step(np.array([action]))


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1.0, 1e308])
def test_wishes_of_any_size_choose_an_action(world: World, prompts: np.ndarray, scale: float):
    running = start(world, prompts)
    chosen = running.choose(np.full((3, NUM_ACTIONS), scale))
    assert (chosen == running.choose(np.ones((3, NUM_ACTIONS)))).all()


@pytest.mark.parametrize("wish", ["right", [1, 1, 1, 1, "x"], [[1, 1], 1, 1, 1]])
def test_a_session_refuses_what_is_no_wish(world: World, prompts: np.ndarray, wish):
    session = world.start(np.moveaxis(prompts[0], 1, -1))
    with pytest.raises(UserError, match="wishes"):
        session.choose(wish)


def test_what_is_done_to_a_frame_does_not_change_wishes(world: World, prompts: np.ndarray):
    running, other = start(world, prompts), start(world, prompts)
    for one in (running, other):
        one.step(np.zeros(3, dtype=int))
    running.frames[:] = 0
    assert (shares(world, running) == shares(world, other)).all()


def test_the_prior_of_a_world_in_training_is_that_of_the_world(prompts: np.ndarray):
    torch.manual_seed(0)
    world = World(replace(tiny_world_config(), prior=SHAPE))
    wanted = start(world, prompts)._engine.foretell(np.repeat(prompts, NUM_FRAMES, axis=1))
    world.train()
    found = start(world, prompts)._engine.foretell(np.repeat(prompts, NUM_FRAMES, axis=1))
    assert (found == wanted).all()


def test_what_the_prior_rules_out_can_be_insisted_on(world: World, prompts: np.ndarray):
    running = start(world, prompts)
    running._foretold = np.eye(NUM_ACTIONS)[:3] * 1.0
    wish = np.zeros((3, NUM_ACTIONS))
    wish[:, 4] = 0.3
    assert running.choose(wish).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    "wishes",
    [
        np.ones((2, NUM_ACTIONS)),
        np.ones((3, NUM_ACTIONS - 1)),
        np.zeros((3, NUM_ACTIONS)),
        -np.ones((3, NUM_ACTIONS)),
        np.full((3, NUM_ACTIONS), np.nan),
        np.full((3, NUM_ACTIONS), "a"),
        "right",
    ],
    ids=["few worlds", "few actions", "none", "negative", "not a number", "text", "a word"],
)
def test_wishes_that_do_not_fit_are_refused(world: World, prompts: np.ndarray, wishes):
    with pytest.raises(UserError, match="wishes"):
        start(world, prompts).choose(wishes)


def test_a_world_without_a_prior_says_how_to_add_one(prompts: np.ndarray):
    running = World(tiny_world_config()).start_many(prompts)
    with pytest.raises(UserError, match=r"train\.prior"):
        running.choose(np.ones((3, NUM_ACTIONS)))


# A world that plays itself


def test_films_led_by_the_prior_are_measured(world: World, prepared_folder: Path):
    store = FrameStore.open(prepared_folder, "heldout")
    scenes, steps = longest_scenes(store), [8, 10]
    films = play_on(world, store, scenes, steps, seed=0)
    assert {step: film.shape[1] for step, film in films.items()} == {8: 8, 10: 10}
    again = play_on(world, store, scenes, [8], seed=0)
    assert torch.equal(again[8], films[8]), "a film does not depend on how long others run on"
    run = run_on(world, store, scenes, steps, seed=0)
    figures = long_figures(world, store, run, seed=0, by_prior=films)
    assert figures.by_prior.steps.keys() == set(steps)
    without = long_figures(world, store, run, seed=0)
    added = set(_long_lines(figures)) - set(_long_lines(without))
    shown = [f"{figures.by_prior.steps[10].sharpness:.2f}" in line for line in added]
    assert len(added) >= 4 and any(shown), "the table tells of them"
    assert not torch.equal(films[10], run.windows[10]), "it is led by the video's actions"


# Keys


DOES = {
    "right": {"left": 0.0, "right": 1.0, "up": 0.1, "down": 0.7, "still": 0.0},
    "rising": {"left": 0.1, "right": 0.4, "up": 0.9, "down": 0.0, "still": 0.0},
    "stay": {"left": 0.0, "right": 0.0, "up": 0.1, "down": 0.1, "still": 0.9},
}


def write_legend(folder: Path, actions: list[dict]) -> Path:
    keys = {"right": 0, "up": 1, "none": 2, "z": 1}
    (folder / "legend.json").write_text(json.dumps({"keys": keys, "actions": actions}))
    return folder


def measured() -> list[dict]:
    return [{"name": name, "agreements": shares} for name, shares in DOES.items()]


def test_a_key_wishes_for_what_it_says_and_nothing_else(tmp_path: Path):
    legend = Legend.load(write_legend(tmp_path, measured()), 3)
    wishes = {key: np.array(wish) for key, wish in legend.wishes.items()}
    assert wishes.keys() == {"right", "up", "right_up", "none"}, "a letter stands for one action"
    for wish, best in ((wishes["right"], 0), (wishes["up"], 1), (wishes["none"], 2)):
        assert wish.argmax() == best and (wish > 0).all(), "what was never seen is not impossible"
    assert wishes["right"][1] < wishes["right"][0] * 0.1, "nobody asked to rise"


@pytest.mark.parametrize(
    "agreements", [None, {}, {"left": 2, "right": 0, "up": 0, "down": 0}, "often"]
)
def test_a_legend_without_figures_has_no_wishes(tmp_path: Path, agreements):
    actions = [{"name": name, "agreements": agreements} for name in DOES]
    assert Legend.load(write_legend(tmp_path, actions), 3).wishes == {}


def test_keys_are_wishes_only_with_a_prior_and_until_they_are_bound_anew(tmp_path: Path):
    folder = write_legend(tmp_path, measured())
    keymap = KeyMap.load(folder, 3, has_prior=True)
    wishes = keymap.wishes
    assert keymap.choose(["right"]) == Press(0, "right", wishes["right"])
    assert keymap.choose(["1"]) == Press(0, "1"), "a digit means this very action"
    own = keymap.rebound("right", 2)
    assert own.choose(["right"]) == Press(2, "right")
    of_up = Press(1, "up", wishes["up"])
    assert own.choose(["right", "up"]) == of_up, "half of this chord is no wish any more"
    both = keymap.choose(["right", "up"])
    assert both.key == "right_up" and both.action in (0, 1), "though no action has this chord"
    assert both.wish == wishes["right_up"] and keymap.vocabulary["right_up"] == both
    assert keymap.names_of(1) == ("up", "z"), "nor does one get it"
    words = keymap.vocabulary
    assert words["stay"] == words["none"] == keymap.choose([]) and words["stay"].wish
    without = KeyMap.load(folder, 3)
    assert without.vocabulary["stay"].wish is None
    assert without.choose(["right", "up"]) == Press(1, "up")
    assert without.choose(["right"]) == Press(0, "right")


def test_held_keys_are_wishes_at_every_frame(world: World, prompts: np.ndarray):
    starts = torch.from_numpy(prompts[:, 0])
    wishes = {"right": [1.0, 0, 0, 0, 0], "up": [0, 0, 1.0, 0.5, 0]}
    clips = hold_keys(world, starts, wishes, 3, seed=0)
    assert clips.shape == (3, 2, 4, 3, HEIGHT, WIDTH)
    assert torch.equal(clips[:, 0, 0], starts) and torch.equal(clips[:, 1, 0], starts)
    right = world.start_many(prompts, seeds=[2**32 * row for row in (0, 2, 4)])
    for step in range(3):
        frames = right.step(np.zeros(3, dtype=int))
        assert (clips[:, 0, step + 1].numpy() == frames).all(), "one action fits this wish"


def test_a_world_with_a_prior_is_played_by_wishes(world: World, tmp_path: Path, prompts):
    folder = tmp_path / "world"
    world.save_pretrained(folder)
    actions = measured() + [{"name": "left", "agreements": DOES["stay"]}] * 2
    write_legend(folder, actions)
    opening = Library().open_frames(folder, np.moveaxis(prompts[0], 1, -1))
    playthrough = opening.playthrough(0, opening.settings)
    chosen = playthrough.game.choose(opening.keymap.wishes["right"])
    assert chosen in range(NUM_ACTIONS)
    playthrough.follow(opening.keymap.choose(["right"]))
    playthrough.follow(exactly(1))
    assert playthrough.actions == (chosen, 1)
    assert [step.wished for step in playthrough.steps] == ["right", None]


def test_a_recording_of_wishes_is_played_again(world: World, tmp_path: Path, prompts, capsys):
    folder, picture = tmp_path / "world", tmp_path / "prompt.png"
    world.save_pretrained(folder)
    write_legend(folder, measured() + [{"name": "left", "agreements": DOES["stay"]}] * 2)
    video.write_image(picture, np.moveaxis(prompts[0, 0], 0, -1))
    run = ["--world", folder, "--headless", "--show-keys", "--export"]
    wanted = [*run, tmp_path / "a.gif", "--prompt", picture, "--actions", "none*15,right_up,3"]
    assert play([*map(str, wanted), "--record", str(tmp_path / "a.json")]) == 0
    again = [*map(str, run[:2]), "--replay", str(tmp_path / "a.json"), "--export"]
    assert play([*again, str(tmp_path / "b.gif")]) == 0
    recorded = json.loads((tmp_path / "a.json").read_text())["actions"]
    assert recorded[-1] == 3 and len(recorded) == 17
    assert len(set(recorded[:15])) > 1, "three actions stay: which is drawn"
