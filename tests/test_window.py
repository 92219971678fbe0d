"""The window, driven by real key events on a private X server, and judged by its pixels.

The game is a stand-in, a square that moves, so that the truth of every picture is known.
Run as a script, this file is the program under test.
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
import pygame
import pytest
from PIL import Image, ImageGrab, ImageSequence

from play import window
from play.bar import BAR
from play.keymap import KeyMap

REPOSITORY = Path(__file__).resolve().parent.parent
SIDE = 32
SQUARE_SIDE = 4
GROUND = (10, 80, 40)
PAINT = (250, 200, 0)
START = (6, 20)
MOVES = {0: (0, -1), 1: (0, 1), 2: (0, 3), 3: (1, -1), 4: (1, 0), 5: (-1, 0)}
KEYS = {"up": 0, "down": 1, "right_up": 3, "right": 4, "left": 5}
SCALE = 10
FPS = 10
GIFS = ["rollout.gif", "rollout-1.gif"]

needs_screen = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")),
    reason="needs a private screen: apt-get install xvfb xdotool",
)


class MovingSquare:
    """A square that each action moves by its own step, up to the edge."""

    num_actions = len(MOVES)

    def __init__(self):
        self.x, self.y = START
        self.prepared = []

    @property
    def frame(self):
        picture = np.full((SIDE, SIDE, 3), GROUND, np.uint8)
        picture[self.y : self.y + SQUARE_SIDE, self.x : self.x + SQUARE_SIDE] = PAINT
        return picture

    def step(self, action):
        across, down = MOVES[action]
        reach = SIDE - SQUARE_SIDE
        self.x = min(max(self.x + across, 0), reach)
        self.y = min(max(self.y + down, 0), reach)
        return self.frame

    def prepare(self, likely=None):
        self.prepared.append(likely)

    def snapshot(self):
        return self.x, self.y

    def restore(self, snapshot):
        self.x, self.y = snapshot


def make_window(export: Path, fps: float) -> window.Window:
    """The program under test: the window as the command line opens it."""
    return window.Window(
        MovingSquare,
        KeyMap(num_actions=len(MOVES), bindings=KEYS, has_legend=True),
        title="square",
        fps=fps,
        scale=SCALE,
        export=export,
        export_scale=2,
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

    def picture(self):
        """The game's picture as it stands on the screen, at its own size; None if not whole."""
        screen = self.screen()
        inside = (screen == GROUND).all(-1) | (screen == PAINT).all(-1)
        if not inside.any():
            return None
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        shown = screen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if shown.shape[0] != shown.shape[1] or shown.shape[0] % SIDE:
            return None
        scale = shown.shape[0] // SIDE
        picture = shown[::scale, ::scale]
        enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        assert (enlarged == shown).all(), "each pixel is one crisp block"
        self.scale = scale
        return picture

    def square(self):
        picture = self.picture()
        return None if picture is None else square_in(picture)

    def wait_for(self, condition, seconds=30.0):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if condition():
                return
            time.sleep(0.02)
        pytest.fail(f"not within {seconds} s; the square is at {self.square()}")

    def settled_square(self):
        """Where the square stands once the picture has stopped changing."""
        before = None
        for _ in range(20):
            if (now := self.square()) == before:
                return now
            before = now
            time.sleep(0.4)
        pytest.fail(f"the square does not come to rest, it is at {now}")

    def quit(self):
        self.xdotool("key", "Escape")
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out


def square_in(picture):
    rows, columns = np.nonzero((picture == PAINT).all(-1))
    assert len(rows) == SQUARE_SIDE**2, "the square is whole"
    return int(columns.min()), int(rows.min())


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
def player(display, tmp_path):
    with playing(display, (__file__, tmp_path / "rollout.gif", FPS), tmp_path) as player:
        player.wait_for(lambda: player.square() == START)
        yield player


def gif_squares(path):
    with Image.open(path) as image:
        pictures = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert all(picture.shape == (2 * SIDE, 2 * SIDE, 3) for picture in pictures)
    return [square_in(picture[::2, ::2]) for picture in pictures]


