"""Recording of real games: reproducible, lossless, cleanly split, and told in one line if not."""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import datasets
import numpy as np
import pytest

from genie import video
from genie.data.card import SPLITS, read_card
from genie.data.clips import FrameStore
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
from genie.errors import UserError
from train.measure.true_actions import TrueActions

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


def words(out: Path, **changes: str | int) -> list[str]:
    """The options as a user writes them."""
    options = {**OPTIONS, "out": out, **changes}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def record(out: Path, *flags: str, **changes: str | int) -> subprocess.CompletedProcess:
    """Run the script as a user does."""
    command = [sys.executable, SCRIPT, *words(out, **changes), *flags]
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


@pytest.fixture
def players(record_game):
    """Who plays, as a module."""
    return importlib.import_module("players")


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
        found = video.read(tmp_path / "again" / path)
        assert np.array_equal(found, video.read(recording / path)), f"other frames in {name}"


@needs_procgen
def test_names_and_actions_are_those_that_protocols_were_made_of(recording):
    taken = true_actions(recording)
    told = hashlib.sha256()
    for name in sorted(taken):
        told.update(name.encode() + taken[name].tobytes())
    assert told.hexdigest()[:16] == "b294b364ba43d81b", (
        "shipped protocols name videos that the command no longer records; if that is meant, make "
        "them anew, and then this"
    )


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
        assert frames.shape == (len(taken) + 1, 64, 64, 3), f"{name} and its actions disagree"
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
        self.pressed = self.restarts = 0

    def act(self, pictures: list[np.ndarray]) -> np.ndarray:
        self.pressed = self.pressed % 200 + 1
        return np.array([self.pressed], dtype=np.int32)

    def restart(self, started: np.ndarray) -> None:
        self.restarts += int(started.sum())


def test_no_video_crosses_a_reset_and_actions_line_up(record_game):
    games = CountingGames(length=41)  # odd: resets fall inside a stored step of two game steps
    hand = CountingHand()
    episodes = list(record_game.play_episodes(games, hand, 2, 150))
    assert len(episodes) > 3
    assert hand.restarts == games.episode
    for episode in episodes:
        pixels = np.stack([frame[0, 0] for frame in episode.frames])
        assert set(pixels[:, 0]) == {episode.level}, "a video shows two episodes"
        assert np.all(np.diff(pixels[:, 1].astype(int)) == 2), "a stored frame is missing"
        assert episode.actions == pixels[1:, 2].tolist(), "action t must lead from t to t+1"


def test_lengths_are_seconds_of_the_game(record_game, players):
    held = record_game.RecordingConfig.hold_s
    assert players.Lengths.at(15, held) == players.Lengths((2, 6), (15, 45), 3)
    assert players.Lengths.at(30, held) == players.Lengths((4, 12), (30, 90), 6)
    assert players.Lengths.at(1, (0.1, 0.4)).hold == (1, 1), "nothing is pressed for no frame"


@needs_procgen
def test_without_action_repeat_a_button_is_held_for_twice_as_many_frames(record_game):
    held = []
    for frame_skip in (1, 2):
        options = config(record_game, Path("unused"), **{"frame-skip": frame_skip})
        with contextlib.closing(record_game.make_games(options, "train")) as games:
            hand = record_game.make_hand(options, record_game.Recorder(), "train", games)
        held.append(hand.lengths.hold)
    assert held == [(4, 12), (2, 6)]


# Procgen's, as games.combos has them.
COMBOS = [("LEFT",), ("LEFT", "UP"), ("DOWN",), (), ("UP",), ("RIGHT",), ("RIGHT", "UP")]
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def explorer(players):
    """One game's explorer, which by itself would hold a button for 50 frames."""
    lengths = players.Lengths(hold=(50, 50), travel=(15, 45), stuck=3)
    return players.Explorer(COMBOS, 1, lengths, np.random.default_rng(0))


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
            player = record_game.make_hand(options, record_game.Recorder(), "train", games)
            films = [e.frames for e in record_game.play_episodes(games, player, 2, 1500)]
        same = [np.abs(a - b.astype(int)).mean() < 1 for film in films
                for a, b in zip(film[:-4], film[4:], strict=True)]  # fmt: skip
        still[hand] = np.mean(same)
    assert still["explore"] < 0.5 * still["wander"], still


