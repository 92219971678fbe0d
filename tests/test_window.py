"""The window, driven by real key events on a private X server, and judged by its pixels.

The game is a stand-in, so that the truth of every picture and recording is known.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import square
from PIL import Image, ImageGrab, ImageSequence
from square import FILM, GROUND, MEMORY, PAINT, SIDE, START, played_afresh, square_in

from genie import video
from play import bindings
from play.game import Settings
from play.recording import Recording, digest
from play.window.paint import ACTIVE, BAR, CHIP

REPOSITORY = Path(__file__).resolve().parent.parent
FPS = 10
GIFS = ["rollout.gif", "rollout-1.gif"]

pytestmark = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")),
    reason="needs a private screen: apt-get install xvfb xdotool",
)


class Player:
    """A person at the window: presses keys and looks at the screen."""

    def __init__(self, display: str, process: subprocess.Popen) -> None:
        self.display = display
        self.process = process

    def xdotool(self, *words):
        environment = {**os.environ, "DISPLAY": self.display}
        command = ["xdotool", *map(str, words)]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout.split()

    def wait_for_window(self, seconds=60.0):
        ends = time.monotonic() + seconds
        environment = {**os.environ, "DISPLAY": self.display}
        before = []
        while time.monotonic() < ends and self.process.poll() is None:
            search = ["xdotool", "search", "--onlyvisible", "--pid", str(self.process.pid)]
            found = subprocess.run(search, env=environment, capture_output=True, text=True)
            windows = found.stdout.split()
            # SDL replaces its first window by another, so only one that stays is the player's.
            if len(windows) == 1 and windows == before:
                self.window = windows[0]
                focus = ["xdotool", "windowfocus", "--sync", self.window]
                if not subprocess.run(focus, env=environment, capture_output=True).returncode:
                    return
            before = windows
            time.sleep(0.1)
        pytest.fail(f"no window: {self.process.poll()}")

    def screen(self):
        return np.array(ImageGrab.grab(xdisplay=self.display).convert("RGB"))

    def shows(self, *colours):
        screen = self.screen()
        return all((screen == colour).all(-1).any() for colour in colours)

    def areas(self, *colours):
        """Boxes (left, top, right, bottom) of what has these colours, cut at empty lines."""
        screen = self.screen()
        inside = np.any([(screen == colour).all(-1) for colour in colours], axis=0)
        return [
            (left, top, right, bottom)
            for top, bottom in runs(inside.any(1))
            for left, right in runs(inside[top:bottom].any(0))
        ]

    def click(self, area):
        left, top, right, bottom = area
        self.xdotool("mousemove", (left + right) // 2, (top + bottom) // 2, "click", 1)

    def pictures(self):
        """All of the game's pictures on the screen, at their own size; None where one is torn."""
        screen = self.screen()
        inside = np.any([(screen == colour).all(-1) for colour in (GROUND, PAINT, MEMORY)], axis=0)
        found = []
        for top, bottom in runs(inside.any(1)):
            for left, right in runs(inside[top:bottom].any(0)):
                shown = screen[top:bottom, left:right]
                if shown.shape[0] != shown.shape[1] or shown.shape[0] % SIDE:
                    return None
                scale = shown.shape[0] // SIDE
                picture = shown[::scale, ::scale]
                enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
                assert (enlarged == shown).all(), "each pixel is one crisp block"
                self.scale = scale
                found.append(picture)
        return found

    def picture(self):
        """The game's picture; None if it is not whole."""
        found = self.pictures()
        return found[0] if found and len(found) == 1 else None

    def square(self):
        picture = self.picture()
        return None if picture is None else square_in(picture)

    def wait_for(self, condition, seconds=30.0):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if found := condition():
                return found
            time.sleep(0.02)
        pytest.fail(f"not within {seconds} s; the square is at {self.square()}")

    def settled_picture(self):
        """What the picture is once it has stopped changing."""
        before = None
        for _ in range(30):
            now = self.picture()
            if now is not None and before is not None and (now == before).all():
                return now
            before = now
            time.sleep(3 / FPS)
        pytest.fail(f"the square does not come to rest, it is at {self.square()}")

    def settled_square(self):
        return square_in(self.settled_picture())

    def step(self, key):
        """Tap a key and wait for what comes of it."""
        before, after = self.picture(), []

        def has_changed():
            after[:] = [self.picture()]
            return after[0] is not None and (after[0] != before).any()

        self.xdotool("key", key)
        self.wait_for(has_changed)
        return after[0]

    def recording(self, folder, name="rollout.json"):
        """What was played, by key O; replaying it gives the same frames."""
        self.xdotool("key", "o")
        self.wait_for((folder / name).exists)
        recording = Recording.load(folder / name)
        assert played_afresh(recording).digests == recording.digests
        return recording

    def quit(self):
        self.xdotool("key", "Escape")
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out


