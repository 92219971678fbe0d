"""Worlds as environments: Gymnasium's own checks, and what an agent relies on."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import genie.env
from genie import video
from genie.errors import UserError


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("prompts"), np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(3)]
    for path in paths:
        blocks = rng.integers(256, size=(8, 12, 3), dtype=np.uint8)
        video.write_image(path, blocks.repeat(4, axis=0).repeat(4, axis=1))
    return paths


@pytest.fixture
def options(tiny_world_folder: Path, prompts: list[Path]) -> dict:
    return {"world": tiny_world_folder, "prompts": prompts}


def test_gymnasium_finds_nothing_wrong(options: dict):
    check_env(gymnasium.make("GenieWorld-v0", **options, render_mode="rgb_array").unwrapped)


def test_stable_baselines_finds_nothing_wrong(options: dict):
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="pip install stable-baselines3"
    )
    checker.check_env(gymnasium.make("GenieWorld-v0", **options), warn=False)


def test_the_seed_decides_an_episode(options: dict):
    env = gymnasium.make("GenieWorld-v0", max_episode_steps=6, **options)
    first, _ = env.reset(seed=3)
    frames = []
    for action in (0, 1, 2, 0, 1, 2):
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        assert (reward, terminated) == (0, False)
        assert truncated == (len(frames) == 6)
    again, _ = env.reset(seed=3)
    assert np.array_equal(first, again)
    assert np.array_equal(env.step(0)[0], frames[0])
    starts = {env.reset()[0].tobytes() for _ in range(20)}
    assert len(starts) == 3, "each prompt starts some episodes"


def test_many_worlds_are_as_many_single_ones(options: dict):
    envs = gymnasium.make_vec("GenieWorld-v0", num_envs=3, **options)
    singles = [gymnasium.make("GenieWorld-v0", **options) for _ in range(3)]
    first, _ = envs.reset(seed=5)
    alone = [env.reset(seed=5 + row)[0] for row, env in enumerate(singles)]
    assert np.array_equal(first, alone)
    rng = np.random.default_rng(0)
    for _ in range(4):
        actions = rng.integers(envs.single_action_space.n, size=3)
        frames, *_ = envs.step(actions)
        alone = [env.step(action)[0] for env, action in zip(singles, actions, strict=True)]
        assert np.array_equal(frames, alone)


def test_a_row_that_ends_starts_anew_in_the_next_step(options: dict):
    def judge(before: np.ndarray, actions: np.ndarray, after: np.ndarray):
        assert before.shape == after.shape == (2, 32, 48, 3)
        return actions * 1.0, actions == 2

    envs = gymnasium.make_vec("GenieWorld-v0", num_envs=2, judge=judge, **options)
    envs.reset(seed=0)
    _, rewards, ends, truncated, _ = envs.step(np.array([1, 2]))
    assert rewards.tolist() == [1, 2] and ends.tolist() == [False, True] and not truncated.any()
    frames, rewards, ends, _, _ = envs.step(np.array([2, 2]))
    assert rewards.tolist() == [2, 0] and ends.tolist() == [True, False]
    single = gymnasium.make("GenieWorld-v0", **options)
    single.reset(seed=1)
    assert np.array_equal(single.reset()[0], frames[1]), "the row's own next episode"


def test_a_row_that_ends_starts_anew_at_once_if_asked(options: dict):
    def judge(before: np.ndarray, actions: np.ndarray, after: np.ndarray):
        return actions * 1.0, actions == 2

    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs, waiting = (
        gymnasium.make_vec("GenieWorld-v0", num_envs=2, judge=judge, **more, **options)
        for more in ({"autoreset_mode": mode}, {})
    )
    envs.reset(seed=0), waiting.reset(seed=0)
    actions = np.array([1, 2])
    frames, rewards, ends, _, infos = envs.step(actions)
    last, *_ = waiting.step(actions)
    assert rewards.tolist() == [1, 2] and ends.tolist() == [False, True]
    assert infos["_final_obs"].tolist() == [False, True]
    assert np.array_equal(infos["final_obs"][1], last[1]), "the last picture of the episode"
    assert np.array_equal(frames[0], last[0])
    assert np.array_equal(frames[1], waiting.step(np.array([0, 0]))[0][1]), "the same next episode"


def test_rows_are_truncated_by_their_own_age(options: dict):
    def judge(before: np.ndarray, actions: np.ndarray, after: np.ndarray):
        return np.zeros(2), actions == 2

    envs = gymnasium.make_vec(
        "GenieWorld-v0", num_envs=2, judge=judge, max_episode_steps=3, **options
    )
    envs.reset(seed=0)
    played = [envs.step(np.array(actions))[3].tolist() for actions in ((0, 2), (0, 0), (0, 0))]
    assert played == [[False, False], [False, False], [True, False]]
    played = [envs.step(np.array([0, 0]))[3].tolist() for _ in range(2)]
    assert played == [[False, False], [False, True]], "row 1 began anew in the second step"


def test_what_is_wrong_is_told_in_one_line(options: dict, tiny_world_folder: Path):
    with pytest.raises(UserError, match="is not a world"):
        gymnasium.make("GenieWorld-v0", world=tiny_world_folder / "none")
    with pytest.raises(UserError, match="prompts is empty"):
        gymnasium.make("GenieWorld-v0", world=tiny_world_folder, prompts=[])
    with pytest.raises(UserError, match="use 1 or more"):
        genie.env.GenieVectorEnv(0, **options)
    with pytest.raises(UserError, match="NEXT_STEP or SAME_STEP"):
        disabled = gymnasium.vector.AutoresetMode.DISABLED
        genie.env.GenieVectorEnv(1, autoreset_mode=disabled, **options)
    envs = gymnasium.make_vec("GenieWorld-v0", num_envs=2, **options)
    with pytest.raises(UserError, match="reset first"):
        envs.step(np.zeros(2, dtype=int))
    with pytest.raises(UserError, match="1 seeds for 2 worlds"):
        envs.reset(seed=[1])
    envs.reset(seed=0)
    with pytest.raises(UserError, match="action 99 does not exist"):
        envs.step(np.array([0, 99]))


def test_the_shipped_world_needs_no_prompts():
    env = gymnasium.make("GenieWorld-v0", world="ninja")
    frame, _ = env.reset(seed=0)
    assert frame.shape == env.observation_space.shape == (64, 64, 3)