def test_short_episodes_are_dropped(record_game):
    episode = importlib.import_module("episodes").Episode
    short, long = (
        episode(level=0, frames=[np.zeros((64, 64, 3), np.uint8)] * count) for count in (15, 16)
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
        ({"hold-s": (0.4, 0.1)}, "--hold-s"),
        ({"hold-s": (0.0, 0.1)}, "--hold-s"),
        ({"processes": 0}, "--processes is 0"),
        ({"processes": 7}, "--heldout-frames is 100; give at least 112"),
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


# Straight into a prepared folder, and by several processes


@dataclass(frozen=True)
class Film:
    """What a prepared folder holds of one video."""

    scenes: list[int]
    numbers: list[int]
    frames: np.ndarray


def films(folder: Path) -> dict[str, Film]:
    """By name, of both splits."""
    found = {}
    for split in SPLITS:
        store, scenes = FrameStore.open(folder, split), read_card(folder).videos[split]
        numbers = store.numbers().tolist()
        for name, (a, b) in zip(store.video_names, pairwise(store.video_starts), strict=True):
            frames = store.read(int(a), int(b)).numpy()
            found[name] = Film(scenes[name], numbers[a:b], frames)
    return found


def assert_is_like_prepared(arrays: Path, recording: Path) -> None:
    """A folder of arrays is what comes of the videos of a recording with the same options."""
    prepared = arrays.with_name("prepared")
    prepare([recording], prepared, FrameOptions(cuts=False), workers=1)
    ours, theirs = films(arrays), films(prepared)
    assert ours.keys() == theirs.keys()
    for name, film in ours.items():
        assert (film.scenes, film.numbers) == (theirs[name].scenes, theirs[name].numbers), name
        assert np.array_equal(film.frames, theirs[name].frames), f"other frames in {name}"
    assert read_card(arrays).fps == read_card(prepared).fps
    first, second = true_actions(arrays), true_actions(recording)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@needs_procgen
def test_arrays_are_what_preparing_makes_of_the_videos(recording, record_game, tmp_path):
    out = tmp_path / "arrays"
    record_game.main(config(record_game, out, arrays=True))
    assert_is_like_prepared(out, recording)
    assert not list(out.rglob("*.mp4"))
    truth, store = TrueActions.open(out / "true_actions.npz"), FrameStore.open(out, "heldout")
    assert truth.of_store(store).max() >= 0
    rows = datasets.load_dataset(str(out), split="heldout", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == len(store)


@needs_atari
def test_pictures_of_other_sizes_come_to_arrays_as_videos_do(atari, record_game, tmp_path):
    out = tmp_path / "arrays"
    record_game.main(config(record_game, out, **ATARI, arrays=True))
    assert_is_like_prepared(out, atari)


DIVIDED = {"frames": 401, "heldout-frames": 101, "num-envs": 2, "processes": 2}


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    """A small prepared folder that two processes have recorded."""
    out = tmp_path_factory.mktemp("divided") / "coinrun"
    run = record(out, "--arrays", **DIVIDED)
    assert run.returncode == 0, run.stderr
    return out


@needs_procgen
def test_several_processes_record_at_least_what_is_asked_for(divided):
    card, told = read_card(divided), json.loads((divided / "recording.json").read_text())
    names = [name for split in SPLITS for name in card.videos[split]]
    assert len(names) == len(set(names)) and set(names) == true_actions(divided).keys()
    numbers = [int(name.split("-")[-1]) for name in names]
    assert {number % 2 for number in numbers} == {0, 1}, "a process recorded nothing"
    for split, wanted in (("train", 401), ("heldout", 101)):
        assert wanted <= card.num_frames(split) == told["splits"][split]["frames"]
        assert len(card.shards[split]) == 2, "a process wrote no shard"
    assert {path.name for path in divided.parent.iterdir()} == {divided.name}


@needs_procgen
def test_what_several_processes_record_depends_on_nothing_but_the_options(
    divided, record_game, tmp_path
):
    """The same shares recorded one after the other in this process."""
    options = config(record_game, tmp_path, arrays=True, **DIVIDED)
    for split in SPLITS:
        (tmp_path / split).mkdir()
    shares = [
        record_game.record_share(
            options, record_game.Recorder(number, 2), tmp_path, lambda num_frames: None
        )
        for number in range(2)
    ]
    record_game.complete(options, shares, tmp_path)
    assert read_card(tmp_path) == read_card(divided)
    first, second = (next(iter(share.splits["train"].actions.values())) for share in shares)
    assert first[:50].tolist() != second[:50].tolist(), "two processes play alike"


@needs_procgen
def test_every_process_has_videos_of_its_own_in_the_same_folder(record_game, tmp_path):
    options = config(record_game, tmp_path, **DIVIDED)
    for split in SPLITS:
        (tmp_path / split).mkdir()
    names = []
    for number in range(2):
        recorder = record_game.Recorder(number, 2)
        share = record_game.record_share(options, recorder, tmp_path, lambda num_frames: None)
        names += [f"{split}/{name}" for split in SPLITS for name in share.splits[split].actions]
    assert video_names(tmp_path) == sorted(names)


@needs_procgen
def test_a_command_that_is_killed_leaves_no_process_and_no_folder(tmp_path):
    flags = words(tmp_path / "new", frames=10**7, processes=2)
    command = subprocess.Popen(
        [sys.executable, SCRIPT, *flags, "--arrays"], cwd=SCRIPT.parents[1], stderr=subprocess.PIPE
    )
    with command:
        shown = b""
        while not re.search(rb"[1-9]\d*/", shown):  # until the bar tells of frames
            shown = shown[-100:] + command.stderr.read(1)
        command.kill()
        command.stderr.read()  # ends when no process has it any more
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
        assert frames.shape == (len(actions) + 1, 210, 160, 3), f"{name} and its actions disagree"
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
    changes |= {"num-envs": 2, "num-levels": 20, "hold-s": (0.02, 0.1)}
    out = tmp_path / "cartpole"
    record_game.main(config(record_game, out, **changes))
    card = json.loads((out / "recording.json").read_text())
    assert card["true_actions"] == ["ACTION0", "ACTION1"]
    for name, actions in true_actions(out).items():
        frames = video.read(out / f"{name}.mp4")
        assert len(frames) == len(actions) + 1 >= 16
        assert (frames[0] != frames[-1]).any(), "the same picture throughout"


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
