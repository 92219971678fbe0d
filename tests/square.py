"""A stand-in game, a square that moves, so that the truth of every picture is known.

Run as a script, this file is a program under test: the game in its window.
"""

import copy
import sys
import zlib
from pathlib import Path

import numpy as np

from genie.errors import UserError
from play import bindings
from play.game import Settings
from play.keymap import KeyMap
from play.timeline import Playthrough
from play.worlds import Clip, Opening

SIDE = 32
SQUARE_SIDE = 4
GROUND = (10, 80, 40)
PAINT = (250, 200, 0)
MEMORY = (200, 0, 250)
START = (6, 20)
MOVES = {0: (0, -1), 1: (0, 1), 2: (0, 3), 3: (1, -1), 4: (1, 0), 5: (-1, 0)}
KEYS = {"up": 0, "down": 1, "right_up": 3, "right": 4, "left": 5}
NAMES = ("up", "down", "drop", "right, rising", "right", "left")
SETTINGS = Settings(3, 0.5)
KEYMAP = KeyMap(num_actions=len(MOVES), bindings=KEYS, has_legend=True, action_names=NAMES)
FINGERPRINT = "5c0a2e5c0a2e5c0a"
FILM = tuple(np.full((SIDE, SIDE, 3), (0, 30 * number, 200), np.uint8) for number in range(6))
"""How the real video goes on: one plain colour after the other."""
SCALE = 10


class MovingSquare:
    """A square that each action moves by its own step, up to the edge.

    The lowest row shows in 32 bits all that ever led here: seed, actions, and the settings of each.
    """

    num_actions = len(MOVES)

    def __init__(self, seed=0, settings=SETTINGS):
        self.x, self.y = START
        self.settings = settings
        self.prepared = []
        self._memory = zlib.crc32(str(seed).encode())

    @property
    def frame(self):
        picture = np.full((SIDE, SIDE, 3), GROUND, np.uint8)
        picture[self.y : self.y + SQUARE_SIDE, self.x : self.x + SQUARE_SIDE] = PAINT
        picture[-1, [bool(self._memory >> bit & 1) for bit in range(SIDE)]] = MEMORY
        return picture

    def step(self, action):
        across, down = MOVES[action]
        self.x = min(max(self.x + across, 0), SIDE - SQUARE_SIDE)
        self.y = min(max(self.y + down, 0), SIDE - SQUARE_SIDE - 1)
        self._memory = zlib.crc32(repr((action, *self.settings)).encode(), self._memory)
        return self.frame

    def choose(self, wish):
        fitting = [action for action, weight in enumerate(wish) if weight]
        return fitting[self._memory % len(fitting)]

    def prepare(self, likely=None):
        self.prepared.append(likely)

    def futures(self):
        copies = [copy.deepcopy(self) for _ in range(self.num_actions)]
        while True:
            yield np.stack([one.step(action) for action, one in enumerate(copies)])

    def tune(self, *, maskgit_steps=None, temperature=None):
        given = {"maskgit_steps": maskgit_steps, "temperature": temperature}
        changed = self.settings._replace(**{k: v for k, v in given.items() if v is not None})
        if changed.maskgit_steps < 1 or changed.temperature < 0:
            raise UserError(f"{changed} is out of range")
        self.settings = changed

    def snapshot(self):
        return self.x, self.y, self._memory

    def restore(self, snapshot):
        self.x, self.y, self._memory = snapshot


def make_opening(**changes):
    """The game as a library gives it, with the keys that the person bound."""
    values = {
        "title": "square",
        "start": MovingSquare,
        "keymap": bindings.with_own_keys(KEYMAP, FINGERPRINT),
        "legend_keymap": KEYMAP,
        "fps": 10.0,
        "seed": 0,
        "settings": SETTINGS,
        "world": "square",
        "fingerprint": FINGERPRINT,
        "prompt": np.zeros((1, SIDE, SIDE, 3), np.uint8),
    }
    return Opening(**values | changes)


def with_film(opening_):
    """The same as if it had been started from a video."""
    clip = Clip(FILM, (4, 4, 0, 5, 1))
    return make_opening(**vars(opening_) | {"beside": make_opening(fps=opening_.fps, clip=clip)})


def played_afresh(recording):
    """A new game that takes the actions of a recording under their settings."""
    settings = recording.settings_of(0)
    fresh = Playthrough(MovingSquare(recording.seed, settings), settings)
    for number, action in enumerate(recording.actions):
        fresh.tune(recording.settings_of(number))
        fresh.step(action)
    return fresh


def square_in(picture):
    """Where the square stands."""
    rows, columns = np.nonzero((picture == PAINT).all(-1))
    assert len(rows) == SQUARE_SIDE**2, "the square is whole"
    return int(columns.min()), int(rows.min())


def open_window(opening_, export, **options):
    """A window as the command line opens it, and the screen in it."""
    from play.window.bar import BAR_HEIGHT, MIN_WIDTH
    from play.window.game_screen import Files, GameScreen
    from play.window.window import Window

    window = Window((max(SIDE * SCALE, MIN_WIDTH), SIDE * SCALE + BAR_HEIGHT))
    options = {"drop": lambda path: window.say(f"dropped {path}")} | options
    playing = GameScreen(window, opening_, Files(picture=Path(export), scale=2), **options)
    window.show(playing)
    return window, playing


if __name__ == "__main__":
    from play.window.window import open_display

    assert open_display()
    open_window(with_film(make_opening(fps=float(sys.argv[2]))), sys.argv[1])[0].run()
