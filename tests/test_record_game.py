"""Recording of real games: reproducible, lossless, cleanly split, and told in one line if not."""

import contextlib
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from genie import video
from genie.errors import UserError

SCRIPT = Path(__file__).parents[1] / "examples" / "record_game.py"
OPTIONS = {
    "game": "coinrun",
    "frames": 1200,
    "heldout-frames": 100,
    "num-levels": 7,
    "num-heldout-levels": 3,
    "num-envs": 4,
    "seed": 5,
}


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


needs_procgen = pytest.mark.skipif(not has("procgen"), reason="Procgen is not installed")
needs_gymnasium = pytest.mark.skipif(not has("gymnasium"), reason="Gymnasium is not installed")
needs_atari = pytest.mark.skipif(
    not has("gymnasium", "ale_py"), reason="the Atari games are not installed"
)


def record(out: Path, **changes: str | int) -> subprocess.CompletedProcess:
    """Run the script as a user does."""
    options = {**OPTIONS, "out": out, **changes}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, SCRIPT, *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1])


def config(record_game, out: Path, **changes):
    """The same options for a call within this process."""
    options = {**OPTIONS, "out": out, **changes}
    return record_game.RecordingConfig(
        **{name.replace("-", "_"): value for name, value in options.items()}
    )


@pytest.fixture
def record_game(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("record_game")


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """One small recording that the tests only read."""
    out = tmp_path_factory.mktemp("recording") / "coinrun"
    run = record(out)
    assert run.returncode == 0, run.stderr
    assert "unmaintained" not in run.stderr, "Gym's notice reached the user's terminal"
    return out


def video_names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.mp4"))


def true_actions(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "true_actions.npz") as stored:
        return dict(stored)


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def levels(folder: Path, split: str) -> set[int]:
    return {int(path.name.split("-")[1]) for path in (folder / split).glob("*.mp4")}


@needs_procgen
def test_same_seed_gives_the_same_recording(recording, record_game, tmp_path):
    record_game.main(config(record_game, tmp_path / "again"))
    names = video_names(recording)
    assert video_names(tmp_path / "again") == names
    first, second = true_actions(recording), true_actions(tmp_path / "again")
    for name in names:
        assert np.array_equal(first[name], second[name]), f"other actions in {name}"
        path = f"{name}.mp4"
        same = video.read(recording / path).equal(video.read(tmp_path / "again" / path))
        assert same, f"other frames in {name}"


@needs_procgen
def test_every_transition_has_its_action(recording):
    card = json.loads((recording / "recording.json").read_text())
    actions = true_actions(recording)
    assert sorted(actions) == video_names(recording)
    for split, counts in card["splits"].items():
        lengths = [len(taken) + 1 for name, taken in actions.items() if name.startswith(split)]
        assert counts["videos"] == len(lengths) and counts["frames"] == sum(lengths)
        assert min(lengths) >= 16, "an episode too short for a clip was stored"
    for name, taken in actions.items():
        frames = video.read(recording / f"{name}.mp4")
        assert frames.shape == (len(taken) + 1, 3, 64, 64), f"{name} and its actions disagree"
    assert card["splits"]["train"]["frames"] >= OPTIONS["frames"]


@needs_procgen
def test_heldout_levels_are_never_trained_on(recording):
    train, heldout = levels(recording, "train"), levels(recording, "heldout")
    assert train and train <= set(range(7)), "a training level outside --num-levels"
    assert heldout and heldout <= set(range(1_000_000, 1_000_003))


@needs_procgen
def test_left_and_right_both_earn_evidence(recording):
    names = json.loads((recording / "recording.json").read_text())["true_actions"]
    taken = np.concatenate(list(true_actions(recording).values()))
    left, right = (
        np.mean([direction in names[action] for action in taken]) for direction in ("LEFT", "RIGHT")
    )
    assert 1 / 1.5 < left / right < 1.5, f"left {left:.2f}, right {right:.2f} of all actions"


class CountingGames:
    """Stands in for a game: every picture is numbered, an episode lasts `length` game steps.

    A picture shows the episode (red), the game step in it (green) and the action that led to it
    (blue), so that what is recorded can be told from the picture alone.
    """

    combos = ((),)

    def __init__(self, length: int) -> None:
        self.length = length
        self.episode = self.step = self.action = 0

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        ended = False
        for _ in range(frame_skip):
            self.step += 1
            self.action = int(actions[0])
            if self.step == self.length:
                self.episode, self.step, self.action, ended = self.episode + 1, 0, 0, True
        return np.array([ended])

    @property
    def pictures(self) -> list[np.ndarray]:
        picture = np.array([self.episode, self.step, self.action], dtype=np.uint8)
        return [np.tile(picture, (64, 64, 1))]

    @property
    def levels(self) -> list[int]:
        return [self.episode]


class CountingHand:
    """Presses 1, 2, 3, ... in turn."""

    def __init__(self) -> None:
        self.pressed = 0

    def act(self, pictures: list[np.ndarray]) -> np.ndarray:
        self.pressed = self.pressed % 200 + 1
        return np.array([self.pressed], dtype=np.int32)


def test_no_video_crosses_a_reset_and_actions_line_up(record_game):
    progress = record_game.tqdm(total=150, disable=True)
    games = CountingGames(length=41)  # odd: resets fall inside a stored step of two game steps
    episodes = list(record_game.play_episodes(games, CountingHand(), 2, progress))
    assert len(episodes) > 3
    for episode in episodes:
        pixels = np.stack([frame[0, 0] for frame in episode.frames])
        assert set(pixels[:, 0]) == {episode.level}, "a video shows two episodes"
        assert np.all(np.diff(pixels[:, 1].astype(int)) == 2), "a stored frame is missing"
        assert episode.actions == pixels[1:, 2].tolist(), "action t must lead from t to t+1"


# Procgen's, as games.combos has them.
COMBOS = [("LEFT",), ("LEFT", "UP"), ("DOWN",), (), ("UP",), ("RIGHT",), ("RIGHT", "UP")]
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def explorer(record_game):
    """One game's explorer, which by itself would hold a button for 50 frames."""
    return record_game.Explorer(COMBOS, 1, (50, 50), np.random.default_rng(0))


def test_an_explorer_that_is_stuck_presses_up_and_if_that_does_not_help_lets_it_go(explorer):
    holds_up = ["UP" in COMBOS[explorer.act(PICTURES[0])[0]] for _ in range(13)]
    before, *after = holds_up[0], holds_up[3], holds_up[6], holds_up[9], holds_up[12]
    assert after == [not before, before, not before, before]


def test_an_explorer_that_gets_on_lets_nothing_go(explorer):
    assert len({explorer.act(picture)[0] for picture in PICTURES}) == 1


@needs_procgen
def test_an_explorer_gets_on_where_a_wanderer_is_stuck(record_game):
    still = {}
    for hand in ("wander", "explore"):
        options = config(
            record_game, Path("unused"), game="ninja", hand=hand, distribution="hard", num_envs=16
        )
        with contextlib.closing(record_game.make_games(options, "train")) as games:
            player = record_game.HANDS[hand](games.combos, 16, (2, 6), np.random.default_rng(0))
            with record_game.tqdm(total=1500, disable=True) as progress:
                films = [e.frames for e in record_game.play_episodes(games, player, 2, progress)]
        same = [np.abs(a - b.astype(int)).mean() < 1 for film in films
                for a, b in zip(film[:-4], film[4:], strict=True)]  # fmt: skip
        still[hand] = np.mean(same)
    assert still["explore"] < 0.5 * still["wander"], still


def test_short_episodes_are_dropped(record_game):
    short, long = (
        record_game.Episode(level=0, frames=[np.zeros((64, 64, 3), np.uint8)] * count)
        for count in (15, 16)
    )
    assert short.num_kept == 0 and long.num_kept == 16


@needs_procgen
def test_videos_hold_what_the_game_shows_under_the_true_actions(record_game, tmp_path):
    out = tmp_path / "one"
    # One game at a time, so that the first video is the first thing that the game shows.
    single = config(record_game, out, **{"frames": 30, "heldout-frames": 20, "num-envs": 1})
    record_game.main(single)
    name = video_names(out / "train")[0]
    shown = []
    with contextlib.closing(record_game.make_games(single, "train")) as games:
        shown.append(games.pictures[0].copy())
        for action in true_actions(out)[f"train/{name}"]:
            assert not games.advance(np.array([action]), single.frame_skip).any()
            shown.append(games.pictures[0].copy())
    stored = pictures(out / "train" / f"{name}.mp4")
    assert np.array_equal(stored, shown), "a stored frame is not what the game showed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"game": "coinrnu"}, "coinrun", marks=needs_gymnasium),
        ({"game": "CartPole-v1", "plain": True}, "for Procgen: CartPole-v1 has none"),
        ({"game": "CartPole-v1", "distribution": "hard"}, "for Procgen: CartPole-v1 has none"),
        ({"game": "CartPole-v1", "hand": "explore"}, "for Procgen: CartPole-v1 has none"),
        ({"num-levels": 0}, "--num-levels is 0"),
        ({"num-levels": 1_000_001}, "1000000"),
        ({"hold": (6, 2)}, "--hold"),
        ({"frames": 3}, "--frames is 3"),
        ({"frame-skip": 0}, "--frame-skip is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"out": "file"}, "already exists"),
        ({"out": "file/below"}, "cannot write"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(record_game, tmp_path, changes, message):
    (tmp_path / "file").touch()
    out = tmp_path / changes.get("out", "new")
    with pytest.raises(UserError, match=message) as caught:
        record_game.main(config(record_game, **{**changes, "out": out}))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@needs_gymnasium
def test_wrong_game_is_one_line_and_exit_code_2(tmp_path):
    run = record(tmp_path / "new", game="coinrnu")
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert "coinrun" in run.stderr, "the games there are must be named"


@needs_procgen
def test_a_recording_is_never_overwritten(recording, record_game):
    before = sorted(recording.rglob("*"))
    with pytest.raises(UserError, match=f"{recording} already holds a recording"):
        record_game.main(config(record_game, recording))
    assert sorted(recording.rglob("*")) == before


def test_missing_procgen_names_the_command(record_game, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "procgen", None)
    with pytest.raises(UserError, match="make procgen"):
        record_game.main(config(record_game, tmp_path / "new"))
    assert not list(tmp_path.iterdir())


@needs_procgen
def test_an_interrupted_recording_leaves_nothing(record_game, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(record_game.video, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record_game.main(config(record_game, tmp_path / "new"))
    assert not list(tmp_path.iterdir())


# Games of Gymnasium

ATARI = {
    "game": "ALE/Breakout-v5",
    "frames": 60,
    "heldout-frames": 40,
    "num-levels": 3,
    "num-heldout-levels": 2,
    "num-envs": 2,
    "frame-skip": 4,
    "seed": 5,
}


@pytest.fixture(scope="module")
def atari(tmp_path_factory) -> Path:
    """One small recording of an Atari game that the tests only read."""
    out = tmp_path_factory.mktemp("recording") / "breakout"
    run = record(out, **ATARI)
    assert run.returncode == 0, run.stderr
    return out


@needs_atari
def test_an_atari_game_is_recorded_like_any_other(atari):
    card = json.loads((atari / "recording.json").read_text())
    assert card["game"] == "ALE/Breakout-v5"
    assert card["true_actions"] == ["NONE", "FIRE", "RIGHT", "LEFT"]
    taken = true_actions(atari)
    assert sorted(taken) == video_names(atari) and len(taken) >= 2
    for name, actions in taken.items():
        frames = video.read(atari / f"{name}.mp4")
        assert frames.shape == (len(actions) + 1, 3, 210, 160), f"{name} and its actions disagree"
    assert set(np.concatenate(list(taken.values()))) == {0, 1, 2, 3}, "a button is never pressed"
    for split, counts in card["splits"].items():
        lengths = [len(a) + 1 for name, a in taken.items() if name.startswith(split)]
        wanted = ATARI["frames" if split == "train" else "heldout-frames"]
        assert counts["frames"] == sum(lengths) >= wanted


@needs_atari
def test_atari_levels_are_seeds_that_the_splits_do_not_share(atari):
    train, heldout = levels(atari, "train"), levels(atari, "heldout")
    assert train and train <= set(range(3))
    assert heldout and heldout <= {1_000_000, 1_000_001}


@needs_atari
def test_stored_actions_from_the_seed_of_the_level_give_the_stored_pictures(atari):
    """By Gymnasium alone, so that nothing of the recorder is taken on trust."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    options = {"frameskip": 1, "repeat_action_probability": 0.0}
    with contextlib.closing(gymnasium.make("ALE/Breakout-v5", **options).unwrapped) as env:
        for name, actions in true_actions(atari).items():
            shown, _ = env.reset(seed=int(name.split("-")[1]))
            expected = [shown]
            for action in actions:
                steps = [env.step(int(action))[0] for _ in range(ATARI["frame-skip"])]
                expected.append(np.maximum(steps[-2], steps[-1]))  # sprites flicker
            assert np.array_equal(pictures(atari / f"{name}.mp4"), expected), name


@needs_atari
def test_the_same_seed_gives_the_same_atari_recording(atari, record_game, tmp_path):
    record_game.main(config(record_game, tmp_path / "again", **ATARI))
    assert video_names(tmp_path / "again") == video_names(atari)
    first, second = true_actions(atari), true_actions(tmp_path / "again")
    for name in first:
        assert np.array_equal(first[name], second[name]), f"other actions in {name}"
        again = pictures(tmp_path / "again" / f"{name}.mp4")
        assert np.array_equal(pictures(atari / f"{name}.mp4"), again), f"other frames in {name}"


@needs_gymnasium
def test_a_game_that_gives_no_pictures_is_drawn(record_game, tmp_path):
    pytest.importorskip("pygame")
    changes = {"game": "CartPole-v1", "frames": 80, "heldout-frames": 40, "frame-skip": 1}
    changes |= {"num-envs": 2, "num-levels": 20}
    out = tmp_path / "cartpole"
    record_game.main(config(record_game, out, **changes))
    card = json.loads((out / "recording.json").read_text())
    assert card["true_actions"] == ["ACTION0", "ACTION1"]
    for name, actions in true_actions(out).items():
        frames = video.read(out / f"{name}.mp4")
        assert len(frames) == len(actions) + 1 >= 16
        assert not frames[0].equal(frames[-1]), "the same picture throughout"


@needs_gymnasium
@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("Nonsense-v0", "no game is called 'Nonsense-v0'.*Gymnasium id"),
        ("ALE/Nonsense-v5", "no game is called 'ALE/Nonsense-v5'.*Gymnasium id"),
        ("CartPole-v99", "no game is called 'CartPole-v99'"),
        ("Pendulum-v1", "Pendulum-v1 has no buttons but Box.*discrete"),
    ],
)
def test_what_cannot_be_played_with_buttons_is_refused(record_game, tmp_path, game, message):
    if game.startswith("ALE/"):
        pytest.importorskip("ale_py")
    with pytest.raises(UserError, match=message) as caught:
        record_game.main(config(record_game, tmp_path / "new", game=game))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_missing_gymnasium_names_the_command(record_game, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match="make atari"):
        record_game.main(config(record_game, tmp_path / "new", game="ALE/Breakout-v5"))
    assert not list(tmp_path.iterdir())
