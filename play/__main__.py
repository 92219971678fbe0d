"""`python -m play`: options in, a window, a web page or a file out.

Neither this nor what it imports at its top loads torch, so that `--help` and a mistake are answered
at once; pygame and the page's server are loaded by who wants them.
"""

import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import tyro

from genie import video
from genie.errors import UserError
from genie.files import check_folder
from genie.places import find_world
from genie.sampling import MOST_STEPS
from play import headless, overlay
from play.keymap import KeyMap
from play.recording import Recording, first_difference
from play.timeline import DEFAULT_EXPORT, Playthrough
from play.worlds import Library, Opening, all_worlds, first_prompt, prompts_for

if TYPE_CHECKING:
    from play.window.game_screen import Files, GameScreen

WINDOW_SIDE, FILE_SIDE = 512, 256
"""Pixels along the longer side of a picture, about, unless --scale is given."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play a world learnt from videos.

    Without options, a window shows the worlds and prompts that there are. In a world, H shows the
    keys.
    """

    prompt: Path | None = None
    """Image that the world starts from, or a video or GIF whose last frames it continues."""
    world: Path | None = None
    """Folder of the world, name of one that came with the program, or owner/name of one on the
    Hugging Face Hub. Without it, coinrun, or the start screen's choice."""
    browser: bool = False
    """Serve a web page to play on instead of opening a window."""
    host: str = "127.0.0.1"
    """Address that --browser listens on; 0.0.0.0 lets everybody in the network play."""
    port: int = 8000
    """Port that --browser listens on."""
    allow: tuple[str, ...] = ()
    """Names by which proxies or tunnels in front of --browser are reached, such as
    play.example.org."""
    players: int = 8
    """How many may play at once with --browser."""
    headless: bool = False
    """Open no window: play --actions, or a scripted walk, and write --export."""
    actions: str | None = None
    """Latent actions to play (with --headless), such as 3,3,3,0,1, or names of the world's legend,
    such as right*8,up,left*4. Action 0 is key 1."""
    random: int | None = None
    """Play this many random actions (with --headless), drawn by --seed."""
    record: Path | None = None
    """File to write what is played into, since the last restart; --replay plays it again."""
    replay: Path | None = None
    """Play a recording again, say whether every frame is the same, bit for bit, and play on from
    there; with --headless or --export, only write the file."""
    export: Path | None = None
    """GIF, MP4 or PNG strip to write, by its ending. Without it, rollout.gif."""
    show_keys: bool = False
    """Write the keys that were pressed on the pictures in files."""
    fps: float | None = None
    """Frames per second. Without it, those of the videos that the world learnt from."""
    scale: int | None = None
    """Whole-number enlargement of the picture. Without it, about 512 pixels in the window and 256
    in files."""
    seed: int = 0
    """The same seed and actions give the same frames."""
    steps: int | None = None
    """Passes over a frame at most. Without it, the world's own."""
    temperature: float | None = None
    """Of the sampling, 0 or more. Without it, the world's own."""

    @property
    def export_path(self) -> Path:
        """Where files go."""
        return self.export or DEFAULT_EXPORT

    @cached_property
    def world_folder(self) -> Path:
        """The world that is played if no start screen asks."""
        return find_world(self.world or "coinrun")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = tyro.cli(
        Options,
        prog="python -m play",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        return _report_errors(options)
    except KeyboardInterrupt:
        return 130


def _report_errors(options: Options) -> int:
    try:
        return _play(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _play(options: Options) -> int:
    _check(options)
    recording = Recording.load(options.replay) if options.replay else None
    library = Library(
        seed=options.seed,
        maskgit_steps=options.steps,
        temperature=options.temperature,
        fps=options.fps,
        engine=recording.engine if recording else None,
    )
    if recording:
        return _replay(library, options, recording)
    if options.browser:
        return _serve(library, options)
    if not options.headless and _has_display(options):
        return _play_window(library, options)
    world = options.world_folder
    opening = library.open(world, options.prompt or first_prompt(world))
    actions = _actions(options, opening.keymap)
    print(opening.what_runs, flush=True)
    playthrough = _play_headless(opening, actions, options)
    if options.record:
        _save_recording(opening.recording(playthrough, opening.seed), options.record)
    return 0


def _actions(options: Options, keymap: KeyMap) -> Sequence[int]:
    """What to play where there is no window."""
    if options.random is not None:
        draw = random.Random(options.seed)
        return [draw.randrange(keymap.num_actions) for _ in range(options.random)]
    if options.actions is None:
        return headless.scripted_walk(keymap)
    actions = headless.parse_actions(options.actions, keymap.vocabulary)
    headless.check_actions(actions, keymap.num_actions)
    return actions


def _play_headless(
    opening: Opening,
    actions: Sequence[int],
    options: Options,
    recording: Recording | None = None,
) -> Playthrough:
    """Play and write the file. Args: recording: whose settings to follow."""
    playthrough = opening.playthrough(opening.seed, opening.settings)
    figures = headless.run(playthrough, actions, recording)
    frames, size = playthrough.frames, playthrough.frame.shape[:2]
    scale = options.scale or _fitting_scale(size, FILE_SIDE)
    if options.show_keys:
        scale = overlay.readable_scale(size, scale)
        frames, scale = overlay.captioned(frames, actions, opening.keymap, scale), 1
    video.write(options.export_path, frames, fps=opening.fps, scale=scale)
    print(f"{len(frames)} frames written to {options.export_path}: {figures}")
    return playthrough


def _save_recording(recording: Recording, path: Path) -> None:
    recording.save(path)
    print(f"{len(recording.actions)} actions recorded in {path}")


def _replay(library: Library, options: Options, recording: Recording) -> int:
    """0 if every frame that was played is the one that was recorded, else 1."""
    path = options.replay
    folder = options.world_folder
    world = library.world(folder)
    if recording.fingerprint != world.fingerprint:
        raise UserError(
            f"{path} was recorded in another world ({recording.world}, "
            f"{recording.fingerprint}) than {folder} ({world.fingerprint}): give that world's "
            "folder by --world"
        )
    headless.check_actions(recording.actions, world.num_actions, str(path))
    opening = replace(
        library.open_frames(folder, recording.prompt),
        seed=recording.seed,
        settings=recording.settings_of(0),
        fps=options.fps or recording.fps,
    )
    if options.headless or options.export or not _opens_window():
        playthrough = _play_headless(opening, recording.actions, options, recording)
        changed = first_difference(playthrough.digests, recording.digests)
    else:
        playing = _show(library, options, opening, script=recording)
        changed = playing.player.changed_frame if playing else None
        if changed is None and not (playing and playing.player.script_ended):
            print("the recording was not played to its end")
            return 0
    if changed is None:
        print("every frame is the recorded one, bit for bit")
        return 0
    print(
        f"frame {changed} is not the recorded one: the recording was edited, or another machine or "
        "version rounds otherwise"
    )
    return 1


def _serve(library: Library, options: Options) -> int:
    from play.browser.server import serve

    serve(
        library,
        options.world_folder,
        options.prompt,
        host=options.host,
        port=options.port,
        max_players=options.players,
        allow=options.allow,
    )
    return 0


def _check(options: Options) -> None:
    """Refuse whatever can be refused before a world is loaded."""
    if options.replay:
        _check_replay(options)
    _check_browser(options)
    for name, value in (("--actions", options.actions), ("--random", options.random)):
        if value is not None and not options.headless:
            raise UserError(f"{name} plays without a window: add --headless")
    if options.random is not None and not 1 <= options.random <= headless.MAX_ACTIONS:
        raise UserError(f"--random is {options.random}: give 1 to {headless.MAX_ACTIONS}")
    if options.random is not None and options.actions is not None:
        raise UserError("--random and --actions are two ways to choose: give one of them")
    if options.fps is not None and not 0.1 <= options.fps <= 240:
        raise UserError(f"--fps is {options.fps}: give 0.1 to 240")
    if options.scale is not None and not 1 <= options.scale <= 32:
        raise UserError(f"--scale is {options.scale}: give a whole number from 1 to 32")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}: give a whole number from 0 to 2^63-1")
    if options.steps is not None and not 1 <= options.steps <= MOST_STEPS:
        raise UserError(f"--steps is {options.steps}: give 1 to {MOST_STEPS}")
    if options.temperature is not None and not (
        isfinite(options.temperature) and options.temperature >= 0
    ):
        raise UserError(f"--temperature is {options.temperature}: give 0 or more")
    if options.prompt is not None and not options.prompt.is_file():
        raise UserError(f"no prompt {options.prompt}: give an image, a video or a GIF")
    options.world_folder  # noqa: B018 - looked for before anything is done, and then known
    if options.headless or options.replay or options.export is not None:
        video.check_writable(options.export_path)
    if options.record is not None:
        if options.record.is_dir() or not options.record.parent.is_dir():
            raise UserError(f"--record {options.record}: give a file in a folder that is there")
        if options.record.resolve() == options.export_path.resolve():
            raise UserError(f"--record and --export both name {options.record}: give two files")
        check_folder(options.record.parent)


def _check_replay(options: Options) -> None:
    """A recording brings everything that would change its frames."""
    given = {
        "--prompt": options.prompt,
        "--actions": options.actions,
        "--random": options.random,
        "--record": options.record,
        "--steps": options.steps,
        "--temperature": options.temperature,
        "--seed": options.seed or None,
        "--browser": options.browser or None,
    }
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--replay plays what was recorded: leave {name} out")


def _check_browser(options: Options) -> None:
    for name in ("host", "port", "players", "allow"):
        if not options.browser and getattr(options, name) != getattr(Options, name):
            raise UserError(f"--{name} is of the page's server: add --browser")
    given = {
        "--headless": options.headless or None,
        "--record": options.record,
        "--export": options.export,
        "--scale": options.scale,
    }
    for name, value in given.items():
        if options.browser and value is not None:
            raise UserError(f"--browser serves a page, which saves files itself: leave {name} out")
    for name in options.allow:
        if not name.strip(".") or set(name) & set("/:* "):
            raise UserError(f"--allow is {name!r}: give a name alone, such as play.example.org")
    if not 1 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}: give 1 to 65535")
    if not 1 <= options.players <= 64:
        raise UserError(f"--players is {options.players}: give 1 to 64")