def runs(line):
    """Beginnings and ends of what is True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@pytest.fixture(scope="module")
def display():
    """A private X server's name. It chooses a free number itself and says which."""
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "900x700x24", "-noreset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        yield f":{server.stdout.readline().decode().strip()}"
        server.terminate()


@contextmanager
def playing(display, command, cwd):
    """A player before the window that `command` opens."""
    inherited = {name: value for name, value in os.environ.items() if name != "SDL_VIDEODRIVER"}
    inherited.pop("WAYLAND_DISPLAY", None)
    ours = {"DISPLAY": display, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-u", *map(str, command)],
        cwd=cwd,
        env={**inherited, **ours, "PYGAME_HIDE_SUPPORT_PROMPT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        player = Player(display, process)
        try:
            player.wait_for_window()
            yield player
        finally:
            process.kill()


@pytest.fixture
def own_keys(tmp_path_factory, monkeypatch):
    """The file with the player's own keys, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("own")))
    return bindings.path_for(square.FINGERPRINT)


@pytest.fixture
def start(display, tmp_path, own_keys):
    """Starts the game in its window."""

    @contextmanager
    def start():
        command = (square.__file__, tmp_path / "rollout.gif", FPS)
        with playing(display, command, tmp_path) as player:
            player.wait_for(lambda: player.square() == START)
            yield player

    return start


@pytest.fixture
def player(start):
    with start() as player:
        yield player


def gif_squares(path):
    with Image.open(path) as image:
        pictures = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert all(picture.shape == (2 * SIDE, 2 * SIDE, 3) for picture in pictures)
    return [square_in(picture[::2, ::2]) for picture in pictures]


# Keys


def test_held_keys_move_and_released_keys_wait(player, tmp_path):
    player.xdotool("keydown", "Right")
    player.wait_for(lambda: player.square()[0] >= START[0] + 5)
    player.xdotool("keyup", "Right")
    x, y = player.settled_square()
    assert x > START[0] and y == START[1], "right moves right and nowhere else"
    player.xdotool("key", "3")
    player.wait_for(lambda: player.square() == (x, y + 3))
    assert player.settled_square() == (x, y + 3), "one tap is one step"
    player.xdotool("key", "a")
    player.wait_for(lambda: player.square() == (x - 1, y + 3))
    actions = (4,) * (x - START[0]) + (2, 5)
    assert player.recording(tmp_path).actions == actions, "with no key held the world waits"
    player.quit()


def test_two_arrows_are_a_chord(player):
    player.xdotool("keydown", "Right", "keydown", "Up")
    player.wait_for(lambda: player.square()[1] <= START[1] - 4)
    player.xdotool("keyup", "Up", "keyup", "Right")
    x, y = player.settled_square()
    assert x - START[0] >= START[1] - y >= 4, "both at once, not one after the other"
    player.quit()


def test_pause_stops_single_steps_go_on_and_restart_gives_the_first_picture(player, tmp_path):
    first = player.picture()
    player.xdotool("keydown", "Right")
    player.wait_for(lambda: player.square()[0] >= START[0] + 3)
    player.xdotool("key", "p")
    x, y = player.settled_square()
    for number in (1, 2):
        player.step("period")
        assert player.settled_square() == (x + number, y), "one step, though the key is held"
    player.xdotool("key", "p")
    player.wait_for(lambda: player.square()[0] > x + 2)
    player.xdotool("keyup", "Right")
    player.settled_picture()
    player.xdotool("key", "r")
    player.wait_for(lambda: (player.picture() == first).all())
    second = player.step("shift+r")
    assert square_in(second) == START and (second != first).any(), "another seed"
    player.step("Right")
    player.xdotool("key", "r")
    player.wait_for(lambda: (player.picture() == second).all())
    player.step("Right")
    assert player.recording(tmp_path).seed == 1
    player.quit()


def test_backspace_rewinds_and_the_same_keys_give_the_same_pictures(player, tmp_path):
    keys = ("Right", "3", "1", "Right", "Left", "4", "Up", "Down")
    shown = [player.picture(), *(player.step(key) for key in keys)]
    player.xdotool("keydown", "BackSpace")
    player.wait_for(lambda: (player.picture() == shown[3]).all())
    player.xdotool("keyup", "BackSpace")
    settled = player.settled_picture()
    position = next(n for n, picture in enumerate(shown) if (picture == settled).all())
    assert position <= 3
    for number in range(position, len(keys)):
        assert (player.step(keys[number]) == shown[number + 1]).all()
    recording = player.recording(tmp_path)
    assert recording.actions == (4, 2, 0, 4, 5, 3, 0, 1), "what was rewound is not in it"
    assert recording.digests == tuple(map(digest, shown)), "the screen shows the very pixels"
    player.xdotool("keydown", "BackSpace")
    player.wait_for(lambda: (player.picture() == shown[0]).all())
    assert (player.settled_picture() == shown[0]).all(), "nothing was before the start"
    player.quit()


def test_settings_change_and_a_bookmark_brings_back_the_moment_but_not_them(player, tmp_path):
    player.step("Right")
    player.xdotool("key", "minus", "key", "bracketright")
    marked = player.step("Right")
    player.xdotool("key", "F5")
    player.step("3")
    player.step("1")
    player.xdotool("key", "F9")
    player.wait_for(lambda: (player.picture() == marked).all())
    player.xdotool("key", "equal", "key", "equal", "key", "bracketleft", "key", "bracketleft")
    player.step("Right")
    recording = player.recording(tmp_path)
    assert recording.actions == (4, 4, 4)
    assert recording.settings == (
        (0, Settings(3, 0.5)),
        (1, Settings(4, 0.4)),
        (2, Settings(2, 0.6)),
    )
    player.quit()


def test_tab_shows_all_futures_and_a_click_or_a_digit_goes_there(player, tmp_path):
    player.step("Right")
    here = player.picture()
    player.xdotool("key", "Tab")
    ends = [(7, 10), (7, 27), (7, 27), (17, 10), (17, 20), (0, 20)]

    def at_the_end():
        pictures = player.pictures() or []
        return [square_in(picture) for picture in pictures] == ends

    player.wait_for(at_the_end)
    player.xdotool("key", "Tab")
    player.wait_for(lambda: (found := player.picture()) is not None and (found == here).all())
    player.xdotool("key", "Tab")
    panels = player.wait_for(lambda: len(p := player.areas(GROUND, PAINT, MEMORY)) == 6 and p)
    player.click(panels[4])
    player.wait_for(lambda: player.square() == ends[4])
    player.xdotool("key", "Tab", "key", "1")
    player.wait_for(lambda: player.square() == (17, 10))
    actions = (4, *(4,) * FPS, *(0,) * FPS)
    assert player.recording(tmp_path).actions == actions, "a future is a second, really played"
    player.quit()


# Keys that the player binds


def test_a_key_is_bound_by_a_click_remembered_and_forgotten(start, own_keys, tmp_path):
    with start() as player:
        chips = player.areas(CHIP)
        assert len(chips) == 6
        player.click(chips[2])
        player.wait_for(lambda: len(player.areas(CHIP)) == 5)
        player.xdotool("key", "k")
        player.wait_for(lambda: len(player.areas(CHIP)) == 6)
        player.step("k")
        assert player.square() == (START[0], START[1] + 3)
        player.quit()
    with start() as player:
        player.step("k")
        assert player.square() == (START[0], START[1] + 3), "still so the next time"
        player.xdotool("key", "Delete")
        player.wait_for(lambda: not own_keys.exists())
        player.xdotool("key", "k")
        player.step("Right")
        assert player.recording(tmp_path).actions == (2, 4), "k is free again"
        player.quit()


# Files


def test_saved_gif_holds_the_session_and_none_is_overwritten(player, tmp_path):
    player.xdotool("keydown", "Right")
    player.wait_for(lambda: player.square()[0] >= START[0] + 4)
    player.xdotool("keyup", "Right")
    x, y = player.settled_square()
    player.xdotool("key", "g")
    player.wait_for((tmp_path / "rollout.gif").exists)
    expected = [(step, y) for step in range(START[0], x + 1)]
    assert gif_squares(tmp_path / "rollout.gif") == expected, "each step once, from the start on"
    player.xdotool("key", "r", "key", "1")
    player.wait_for(lambda: player.square() == (START[0], START[1] - 1))
    player.xdotool("key", "g")
    out = player.quit()
    assert gif_squares(tmp_path / "rollout-1.gif") == [START, (START[0], START[1] - 1)]
    assert [Path(line.split()[-1]).name for line in out.splitlines()] == GIFS, out
    assert {path.name for path in tmp_path.iterdir()} == set(GIFS), "nothing half-written stays"


def test_a_film_holds_what_was_played_while_it_ran(player, tmp_path):
    shown = [player.step("Right")]
    player.xdotool("key", "m")
    shown += [player.step(key) for key in ("Right", "1", "1")]
    player.xdotool("key", "m")
    player.wait_for((tmp_path / "rollout.mp4").exists)
    player.step("3")
    assert player.quit() == f"saved 4 frames to {tmp_path / 'rollout.mp4'}\n"
    film = video.read(tmp_path / "rollout.mp4")[:, ::2, ::2].astype(int)
    assert len(film) == 4
    for picture, frame in zip(shown, film, strict=True):
        is_square = (picture[:-1] == PAINT).all(-1)
        # A film's colours are those of a film, so light and dark alone must be right.
        assert ((frame[:-1, :, 0] > 130) == is_square).all()


def test_unwritable_place_is_said_and_play_goes_on(player, tmp_path):
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    for key in ("g", "o"):
        player.step("3")
        player.xdotool("key", key)
        assert player.process.stdout.readline().startswith("not saved: ")
    player.step("1")
    player.quit()


# The window


def test_resized_window_stays_crisp(player):
    for size, scale in (((700, 650), 15), ((400, 300), 4), ((60, 40), None)):
        player.xdotool("windowsize", player.window, *size)
        if scale:
            player.wait_for(lambda s=scale: player.picture() is not None and player.scale == s)
        player.xdotool("key", "r")
    player.quit()


def test_help_covers_the_picture_and_escape_only_closes_it(player):
    player.xdotool("key", "h")
    player.wait_for(lambda: player.picture() is None)
    player.xdotool("key", "Escape")
    player.wait_for(lambda: player.square() == START)
    player.step("Right")
    player.quit()


def test_the_real_video_is_shown_beside_and_goes_along(player):
    colours = [tuple(map(int, frame[0, 0])) for frame in FILM]
    player.step("Right")
    player.xdotool("key", "v")
    player.wait_for(lambda: player.shows(colours[0]) and player.square() == START)
    for colour in (*colours[1:], colours[-1]):
        player.step("3")
        assert player.shows(colour), "the next picture of the video"
    player.xdotool("key", "v")
    player.wait_for(lambda: not player.shows(colours[-1]))
    assert player.square() == START
    player.quit()


def test_command_plays_a_world_and_is_interrupted_quietly(display, tiny_world_folder, tmp_path):
    Image.new("RGB", (40, 40), GROUND).save(tmp_path / "prompt.png")
    places = ("--world", tiny_world_folder, "--prompt", "prompt.png", "--export", "walk.mp4")
    with playing(display, ("-m", "play", *places), tmp_path) as player:
        player.wait_for(lambda: player.shows(BAR))
        waiting = player.screen()
        player.xdotool("key", "2")
        player.wait_for(lambda: (player.screen() != waiting).any())
        player.xdotool("key", "g")
        assert player.process.stdout.readline().startswith("tiny on ")
        assert player.process.stdout.readline() == "saved 2 frames to walk.mp4\n"
        player.process.send_signal(signal.SIGINT)
        out, err = player.process.communicate(timeout=60)
        assert (player.process.returncode, out, err) == (130, "", "")


def test_start_screen_opens_a_world_and_goes_on_after_a_broken_prompt(
    display, tiny_world_folder, tmp_path
):
    world = tmp_path / "checkpoints" / "coinrun"
    shutil.copytree(tiny_world_folder, world)
    (world / "prompts").mkdir()
    for name, colour in (("1.png", GROUND), ("2.png", MEMORY)):
        Image.new("RGB", (48, 32), colour).save(world / "prompts" / name)
    (world / "prompts" / "3.png").write_text("no picture")
    with playing(display, ("-m", "play", "--record", "play.json"), tmp_path) as player:
        player.wait_for(lambda: player.shows(GROUND, MEMORY, ACTIVE))
        player.xdotool("key", "Right", "key", "Right", "key", "Return")
        assert player.process.stdout.readline().startswith("error: "), "the third is broken"
        player.wait_for(lambda: player.shows(GROUND, MEMORY))
        for choose in (
            lambda: player.xdotool("key", "Left", "key", "Return"),
            lambda: player.click(player.areas(GROUND)[0]),
        ):
            choose()
            assert player.process.stdout.readline().startswith("coinrun on ")
            player.wait_for(lambda: player.shows(CHIP) and not player.shows(MEMORY))
            waiting = player.screen()
            player.xdotool("key", "2")
            player.wait_for(lambda before=waiting: (player.screen() != before).any())
            player.xdotool("key", "Escape")
            player.wait_for(lambda: player.shows(GROUND, MEMORY))
        assert player.quit() == "1 actions recorded in play.json\n"
    assert Recording.load(tmp_path / "play.json").actions == (1,)
