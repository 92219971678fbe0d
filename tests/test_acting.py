"""Players that learn: rewards counted fairly, what they see, clones, and labels to buttons."""

import importlib
import json
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genie.data.clips import FrameStore
from genie.errors import UserError
from train.measure.true_actions import TrueActions

gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed: make agents")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
COLOURS = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220)], np.uint8)
LENGTH = 20


class Signs(gymnasium.Env):
    """Shows a colour; the button of that number earns 1. Episodes last 20 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode: str = "rgb_array") -> None:
        self.render_mode, self.age, self.sign = render_mode, 0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.age, self.sign = 0, int(self.np_random.integers(3))
        return self.render(), {}

    def step(self, action: int):
        earned = float(action == self.sign)
        self.age, self.sign = self.age + 1, int(self.np_random.integers(3))
        return self.render(), earned, self.age == LENGTH, False, {}

    def render(self) -> np.ndarray:
        return np.tile(COLOURS[self.sign], (64, 64, 1))


@pytest.fixture(scope="module")
def signs() -> Any:
    """The id of the game."""
    name = "GenieSigns-v0"
    gymnasium.register(name, Signs)
    yield name
    gymnasium.registry.pop(name)


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


class Reader:
    """Presses what the sign says, and the wrong button in every `slip`th game."""

    def __init__(self, slip: int) -> None:
        self.slip = slip

    def act(self, pictures: list[np.ndarray]) -> np.ndarray:
        right = np.array([int(picture[0, 0].argmax()) for picture in pictures])
        wrong = np.arange(len(right)) % self.slip == 0
        return np.where(wrong, (right + 1) % 3, right).astype(np.int32)

    def restart(self, started: np.ndarray) -> None:
        pass


def test_a_score_counts_as_many_episodes_of_every_game(signs):
    arena = example("arena").Arena(game=signs, frame_skip=1)
    with arena.open(4, seed=0) as games:
        returns = arena.returns(games, Reader(slip=2), per_game=3)
    assert returns.tolist() == [0.0] * 3 + [LENGTH] * 3 + [0.0] * 3 + [LENGTH] * 3


def test_seeds_have_levels_of_their_own(signs):
    arena = example("arena").Arena(game=signs, frame_skip=1)
    levels = []
    for seed in range(3):
        with arena.open(4, seed, levels=(0, 100_000)) as games:
            levels += games.levels
    assert len(set(levels)) == 12


def test_what_follows_a_restart_earns_nothing_in_the_same_step(signs):
    arena = example("arena").Arena(game=signs, frame_skip=3)
    with arena.open(1, seed=0) as games:
        for _ in range(6):
            games.advance(np.array([0]), 3)
        restarted = games.advance(np.array([0]), 3)  # game steps 19 and 20, and one of the next
        assert restarted.all() and 0 <= games.rewards[0] <= 2


@given(ends=st.lists(st.booleans(), min_size=3, max_size=12), seed=st.integers(0, 99))
def test_a_player_sees_the_newest_two_pictures_of_the_same_episode(ends, seed):
    sight = example("sight").Sight(1)
    pictures = np.random.default_rng(seed).integers(0, 256, (len(ends), 64, 64, 3), dtype=np.uint8)
    before = None
    for picture, is_over in zip(pictures, ends, strict=True):
        seen = sight.look([picture])[0]
        expected = [picture if before is None else before, picture]
        np.testing.assert_array_equal(seen, np.concatenate(expected, axis=2).transpose(2, 0, 1))
        before = None if is_over else picture
        sight.forget(np.array([is_over]))


def test_a_dictionary_draws_buttons_as_often_as_labels_show_them():
    dictionary = example("mapping").Dictionary(
        np.array([0, 0, 0, 2]), np.array([1, 1, 3, 0]), (3, 4)
    )
    expected = [[0, 2 / 3, 0, 1 / 3], [0.25] * 4, [1, 0, 0, 0]]
    np.testing.assert_allclose(dictionary.shares, expected)
    assert dictionary.draw(np.array([2, 2]), np.random.default_rng(0)).tolist() == [0, 0]


@given(shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=5))
def test_draws_follow_the_probabilities(shares):
    rows = np.tile(np.array(shares) / sum(shares), (4000, 1))
    drawn = example("mapping").draw(rows, np.random.default_rng(0))
    found = np.bincount(drawn, minlength=len(shares)) / len(rows)
    np.testing.assert_allclose(found, rows[0], atol=0.04)


@pytest.fixture(scope="module")
def expert(signs, tmp_path_factory) -> tuple[Path, str]:
    """A trained player's file, and what the command printed."""
    path = tmp_path_factory.mktemp("expert") / "player.zip"
    module = example("expert")
    config = module.ExpertConfig(game=signs, out=path, frame_skip=1, decisions=16_000)
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(
            "builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words)))
        )
        module.main(config)
    return path, printed[-1]