def _opens_window() -> bool:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from play.window import window

    return window.open_display()


def _has_display(options: Options) -> bool:
    if _opens_window():
        return True
    export = video.check_writable(options.export_path)
    print(
        f"no display here: a scripted walk goes to {export} instead of a window; "
        "python -m play --browser lets you play in a browser"
    )
    return False


def _play_window(library: Library, options: Options) -> int:
    opening = None
    if options.prompt or options.world:
        world = options.world_folder
        opening = library.open(world, options.prompt or first_prompt(world))
    playing = _show(library, options, opening)
    if options.record and playing and playing.player.playthrough.actions:
        _save_recording(playing.player.recording(), options.record)
    elif options.record:
        print(f"nothing was played, so {options.record} is not written")
    return 0


def _show(
    library: Library,
    options: Options,
    opening: Opening | None,
    script: Recording | None = None,
) -> "GameScreen | None":
    """Open the window, on an opening or on the start screen.

    Gives what was played last; with a script, what it was played on.
    """
    from play.window.bar import BAR_HEIGHT, MIN_WIDTH
    from play.window.game_screen import GameScreen
    from play.window.start_screen import Gallery
    from play.window.window import Window

    shelves = {world: prompts_for(world) for world in all_worlds()}
    if not opening and not shelves:
        raise UserError("no world in checkpoints: give --world or make one with python -m train")
    side = WINDOW_SIDE
    if opening and options.scale:
        side = options.scale * max(opening.prompt.shape[1:3])
    window = Window((max(side, MIN_WIDTH), side + BAR_HEIGHT))
    last = scripted = None

    def play(world: Path, prompt: Path) -> None:
        show(library.open(world, prompt), world)

    def show(opening: Opening, world: Path, script: Recording | None = None) -> None:
        nonlocal last
        print(opening.what_runs, flush=True)
        last = GameScreen(
            window,
            opening,
            _files(opening, options),
            drop=lambda prompt: play_dropped(world, prompt),
            script=script,
        )
        window.show(last)

    def play_dropped(world: Path, prompt: Path) -> None:
        try:
            play(world, prompt)
        except UserError as error:
            window.say(str(error))

    if opening:
        show(opening, options.world_folder, script)
        scripted = last if script else None
    else:
        window.show(Gallery(window, shelves, play))
    window.run()
    return scripted or last


def _files(opening: Opening, options: Options) -> "Files":
    from play.window.game_screen import Files

    return Files(
        picture=options.export_path,
        scale=options.scale or _fitting_scale(opening.prompt.shape[1:3], FILE_SIDE),
        show_keys=options.show_keys,
    )


def _fitting_scale(size: tuple[int, int], side: int) -> int:
    return max(1, side // max(size))


def command() -> NoReturn:
    """`python -m play` and `genie-play`."""
    # A shell's background job starts with Ctrl-C ignored, and then SDL would take it for a click.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    command()
