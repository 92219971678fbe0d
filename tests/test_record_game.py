"""Recording of real games: reproducible, lossless, cleanly split, and told in one line if not."""

import contextlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from genie import video
from genie.errors import UserError

pytest.importorskip("procgen")

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


def levels(folder: Path, split: str) -> set[int]:
    return {int(path.name.split("-")[1]) for path in (folder / split).glob("*.mp4")}


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


def test_heldout_levels_are_never_trained_on(recording):
    train, heldout = levels(recording, "train"), levels(recording, "heldout")
    assert train and train <= set(range(7)), "a training level outside --num-levels"
    assert heldout and heldout <= set(range(1_000_000, 1_000_003))


def test_left_and_right_both_earn_evidence(recording):
    names = json.loads((recording / "recording.json").read_text())["true_actions"]
    taken = np.concatenate(list(true_actions(recording).values()))
    left, right = (
        np.mean([direction in names[action] for action in taken]) for direction in ("LEFT", "RIGHT")
    )
    assert 1 / 1.5 < left / right < 1.5, f"left {left:.2f}, right {right:.2f} of all actions"


class CountingGames:
    """Stands in for Procgen: every picture is numbered, an episode lasts `length` game steps.

    A picture shows the episode (red), the game step in it (green) and the action that led to it
    (blue), so that what is recorded can be told from the picture alone.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.episode = self.step = self.action = 0

    def act(self, actions: np.ndarray) -> None:
        self.step += 1
        self.action = int(actions[0])
        if self.step == self.length:
            self.episode, self.step, self.action = self.episode + 1, 0, 0

    def observe(self):
        picture = np.array([self.episode, self.step, self.action], dtype=np.uint8)
        return None, {"rgb": np.tile(picture, (1, 64, 64, 1))}, np.array([self.step == 0])

    def get_info(self) -> list[dict]:
        return [{"level_seed": self.episode}]


class CountingHand:
    """Presses 1, 2, 3, ... in turn."""

    def __init__(self) -> None:
        self.pressed = 0

    def act(self) -> np.ndarray:
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


def test_short_episodes_are_dropped(record_game):
    short, long = (
        record_game.Episode(level=0, frames=[np.zeros((64, 64, 3), np.uint8)] * count)
        for count in (15, 16)
    )
    assert short.num_kept == 0 and long.num_kept == 16


def test_videos_hold_what_the_game_shows_under_the_true_actions(record_game, tmp_path):
    out = tmp_path / "one"
    # One game at a time, so that the first video is the first thing that the game shows.
    single = config(record_game, out, **{"frames": 30, "heldout-frames": 20, "num-envs": 1})
    record_game.main(single)
    name = video_names(out / "train")[0]
    shown = []
    with contextlib.closing(record_game.make_games(single, "train")) as games:
        _, observation, _ = games.observe()
        shown.append(observation["rgb"][0].copy())
        for action in true_actions(out)[f"train/{name}"]:
            ended, observation = record_game.advance(games, np.array([action]), single.frame_skip)
            assert not ended.any()
            shown.append(observation["rgb"][0].copy())
    with av.open(str(out / "train" / f"{name}.mp4")) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(stored, shown), "a stored frame is not what the game showed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"game": "coinrnu"}, "coinrun"),
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


def test_wrong_game_is_one_line_and_exit_code_2(tmp_path):
    run = record(tmp_path / "new", game="coinrnu")
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert "coinrun" in run.stderr, "the games there are must be named"


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


def test_an_interrupted_recording_leaves_nothing(record_game, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(record_game.video, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record_game.main(config(record_game, tmp_path / "new"))
    assert not list(tmp_path.iterdir())