@pytest.fixture(scope="module")
def videos(signs, expert, tmp_path_factory) -> Path:
    """What the trained player shows."""
    folder = tmp_path_factory.mktemp("videos") / "signs"
    record = example("record_game")
    record.main(
        record.RecordingConfig(
            game=signs,
            out=folder,
            frames=1200,
            heldout_frames=60,
            frame_skip=1,
            hand=str(expert[0]),
            arrays=True,
        )
    )
    return folder


def test_an_expert_learns_the_game(expert):
    trained, random = map(float, re.findall(r"(?:trained|random) ([\d.]+)", expert[1]))
    assert 0.25 * LENGTH < random < 0.4 * LENGTH
    assert trained > 1.5 * random


def test_its_recorded_buttons_are_those_that_it_earned_with(videos):
    store = FrameStore.open(videos, "train")
    true = TrueActions.open(videos / "true_actions.npz").of_store(store)
    signs = store.read(0, len(store))[:, :, 0, 0].argmax(dim=1)
    assert (true == signs)[true >= 0].float().mean() > 0.5


def test_demonstrations_show_what_a_player_would_see(videos):
    store = FrameStore.open(videos, "train")
    sight, demonstrations = example("sight").Sight(1), example("cloning").Demonstrations(store)
    starts = set(np.asarray(store.scene_starts).tolist())
    for row in range(60):
        sight.forget(np.array([row in starts]))
        picture = store.read(row, row + 1)[0].permute(1, 2, 0).numpy()
        seen = demonstrations.seen(torch.tensor([row]))[0]
        np.testing.assert_array_equal(seen, sight.look([picture])[0])


def test_imitation_is_scored_beside_random_buttons_and_the_oracle(
    videos, expert, tmp_path, monkeypatch
):
    imitate = example("imitate")
    monkeypatch.setattr(imitate, "LABELS_ALONE_STEPS", 20)
    monkeypatch.setattr(imitate, "NUM_GAMES", 16)
    config = imitate.ImitationConfig(
        world=ROOT / "checkpoints" / "coinrun",
        expert=videos,
        player=expert[0],
        labels=(0, 100),
        seeds=2,
        steps=40,
        out=tmp_path / "out",
    )
    imitate.main(config)
    found = json.loads((tmp_path / "out" / "imitation.json").read_text())
    means = {(way["way"], way["labels"]): way["mean"] for way in found["ways"]}
    assert min(means["expert", None], means["oracle", None]) > 0.5 * LENGTH
    assert means["random", None] < 0.4 * LENGTH
    assert means["dictionary", 0] < 0.5 * LENGTH, "without labels nothing tells the buttons"
    assert {("dictionary", 100), ("guesses", 100), ("labels alone", 100)} <= means.keys()
    assert ("guesses", 0) not in means, "without labels there is nothing to guess from"
    with Image.open(tmp_path / "out" / "imitation.png") as plot:
        assert min(plot.size) > 100


