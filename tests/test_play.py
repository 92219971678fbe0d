"""The command line of `play`, its keys and its recorder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from genie import video
from genie.errors import UserError
from genie.world import World
from play.__main__ import main
from play.headless import check_actions, parse_actions, scripted_walk
from play.keymap import NAMES, HeldKeys, KeyMap
from play.recorder import Recorder, free_name

REPOSITORY = Path(__file__).resolve().parent.parent
LEGEND = {"left": 5, "right": 4, "up": 0, "down": 1, "none": 2, "right_up": 3}
DISPLAY_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


class Counter:
    """A game whose picture is the number of steps, and which remembers the actions."""

    num_actions = 8

    def __init__(self):
        self.actions = []

    @property
    def frame(self):
        return np.full((8, 8, 3), len(self.actions), np.uint8)

    def step(self, action):
        self.actions.append(action)
        return self.frame

    def prepare(self, likely=None):
        pass

    def snapshot(self):
        return tuple(self.actions)

    def restore(self, snapshot):
        self.actions = list(snapshot)


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def headless(tiny_world_folder, prompt, tmp_path, capsys):
    """Runs a headless play in this process: exit code, standard output, standard error."""

    def run(*options, export="rollout.gif", start_from=prompt, world=tiny_world_folder):
        places = ("--world", world, "--prompt", start_from, "--export", tmp_path / export)
        code = main([str(part) for part in ("--headless", *places, *options)])
        return code, *capsys.readouterr()

    return run


def run_command(*options, cwd, **environment):
    """Run `python -m play` as a user without a screen does."""
    inherited = {key: value for key, value in os.environ.items() if key not in DISPLAY_VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", "play", *map(str, options)],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def gif_duration_ms(path):
    with Image.open(path) as image:
        return sum(frame.info["duration"] for frame in ImageSequence.Iterator(image))


def assert_one_error_line(code, out, err):
    assert code == 2, f"a user's mistake exits with 2, not {code}: {err}"
    assert err.startswith("error: ") and err.count("\n") == 1, f"one clear line, not: {err}"
    assert out == "", f"a refused run prints nothing else, not: {out}"


def test_help_is_quick_and_loads_no_torch(tmp_path):
    result = run_command("--help", cwd=tmp_path)
    assert result.returncode == 0 and "--headless" in result.stdout
    probe = "import sys, play.__main__; sys.exit('torch' in sys.modules or 'pygame' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", probe], cwd=REPOSITORY)
    assert loaded.returncode == 0, "--help must not wait for torch or pygame"


def test_unknown_flag_exits_with_2(tmp_path):
    assert run_command("--wrold", "here", cwd=tmp_path).returncode == 2


def test_headless_command_writes_the_start_and_each_step(tiny_world_folder, prompt, tmp_path):
    options = ("--world", tiny_world_folder, "--prompt", prompt, "--actions", "1,1,0")
    result = run_command("--headless", *options, "--export", "walk.mp4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for part in ("4 frames", "p50", "p95", "ms", "frames/s", "walk.mp4"):
        assert part in result.stdout, f"{part} is missing in: {result.stdout}"
    assert len(video.read(tmp_path / "walk.mp4")) == 4, "the start and one picture an action"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompt.png", "walk.mp4"]


def test_no_display_writes_a_scripted_walk(tiny_world_folder, prompt, tmp_path):
    options = ("--world", tiny_world_folder, "--prompt", prompt, "--fps", "10")
    result = run_command(*options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said, machine, figures = result.stdout.splitlines()
    assert "no display" in said and "rollout.gif" in said
    assert machine.startswith("tiny on ") and "threads" in machine and "a frame" in machine
    num_frames = int(figures.split()[0])
    assert 15 < num_frames < 120
    assert gif_duration_ms(tmp_path / "rollout.gif") == num_frames * 100


def test_unreachable_display_counts_as_none(tiny_world_folder, prompt, tmp_path):
    options = ("--world", tiny_world_folder, "--prompt", prompt, "--export", "walk.gif")
    result = run_command(*options, cwd=tmp_path, DISPLAY=":4095")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "" and result.stdout.startswith("no display")
    assert (tmp_path / "walk.gif").exists() and not (tmp_path / "rollout.gif").exists()


def test_same_seed_same_file(headless, tmp_path):
    for name in ("first.gif", "second.gif"):
        assert headless("--actions", "0,1,1", "--seed", "7", export=name)[0] == 0
    assert (tmp_path / "first.gif").read_bytes() == (tmp_path / "second.gif").read_bytes()


def test_scale_and_fps_reach_the_file(headless, tmp_path):
    for scale, name in ((1, "small.gif"), (3, "large.gif")):
        assert headless("--actions", "0,1", "--scale", scale, "--fps", "5", export=name)[0] == 0
    small, large = video.read(tmp_path / "small.gif"), video.read(tmp_path / "large.gif")
    enlarged = small.repeat_interleave(3, dim=-2).repeat_interleave(3, dim=-1)
    assert enlarged.equal(large), "enlarging repeats pixels and changes none"
    assert gif_duration_ms(tmp_path / "small.gif") == 600


def test_sampling_options_are_accepted(headless):
    assert headless("--actions", "0", "--steps", "2", "--temperature", "0.5")[0] == 0


@pytest.fixture
def prompts(monkeypatch):
    """The prompts that worlds were started from."""
    started, start = [], World.start

    def spy(world, prompt, **options):
        started.append(prompt)
        return start(world, prompt, **options)

    monkeypatch.setattr(World, "start", spy)
    return started


def test_a_clip_continues_from_its_last_eight_frames(headless, prompts, tmp_path):
    shades = [np.full((32, 32, 3), 20 * step, np.uint8) for step in range(12)]
    video.write(tmp_path / "clip.gif", shades, fps=10.0)
    assert headless("--actions", "0", start_from=tmp_path / "clip.gif")[0] == 0
    assert [int(frame.float().mean()) for frame in prompts[0]] == list(range(80, 240, 20))


def test_a_gif_of_one_picture_is_an_image(headless, prompts, tmp_path):
    Image.new("P", (40, 40), 3).save(tmp_path / "still.gif", transparency=3)
    assert headless("--actions", "0", start_from=tmp_path / "still.gif")[0] == 0
    assert (prompts[0] == 255).all(), "transparency is laid on white, as in any image"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--actions", "0,999"), "999"),
        (("--actions=-1",), "-1"),
        (("--actions", "0,jump"), "jump"),
        (("--actions", ""), "number"),
        (("--fps", "0"), "--fps"),
        (("--fps", "nan"), "--fps"),
        (("--scale", "0"), "--scale"),
        (("--seed=-1",), "--seed"),
        (("--steps", "0"), "--steps"),
        (("--temperature", "nan"), "--temperature"),
    ],
)
def test_bad_option_is_one_line(headless, tmp_path, options, word):
    code, out, err = headless(*options)
    assert_one_error_line(code, out, err)
    assert word in err
    assert not (tmp_path / "rollout.gif").exists()


def test_actions_without_headless_says_so(tiny_world_folder, prompt, capsys):
    code = main(["--world", str(tiny_world_folder), "--prompt", str(prompt), "--actions", "0"])
    out, err = capsys.readouterr()
    assert_one_error_line(code, out, err)
    assert "--headless" in err


@pytest.mark.parametrize("export", ["rollout.bmp", "rollout", "missing/rollout.gif", "folder.gif"])
def test_export_is_refused_before_anything_is_generated(headless, tmp_path, monkeypatch, export):
    (tmp_path / "folder.gif").mkdir()
    monkeypatch.setattr("play.headless.run", lambda *_, **__: pytest.fail("generated first"))
    assert_one_error_line(*headless("--actions", "0", export=export))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.png", None),
        ("text.png", b"I am not an image\n"),
        ("empty.png", b""),
        ("text.mp4", b"I am not a video\n"),
    ],
)
def test_unreadable_prompt_is_one_line(headless, tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    code, out, err = headless("--actions", "0", start_from=path)
    assert_one_error_line(code, out, err)
    assert name in err
    assert not (tmp_path / "rollout.gif").exists()


def test_missing_world_is_one_line(headless, tmp_path):
    assert_one_error_line(*headless("--actions", "0", world=tmp_path / "nowhere"))


def test_world_without_shipped_prompt_asks_for_one(tmp_path, capsys):
    world = tmp_path / "no-prompt-is-called-so"
    world.mkdir()
    code = main(["--headless", "--world", str(world), "--export", str(tmp_path / "a.gif")])
    out, err = capsys.readouterr()
    assert_one_error_line(code, out, err)
    assert "--prompt" in err


# Recordings


@pytest.fixture
def recorded(headless, tmp_path):
    """A recording of forty actions."""
    path = tmp_path / "play.json"
    options = ("--random", 40, "--seed", 5, "--steps", 1, "--temperature", 0.7)
    code, out, err = headless(*options, "--record", path)
    assert (code, err) == (0, "") and f"40 actions recorded in {path}" in out
    return path


def replay(path, world, export, *options):
    return main([str(part) for part in
                 ("--replay", path, "--world", world, "--export", export, *options)])  # fmt: skip


def test_two_thousand_actions_replay_bit_for_bit(tiny_world_folder, prompt, tmp_path):
    world = ("--world", tiny_world_folder)
    options = ("--headless", "--prompt", prompt, "--random", 2000, "--scale", 1)
    recorded = run_command(*world, *options, "--record", "play.json", cwd=tmp_path)
    assert recorded.returncode == 0, recorded.stderr
    options = ("--replay", "play.json", "--export", "again.gif", "--scale", 1)
    replayed = run_command(*world, *options, cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stderr
    assert "2001 frames" in replayed.stdout and "bit for bit" in replayed.stdout
    assert (tmp_path / "again.gif").read_bytes() == (tmp_path / "rollout.gif").read_bytes()
    assert (tmp_path / "play.json").stat().st_size < 100_000, "it is small enough to send"


def test_the_first_other_frame_is_named(recorded, tiny_world_folder, tmp_path, capsys):
    values = json.loads(recorded.read_text())
    values["digests"][17] = values["digests"][30] = "0" * 16
    recorded.write_text(json.dumps(values))
    assert replay(recorded, tiny_world_folder, tmp_path / "again.gif") == 1
    assert "frame 17 is not the recorded one" in capsys.readouterr().out


def test_a_recording_of_another_world_is_refused(recorded, tiny_world_folder, tmp_path, capsys):
    values = json.loads(recorded.read_text())
    recorded.write_text(json.dumps(values | {"fingerprint": "0" * 16, "world": "elsewhere"}))
    code = replay(recorded, tiny_world_folder, tmp_path / "again.gif")
    assert_one_error_line(code, *capsys.readouterr())
    assert not (tmp_path / "again.gif").exists()


def test_a_recording_brings_its_own_start(recorded, tiny_world_folder, tmp_path, capsys):
    for option in (("--steps", 2), ("--actions", "1"), ("--prompt", recorded), ("--random", 3)):
        code = replay(recorded, tiny_world_folder, tmp_path / "again.gif", *option)
        assert_one_error_line(code, *capsys.readouterr())


@pytest.mark.parametrize("place", ["no-folder/../file.txt/play.json", "."])
def test_a_recording_that_cannot_be_written_is_refused_first(headless, tmp_path, place):
    (tmp_path / "file.txt").write_text("")
    code, out, err = headless("--actions", "1", "--record", tmp_path / place)
    assert_one_error_line(code, out, err)
    assert not (tmp_path / "rollout.gif").exists()


def test_actions_have_the_names_of_the_legend():
    assert parse_actions("right*3, 7 ,up,none*2", LEGEND) == (4, 4, 4, 7, 0, 2, 2)
    for text in ("jump", "right*", "*3", "right*0", "3*-1", "right*999999", "RIGHT"):
        with pytest.raises(UserError, match="--actions"):
            parse_actions(text, LEGEND)


@pytest.mark.parametrize("options", [("--random", 0), ("--random", 5, "--actions", "1")])
def test_impossible_random_actions_are_refused(headless, options):
    assert_one_error_line(*headless(*options))


def test_interrupt_is_quiet(headless, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("play.headless.run", interrupt)
    code, out, err = headless("--actions", "0")
    assert (code, err) == (130, "") and out.startswith("tiny on ")


@given(st.lists(st.integers(-999, 999), min_size=1), st.sampled_from([",", ", ", " ,"]))
def test_written_actions_parse_back(actions, separator):
    assert parse_actions(separator.join(map(str, actions)), LEGEND) == tuple(actions)


@given(st.text(max_size=30) | st.text("0123456789-+_,.*aefghilnoprtu ", max_size=30))
def test_any_text_parses_or_is_refused_in_one_line(text):
    try:
        actions = parse_actions(text, LEGEND)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert "*" in text or len(actions) == text.count(",") + 1


@given(st.lists(st.integers(-3, 12), min_size=1), st.integers(1, 9))
def test_actions_are_accepted_exactly_if_the_world_has_them(actions, num_actions):
    if set(actions) <= set(range(num_actions)):
        check_actions(actions, num_actions)
    else:
        with pytest.raises(UserError, match=f"0..{num_actions - 1}"):
            check_actions(actions, num_actions)


BINDINGS = st.dictionaries(st.sampled_from(sorted(NAMES)), st.integers(0, 7))
HELD = st.lists(st.sampled_from(["left", "right", "up", "down", *"12345678"]), unique=True)


@given(BINDINGS, HELD)
def test_keys_choose_an_action_of_the_world_or_wait(bindings, held):
    keymap = KeyMap(num_actions=8, bindings=bindings, has_legend=True)
    press = keymap.choose(held)
    is_bound = any(key.isdecimal() or key in bindings for key in held)
    if press is None:
        assert not is_bound and "none" not in bindings, "a bound key must act"
    elif press.key.isdecimal():
        assert press.action == int(press.key) - 1 and press.key in held
    elif press.key == "none":
        assert not is_bound
    else:
        assert press.action == bindings[press.key]
        assert set(press.key.split("_")) <= set(held), "only held keys act"


@given(BINDINGS, HELD, st.sampled_from("12345678"))
def test_the_most_recent_key_wins(bindings, held, digit):
    keymap = KeyMap(num_actions=8, bindings=bindings, has_legend=True)
    older = [key for key in held if key != digit]
    assert keymap.choose([*older, digit]).action == int(digit) - 1


@pytest.mark.parametrize("held", [("right", "up"), ("up", "right"), ("left", "right", "up")])
def test_arrows_across_each_other_are_a_chord(held):
    keymap = KeyMap(num_actions=8, bindings=LEGEND, has_legend=True)
    assert keymap.choose(held) == (LEGEND["right_up"], "right_up")


def test_without_that_chord_the_most_recent_arrow_wins():
    keymap = KeyMap(num_actions=8, bindings=LEGEND, has_legend=True)
    assert keymap.choose(("left", "up")) == (LEGEND["up"], "up")
    assert keymap.choose(("up", "left")) == (LEGEND["left"], "left")


def test_no_key_is_the_none_action_or_waiting():
    assert KeyMap(num_actions=8, bindings=LEGEND, has_legend=True).choose(()) == (2, "none")
    assert KeyMap.plain(8).choose(()) is None


def test_digits_end_with_the_actions():
    assert KeyMap.plain(3).choose(("4",)) is None
    assert KeyMap.plain(3).choose(("down",)) is None
    assert KeyMap.plain(12).choose(("9",)) == (8, "9")


def test_legend_of_a_world_is_used(tmp_path):
    (tmp_path / "legend.json").write_text(json.dumps({"keys": LEGEND, "names": {}}))
    keymap = KeyMap.load(tmp_path, 8)
    assert keymap.has_legend and keymap.choose(("left",)) == (5, "left")


@pytest.mark.parametrize(
    "legend",
    [
        "{",
        "[]",
        "{}",
        '{"keys": [1]}',
        '{"keys": {"jump": 1}}',
        '{"keys": {"left": 8}}',
        '{"keys": {"left": true}}',
        '{"keys": {"left": "1"}}',
    ],
)
def test_broken_legend_is_named(tmp_path, legend):
    (tmp_path / "legend.json").write_text(legend)
    with pytest.raises(UserError, match=r"legend\.json"):
        KeyMap.load(tmp_path, 8)


EVENTS = st.lists(st.tuples(st.sampled_from(["press", "release", "take"]), st.sampled_from("abc")))


@given(EVENTS)
def test_held_keys_lose_no_tap_and_keep_no_ghost(events):
    held = HeldKeys()
    down, tapped = [], set()
    for kind, key in events:
        if kind == "press":
            held.press(key)
            down = [*(other for other in down if other != key), key]
            tapped.add(key)
        elif kind == "release":
            held.release(key)
            down = [other for other in down if other != key]
        else:
            taken = held.take()
            assert set(taken) == {*down, *tapped}
            assert [key for key in taken if key in down] == down, "oldest first"
            tapped.clear()


def test_walk_without_legend_shows_each_action():
    walk = scripted_walk(KeyMap.plain(8))
    assert len(walk) == 64 and set(walk) == set(range(8))


def test_walk_with_legend_goes_right_jumps_and_comes_back():
    walk = scripted_walk(KeyMap(num_actions=8, bindings=LEGEND, has_legend=True))
    assert len(walk) == 60
    order = list(dict.fromkeys(walk))
    assert order[:2] == [LEGEND["right"], LEGEND["right_up"]] and LEGEND["left"] in order


@given(BINDINGS)
def test_walk_fits_any_legend(bindings):
    walk = scripted_walk(KeyMap(num_actions=8, bindings=bindings, has_legend=True))
    assert walk and set(walk) <= set(range(8))


def test_recorder_keeps_the_first_frame_and_every_step():
    recorder = Recorder(Counter())
    for action in (3, 1, 2):
        recorder.step(action)
    assert [frame[0, 0, 0] for frame in recorder.frames] == [0, 1, 2, 3]
    assert recorder.game.actions == [3, 1, 2]
    assert len(recorder.latencies_ms) == 3


def test_recorder_forgets_the_oldest_frames_beyond_its_limit():
    recorder = Recorder(Counter(), max_frames=4)
    for _ in range(10):
        recorder.step(0)
    assert [frame[0, 0, 0] for frame in recorder.frames] == [7, 8, 9, 10]


def test_free_name_never_overwrites(tmp_path):
    path = tmp_path / "rollout.gif"
    names = []
    for _ in range(3):
        names.append(free_name(path).name)
        free_name(path).touch()
    assert names == ["rollout.gif", "rollout-1.gif", "rollout-2.gif"]
