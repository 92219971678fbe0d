"""The command line of `play`, without a screen."""

import json
import os
import shutil
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
from genie.legend import NAMES
from genie.world import World
from play.__main__ import main
from play.game import Press, Settings, exactly
from play.headless import check_actions, parse_actions, scripted_walk
from play.keymap import KeyMap
from play.recording import Recording, digest
from play.worlds import Library

REPOSITORY = Path(__file__).resolve().parent.parent
KEYS = {"left": 5, "right": 4, "up": 0, "down": 1, "none": 2, "right_up": 3}
LEGEND = {key: Press(action, key) for key, action in KEYS.items()}
DISPLAY_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


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


def test_a_mistake_is_answered_without_torch():
    probe = (
        "import sys; from play.__main__ import main; code = main(['--prompt', 'not-there.png']);"
        "sys.exit(10 * code + ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 20 and b"not-there.png" in done.stderr


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
    assert np.array_equal(small.repeat(3, axis=1).repeat(3, axis=2), large), (
        "enlarging repeats pixels and changes none"
    )
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
    assert [int(picture.mean()) for picture in prompts[0]] == list(range(80, 240, 20))


def test_a_gif_of_one_picture_is_an_image(headless, prompts, tmp_path):
    Image.new("P", (40, 40), 3).save(tmp_path / "still.gif", transparency=3)
    assert headless("--actions", "0", start_from=tmp_path / "still.gif")[0] == 0
    assert (prompts[0] == 255).all(), "transparency is laid on white, as in any image"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--actions", "0,999"), "999"),
        (("--actions=-1",), "-1"),
        (("--actions", "0,fly"), "fly"),
        (("--actions", ""), "number"),
        (("--fps", "0"), "--fps"),
        (("--fps", "nan"), "--fps"),
        (("--scale", "0"), "--scale"),
        (("--seed=-1",), "--seed"),
        (("--steps", "0"), "--steps"),
        (("--steps", "1000000"), "--steps"),
        (("--temperature", "nan"), "--temperature"),
        (("--host", "0.0.0.0"), "--browser"),
        (("--port", "9000"), "--browser"),
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


def test_world_without_any_prompt_asks_for_one(tiny_world_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("play.worlds.shipped", lambda folder: tmp_path / folder)
    code = main(
        ["--headless", "--world", str(tiny_world_folder), "--export", str(tmp_path / "a.gif")]
    )
    out, err = capsys.readouterr()
    assert_one_error_line(code, out, err)
    assert "--prompt" in err


def test_a_world_starts_from_the_first_of_its_own_prompts(world, tmp_path, prompts, capsys):
    Image.new("RGB", (48, 32), "blue").save(world / "prompts" / "2.png")
    Image.new("RGB", (48, 32), "red").save(world / "prompts" / "1.png")
    code = main(["--headless", "--world", str(world), "--actions", "0",
                 "--export", str(tmp_path / "a.gif")])  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert (prompts[0] == (255, 0, 0)).all()


# What there is to do


@pytest.fixture
def world(tiny_world_folder, tmp_path):
    """A copy of the tiny world with a legend of its own and room for prompts."""
    folder = tmp_path / "checkpoints" / "tiny"
    shutil.copytree(tiny_world_folder, folder)
    (folder / "prompts").mkdir()
    names = ("slow right", "right", "up", "left", "mostly stay")
    keys = {"right": 1, "up": 2, "left": 3, "none": 4, "z": 0}
    legend = {"keys": keys, "actions": [{"name": name} for name in names]}
    (folder / "legend.json").write_text(json.dumps(legend))
    return folder


def test_actions_are_words_of_the_legend(headless, world, tmp_path):
    path = tmp_path / "play.json"
    words = "jump*3,slow_right*2, z,left,wait, 1*2,mostly_stay"
    code, _, err = headless("--actions", words, "--record", path, world=world)
    assert (code, err) == (0, "")
    assert Recording.load(path).actions == (2, 2, 2, 0, 0, 0, 3, 4, 1, 1, 4)


def test_unknown_words_are_told_the_known_ones(headless, world):
    code, out, err = headless("--actions", "fly", world=world)
    assert_one_error_line(code, out, err)
    assert "'fly'" in err and "slow_right" in err and "jump" in err


def test_random_actions_follow_the_seed(headless, tmp_path):
    actions = []
    for number, seed in enumerate((3, 3, 4)):
        path = tmp_path / f"{number}.json"
        options = ("--random", 30, "--steps", 1, "--seed", seed)
        assert headless(*options, "--record", path)[0] == 0
        actions.append(Recording.load(path).actions)
    assert actions[0] == actions[1] != actions[2]
    assert len(actions[0]) == 30 and set(actions[0]) == set(range(5))


def test_a_strip_shows_the_start_and_the_end(headless, tmp_path):
    options = ("--actions", "1*30", "--scale", "1")
    for export in ("all.mkv", "strip.png"):
        assert headless(*options, "--record", tmp_path / "play.json", export=export)[0] == 0
    with Image.open(tmp_path / "strip.png") as image:
        strip = np.array(image)
    assert strip.shape == (32, 12 * 48, 3), "twelve pictures side by side"
    digests = Recording.load(tmp_path / "play.json").digests
    shown = [digest(strip[:, left : left + 48]) for left in range(0, strip.shape[1], 48)]
    assert (shown[0], shown[-1]) == (digests[0], digests[-1])
    numbers = [digests.index(one) for one in shown]
    assert numbers == sorted(numbers), "time goes from left to right"


def test_a_short_strip_has_each_picture_once(headless, tmp_path):
    assert headless("--actions", "1,2", "--scale", "3", export="strip.png")[0] == 0
    with Image.open(tmp_path / "strip.png") as image:
        assert image.size == (3 * 3 * 48, 3 * 32)


def test_pressed_keys_are_written_on_the_pictures(headless, world, tmp_path):
    for name, options in (("plain.gif", ()), ("keys.gif", ("--show-keys",))):
        given = ("--actions", "right,left", "--scale", "5", *options)
        assert headless(*given, world=world, export=name)[0] == 0
    plain, keys = video.read(tmp_path / "plain.gif"), video.read(tmp_path / "keys.gif")
    assert keys.shape == plain.shape == (3, 160, 240, 3)
    differs = np.abs(keys.astype(int) - plain).max(axis=-1) > 8
    assert not differs[0].any(), "nothing was pressed before the start"
    for frame in differs[1:]:
        rows, columns = frame.nonzero()
        assert rows.min() > 130 and columns.max() < 120, "only in the lower left corner"
    assert (keys[1] != keys[2]).any()


def test_pictures_with_keys_are_large_enough_to_read(headless, tmp_path):
    options = ("--actions", "1", "--scale", "1", "--show-keys")
    assert headless(*options)[0] == 0
    assert min(video.read(tmp_path / "rollout.gif").shape[1:3]) >= 160


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


def test_another_process_replays_bit_for_bit(headless, tiny_world_folder, tmp_path):
    options = ("--random", 60, "--steps", 1, "--scale", 1)
    code, _, err = headless(*options, "--record", tmp_path / "play.json")
    assert (code, err) == (0, "")
    options = ("--replay", "play.json", "--export", "again.gif", "--scale", 1)
    replayed = run_command("--world", tiny_world_folder, *options, cwd=tmp_path)
    assert replayed.returncode == 0, replayed.stderr
    assert "61 frames" in replayed.stdout and "bit for bit" in replayed.stdout
    assert (tmp_path / "again.gif").read_bytes() == (tmp_path / "rollout.gif").read_bytes()
    assert (tmp_path / "play.json").stat().st_size < 12_000, "it is small enough to send"


def test_settings_that_change_are_followed(tiny_world_folder, prompt, tmp_path, capsys):
    library = Library(seed=9)
    opening = library.open(tiny_world_folder, prompt)
    played = opening.playthrough(9, opening.settings)
    for number in range(16):
        if number in (4, 11, 12):
            played.tune(Settings(1 + number % 3, number / 10))
        played.step(number % 5)
    recording = opening.recording(played, 9)
    assert [start for start, _ in recording.settings] == [0, 4, 11, 12]
    recording.save(tmp_path / "play.json")
    assert replay(tmp_path / "play.json", tiny_world_folder, tmp_path / "again.gif") == 0
    assert "bit for bit" in capsys.readouterr().out
    values = json.loads((tmp_path / "play.json").read_text())
    (tmp_path / "play.json").write_text(json.dumps(values | {"settings": values["settings"][:1]}))
    assert replay(tmp_path / "play.json", tiny_world_folder, tmp_path / "again.gif") == 1
    frame = int(capsys.readouterr().out.split("frame ")[1].split()[0])
    assert 5 <= frame <= 12, "the settings do matter, from there on"


@pytest.mark.parametrize("runs", [[[0, [0, 1.0]]], [[0, [1, -1.0]]], [[0, [1, float("nan")]]]])
def test_settings_out_of_range_are_refused(recorded, tiny_world_folder, tmp_path, capsys, runs):
    values = json.loads(recorded.read_text())
    recorded.write_text(json.dumps(values | {"settings": runs}))
    code = replay(recorded, tiny_world_folder, tmp_path / "again.gif")
    out, err = capsys.readouterr()
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "again.gif").exists(), out


def test_a_recording_of_an_action_that_is_not_there_is_refused(
    recorded, tiny_world_folder, tmp_path, capsys
):
    values = json.loads(recorded.read_text())
    recorded.write_text(json.dumps(values | {"actions": [5, *values["actions"][1:]]}))
    code = replay(recorded, tiny_world_folder, tmp_path / "again.gif")
    assert_one_error_line(code, *capsys.readouterr())


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
    for name, *value in (
        ("--steps", 2),
        ("--temperature", 0.5),
        ("--seed", 4),
        ("--actions", "1"),
        ("--prompt", recorded),
        ("--random", 3),
        ("--record", tmp_path / "b.json"),
        ("--browser",),
    ):
        code = replay(recorded, tiny_world_folder, tmp_path / "again.gif", name, *value)
        out, err = capsys.readouterr()
        assert_one_error_line(code, out, err)
        assert name in err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--headless",), "--headless"),
        (("--export", "a.gif"), "--export"),
        (("--record", "a.json"), "--record"),
        (("--scale", 2), "--scale"),
        (("--random", 3), "--random"),
        (("--actions", "1"), "--actions"),
        (("--port", 0), "--port"),
        (("--port", 65536), "--port"),
        (("--port=-1",), "--port"),
        (("--players", 0), "--players"),
        (("--players", 65), "--players"),
    ],
)
def test_what_a_page_cannot_have_is_refused(
    tiny_world_folder, prompt, monkeypatch, capsys, options, word
):
    monkeypatch.setattr("play.__main__._serve", lambda *_: pytest.fail("served"))
    places = ("--browser", "--world", tiny_world_folder, "--prompt", prompt)
    code = main([str(part) for part in (*places, *options)])
    out, err = capsys.readouterr()
    assert_one_error_line(code, out, err)
    assert word in err