def test_features_are_of_the_transitions_around_a_row():
    def features(frames):
        return frames[:, 1:, 0, 0, :2] - frames[:, :-1, 0, 0, :2]

    seeing = SimpleNamespace(device="cpu", latent_action=SimpleNamespace(features=features))
    frames = torch.randint(256, (9, 3, 2, 2), dtype=torch.uint8)
    starts = [0, 4, 5, 7, 9]  # the second scene has no transition, and others have one
    found = example("latents").features(seeing, lambda a, b: frames[a:b], starts)
    own = (frames[1:, 0, 0].float() - frames[:-1, 0, 0]) / 255
    nothing = torch.zeros(2)
    around = [(0, 0, 1), (0, 1, 2), (1, 2, 2), (2, 2, 2), None, (5, 5, 5), (5, 5, 5)]
    around += [(7, 7, 7), (7, 7, 7)]
    wanted = torch.stack(
        [torch.cat([own[k] for k in near] if near else [nothing] * 3) for near in around]
    )
    wanted = (wanted - wanted.mean(dim=0)) / wanted.std(dim=0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_buttons_are_guessed_from_a_few_labels(num_buttons, seed):
    generator = np.random.default_rng(seed)
    buttons = generator.integers(num_buttons, size=400)
    features = generator.normal(size=(400, 12)) * 0.3
    features[np.arange(400), buttons] += 2
    features = (features - features.mean(0)) / features.std(0)
    labelled = generator.permutation(400)[:120]
    shares = example("guessing").guess(features, labelled, buttons[labelled], num_buttons + 1)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert (shares[:, num_buttons] == 0).all(), "no label shows this one"
    assert (shares.argmax(axis=1) == buttons).mean() > 0.8


def test_if_all_labels_are_the_same_so_is_every_guess():
    shares = example("guessing").guess(np.eye(6), np.array([1, 4]), np.array([2, 2]), 4)
    assert (shares == [0, 0, 1, 0]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "seeds"),
        ({"labels": ()}, "labels"),
        ({"expert": Path("nowhere")}, "nowhere holds no recording"),
        ({"player": Path("nowhere.zip")}, "there is no file nowhere.zip"),
        ({"world": Path("nowhere")}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_one_line_of_error(changes, message, videos, tmp_path):
    imitate = example("imitate")
    options = {
        "world": ROOT / "checkpoints" / "coinrun",
        "expert": videos,
        "out": tmp_path,
        "steps": 1,
        **changes,
    }
    with pytest.raises(UserError, match=message) as error:
        imitate.main(imitate.ImitationConfig(**options))
    assert "\n" not in str(error.value)


def collected(signs: str, per_game: int) -> Any:
    """Labelled episodes of two games; the first never presses the right button."""
    arena = example("arena").Arena(game=signs, frame_skip=1)
    return example("judging").collect(arena, Reader(slip=2), 2, per_game, seed=0)


def test_labelled_episodes_are_whole_and_say_what_was_paid(signs):
    episodes = collected(signs, per_game=3)
    assert episodes.starts.tolist() == [LENGTH * number for number in range(7)]
    seen = episodes.pictures[:, :, 0, 0].argmax(dim=1).numpy()
    np.testing.assert_array_equal(episodes.rewards, episodes.buttons == seen)
    assert episodes.rewards.sum() == 3 * LENGTH


def test_a_judge_tells_ends_and_payments_apart():
    judging, generator = example("judging"), np.random.default_rng(0)
    signs = generator.integers(0, 3, 900)  # green pays, blue ends
    pictures = torch.from_numpy(COLOURS[signs]).permute(0, 1)[..., None, None].repeat(1, 1, 64, 64)
    rewards, ends = np.where(signs == 1, 7.0, 0.0), signs == 2
    episodes = judging.Episodes(pictures, np.zeros(900, int), rewards, ends)
    judge = judging.LearntJudge(episodes, steps=60, seed=0)
    before = np.tile(COLOURS[:, None, None], (1, 64, 64, 1))
    paid, over = judge(before, np.zeros(3, int), before)
    assert paid.tolist() == [0, 7, 0]
    assert over.tolist() == [False, False, True]


def test_a_player_learns_in_a_dream_and_is_scored_in_the_game(signs, tmp_path):
    dream = example("dream")
    dream.main(
        dream.DreamConfig(
            world=ROOT / "checkpoints" / "coinrun",
            game=signs,
            frame_skip=1,
            episodes=16,
            decisions=64,
            judge_steps=20,
            seeds=2,
            out=tmp_path,
        )
    )
    ways = json.loads((tmp_path / "dream.json").read_text())["ways"]
    assert [way["way"] for way in ways] == ["random", "real game", "dream"]
    assert all(0 < way["mean"] < LENGTH for way in ways)
    with Image.open(tmp_path / "seed-0" / "prompts" / "0.png") as prompt:
        assert prompt.size == (64, 64)


def test_a_dream_that_cannot_be_is_one_line_of_error(signs, tiny_world_folder, tmp_path):
    dream = example("dream")
    options = {"world": tiny_world_folder, "game": signs, "out": tmp_path}
    for changes, message in (
        ({}, "give a world of"),
        ({"episodes": 3}, "--episodes is 3; give at least 16"),
        ({"world": Path("nowhere")}, "nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            dream.main(dream.DreamConfig(**{**options, **changes}))


def test_a_player_of_another_game_is_refused(expert):
    with pytest.raises(UserError, match="not in coinrun: train one there"):
        example("trained").load(expert[0], "coinrun", 3)


@pytest.mark.parametrize("content", [b"", b"no zip at all", None])
def test_a_damaged_player_is_one_line_of_error(content, expert, tmp_path):
    path = tmp_path / "player.zip"
    if content is None:  # a zip with nothing in it that is needed
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", "{}")
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="holds no player"):
        example("trained").load(path, "coinrun", 15)


def test_more_labels_than_there_are_is_one_line_of_error(videos, tmp_path):
    imitate = example("imitate")
    world = ROOT / "checkpoints" / "coinrun"
    config = imitate.ImitationConfig(world=world, expert=videos, labels=(9_999,), out=tmp_path)
    with pytest.raises(UserError, match="asks for 9999"):
        imitate.main(config)


def test_games_without_difficulties_have_none(signs):
    arena = example("arena").Arena
    for options in ({"plain": True}, {"distribution": "hard"}, {"frame_skip": "x"}):
        with pytest.raises(UserError):
            arena(game=signs, **options)


# Planning

STRIPES = np.random.default_rng(0).integers(0, 256, (8, 64, 3), dtype=np.uint8).repeat(8, axis=0)
SHIFTS = np.array([0, 8, -8])  # of each button


def view(position: int) -> np.ndarray:
    return np.roll(STRIPES.transpose(1, 0, 2), position, axis=1)


class Track(Signs):
    """A landscape that the second button shifts to the right, and the third to the left."""

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        self.position = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: int):
        self.position += SHIFTS[action]
        return super().step(action)

    def render(self) -> np.ndarray:
        return view(self.position)


class PerfectTrack:
    """A world of that game whose latent actions are numbered from the other end."""

    size = 64, 64

    def start_many(self, prompts: np.ndarray, *, seeds: list[int]) -> "PerfectTrack":
        newest = prompts[0, -1].transpose(1, 2, 0)
        (self.start,) = (at for at in range(0, 64, 8) if (newest == view(at)).all())
        return self

    def fork(self, count: int) -> "PerfectTrack":
        self.positions = np.full(count, self.start)
        return self

    def step(self, actions: np.ndarray) -> np.ndarray:
        self.positions += SHIFTS[::-1][actions]
        return np.stack([view(position) for position in self.positions]).transpose(0, 3, 1, 2)


def test_plans_reach_what_is_seen_at_the_goal(tmp_path, monkeypatch):
    plan, labelled = example("plan"), example("labelled")
    monkeypatch.setitem(
        gymnasium.registry,
        "Track-v0",
        gymnasium.envs.registration.EnvSpec("Track-v0", entry_point=Track),
    )
    monkeypatch.setattr(plan, "open_world", lambda folder: PerfectTrack())
    buttons = torch.arange(300) % 3
    known = labelled.Transitions(
        store=None,
        world=None,
        latents=2 - buttons,
        buttons=buttons,
        sizes=(3, 3),
        arena=example("arena").Arena(game="Track-v0", frame_skip=1),
    )
    monkeypatch.setattr(labelled.Transitions, "open", lambda *args, **options: known)
    options = {"world": tmp_path, "recording": tmp_path, "out": tmp_path}
    config = plan.PlanConfig(goals=4, candidates=64, **options)
    plan.main(config)
    found = json.loads((tmp_path / "plan.json").read_text())["ways"]
    means = {way["way"]: way["mean"] for way in found}
    assert means["planned"] == means["tried out"] == 1
    assert 0 < means["random buttons"] < 0.7 and 0 < means["random latents"] < 0.7
    with Image.open(tmp_path / "plan.png") as sheet:
        assert sheet.size == (4 * 64, 4 * 64)
    with pytest.raises(UserError, match="already holds results"):
        plan.main(config)
    monkeypatch.setattr(Track, "step", Signs.step)
    with pytest.raises(UserError, match="has no goals"):
        plan.main(replace(config, out=tmp_path / "other"))


@given(seed=st.integers(0, 999), choices=st.integers(2, 15))
def test_what_is_drawn_is_held(seed, choices):
    plan = example("plan")
    drawn = plan.draw(np.random.default_rng(seed), 20, choices)
    assert drawn.shape == (20, plan.HORIZON) and drawn.min() >= 0 and drawn.max() < choices
    for row in drawn:
        changes = np.flatnonzero(np.diff(row)) + 1
        assert (np.diff([0, *changes]) >= plan.HOLD[0]).all()


@given(down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_a_small_shift_is_no_distance(down, right):
    plan = example("plan")
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shifted = np.roll(picture, (down, right), axis=(0, 1))
    near, far = plan.distances(np.stack([shifted, picture[::-1]]), picture)
    assert near == 0 and far > plan.FAR
    assert plan.distances(np.roll(picture, 4, axis=0)[None], picture)[0] > plan.FAR