@needs_screen
def test_held_keys_move_and_released_keys_wait(player):
    player.xdotool("keydown", "Right")
    player.wait_for(lambda: player.square()[0] >= START[0] + 5)
    player.xdotool("keyup", "Right")
    x, y = player.settled_square()
    assert x > START[0] and y == START[1], "right moves right and nowhere else"
    time.sleep(0.3)
    assert player.square() == (x, y), "with no key held the world waits"
    player.xdotool("key", "3")
    player.wait_for(lambda: player.square() == (x, y + 3))
    assert player.settled_square() == (x, y + 3), "one tap is one step"
    player.xdotool("key", "a")
    player.wait_for(lambda: player.square() == (x - 1, y + 3))
    player.quit()


@needs_screen
def test_two_arrows_are_a_chord(player):
    player.xdotool("keydown", "Right", "keydown", "Up")
    player.wait_for(lambda: player.square()[1] <= START[1] - 4)
    player.xdotool("keyup", "Up", "keyup", "Right")
    x, y = player.settled_square()
    assert x - START[0] >= START[1] - y >= 4, "both at once, not one after the other"
    player.quit()


@needs_screen
def test_pause_stops_and_restart_gives_the_first_picture(player):
    first = player.picture()
    player.xdotool("keydown", "Right")
    player.wait_for(lambda: player.square()[0] >= START[0] + 3)
    player.xdotool("key", "p")
    stopped = player.settled_square()
    time.sleep(0.3)
    assert player.square() == stopped, "paused, though the key is held"
    player.xdotool("key", "p")
    player.wait_for(lambda: player.square()[0] > stopped[0])
    player.xdotool("keyup", "Right")
    player.settled_square()
    player.xdotool("key", "r")
    player.wait_for(lambda: (player.picture() == first).all())
    player.quit()


@needs_screen
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


@needs_screen
def test_unwritable_place_is_said_and_play_goes_on(player, tmp_path):
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    player.xdotool("key", "g")
    assert player.process.stdout.readline().startswith("not saved: ")
    player.xdotool("key", "3")
    player.wait_for(lambda: player.square() == (START[0], START[1] + 3))
    player.quit()


@needs_screen
@pytest.mark.parametrize(("size", "scale"), [((700, 650), 17), ((400, 300), 6), ((60, 40), None)])
def test_resized_window_stays_crisp(player, size, scale):
    player.xdotool("windowsize", player.window, *size)
    if scale:
        player.wait_for(lambda: player.picture() is not None and player.scale == scale)
    player.xdotool("key", "r")
    player.quit()


@needs_screen
def test_command_plays_a_world_and_is_interrupted_quietly(display, tiny_world_folder, tmp_path):
    Image.new("RGB", (40, 40), GROUND).save(tmp_path / "prompt.png")
    places = ("--world", tiny_world_folder, "--prompt", "prompt.png", "--export", "walk.mp4")
    with playing(display, ("-m", "play", *places), tmp_path) as player:
        player.wait_for(lambda: (player.screen() == BAR).all(-1).any())
        waiting = player.screen()
        player.xdotool("key", "2")
        player.wait_for(lambda: (player.screen() != waiting).any())
        player.xdotool("key", "g")
        assert player.process.stdout.readline().startswith("tiny on ")
        assert player.process.stdout.readline() == "saved 2 frames to walk.mp4\n"
        player.process.send_signal(signal.SIGINT)
        out, err = player.process.communicate(timeout=60)
        assert (player.process.returncode, out, err) == (130, "", "")


def test_idle_time_goes_into_the_picture_that_a_held_key_will_want(monkeypatch, tmp_path):
    """Just once a step, and only after the step's own picture is on the screen."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert window.open_display()
    opened = make_window(tmp_path / "rollout.gif", fps=FPS)
    game = opened.recorder.game
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT))
    try:
        while game.x < START[0] + 2:
            opened._tick()
            steps = game.x - START[0]
            assert game.prepared == [KEYS["right"]] * steps
    finally:
        pygame.display.quit()


def test_close_button_ends_well(monkeypatch, tmp_path):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert window.open_display()
    opened = make_window(tmp_path / "rollout.gif", fps=FPS)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    opened.run()
    assert not pygame.display.get_init(), "the window is gone"


if __name__ == "__main__":
    assert window.open_display()
    make_window(Path(sys.argv[1]), float(sys.argv[2])).run()