@pytest.mark.parametrize("place", ["no-folder/../file.txt/play.json", "."])
def test_a_recording_that_cannot_be_written_is_refused_first(headless, tmp_path, place):
    (tmp_path / "file.txt").write_text("")
    code, out, err = headless("--actions", "1", "--record", tmp_path / place)
    assert_one_error_line(code, out, err)
    assert not (tmp_path / "rollout.gif").exists()


def test_a_recording_and_a_picture_want_two_files(headless, tmp_path):
    code, out, err = headless("--actions", "1", "--record", tmp_path / "rollout.gif")
    assert_one_error_line(code, out, err)
    assert "two files" in err and not (tmp_path / "rollout.gif").exists()


def actions_of(presses) -> tuple[int, ...]:
    return tuple(press.action for press in presses)


def test_actions_have_the_names_of_the_legend():
    presses = parse_actions("right*3, 7 ,up,none*2", LEGEND)
    assert actions_of(presses) == (4, 4, 4, 7, 0, 2, 2)
    assert [press.key for press in presses][2:5] == ["right", "8", "up"], "a number is a digit key"
    words = {"right": Press(4, "right"), "slow_right": exactly(1)}
    assert actions_of(parse_actions("RIGHT, slow right*2", words)) == (4, 1, 1)
    for text in ("jump", "right*", "*3", "right*0", "3*-1", "right*999999", "slow right"):
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
    presses = parse_actions(separator.join(map(str, actions)), LEGEND)
    assert actions_of(presses) == tuple(actions)


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


def test_walk_without_legend_shows_each_action():
    walk = actions_of(scripted_walk(KeyMap.plain(8)))
    assert len(walk) == 64 and set(walk) == set(range(8))


def test_walk_with_legend_goes_right_jumps_and_comes_back():
    walk = actions_of(scripted_walk(KeyMap(num_actions=8, bindings=KEYS, has_legend=True)))
    assert len(walk) == 60
    order = list(dict.fromkeys(walk))
    assert order[:2] == [KEYS["right"], KEYS["right_up"]] and KEYS["left"] in order


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), st.integers(0, 7)))
def test_walk_fits_any_legend(bindings):
    walk = actions_of(scripted_walk(KeyMap(num_actions=8, bindings=bindings, has_legend=True)))
    assert walk and set(walk) <= set(range(8))
