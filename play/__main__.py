"""`python -m play`: command-line options in, a window, a web page or a file out.

Neither this module nor its top-level imports load torch, so that `--help` and errors in the options
appear at once; pygame and the web server are imported only by the functions that use them.
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
from shlex import quote
from typing import TYPE_CHECKING, NoReturn

import tyro

from genie import video
from genie.decoding import is_film
from genie.errors import UserError
from genie.files import check_folder
from genie.places import find_world
from genie.sampling import MOST_STEPS
from genie.session import EngineName
from play import headless, overlay
from play.game import Press, exactly
from play.keymap import KeyMap
from play.recording import IN_BROWSER, Recording, first_difference
from play.timeline import DEFAULT_EXPORT, Playthrough
from play.worlds import Library, Opening, all_worlds, first_prompt, prompts_for

if TYPE_CHECKING:
    from play.window.game_screen import Files, GameScreen

WINDOW_SIDE, FILE_SIDE = 512, 256
"""Approximate length of a picture's longer side in pixels, unless --scale is given."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play a world learnt from videos.

    Without options, a window shows the available worlds and prompts. While playing, H shows the
    keys.
    """

    prompt: Path | None = None
    """Image to start from, or a video or GIF to continue from its last frames."""
    world: Path | None = None
    """Folder of the world, name of a world shipped with the program, or owner/name of a repository
    of the Hugging Face Hub. Default: coinrun, or the choice on the start screen."""
    browser: bool = False
    """Serve a web page to play on instead of opening a window."""
    host: str = "127.0.0.1"
    """Address that --browser listens on; 0.0.0.0 lets everybody on the network play."""
    port: int = 8000
    """Port that --browser listens on."""
    allow: tuple[str, ...] = ()
    """Host names of proxies or tunnels in front of --browser, such as play.example.org."""
    players: int = 8
    """Maximum number of simultaneous players with --browser."""
    export_site: Path | None = None
    """Folder to write a static site to, which plays the world in the browser without a server."""
    headless: bool = False
    """Play --actions, or a scripted walk, without a window and write the result to --export."""
    actions: str | None = None
    """Latent actions to play (with --headless), such as 3,3,3,0,1, or names from the world's
    legend, such as right*8,up,left*4. Key 1 is action 0."""
    random: int | None = None
    """Play this many random actions (with --headless); --seed determines them."""
    record: Path | None = None
    """Record everything played since the last restart in this file; --replay plays it again."""
    replay: Path | None = None
    """Play a recording again, report whether every frame is the same, bit for bit, and continue
    playing from its end; with --headless or --export, only write the file."""
    export: Path | None = None
    """GIF, MP4 or PNG strip to write; the extension selects which. Default: rollout.gif."""
    show_keys: bool = False
    """Draw the pressed keys onto the pictures in files."""
    fps: float | None = None
    """Frames per second. Default: the rate of the videos that the world learnt from."""
    scale: int | None = None
    """Integer factor by which pictures are enlarged. Default: to about 512 pixels in the window and
    256 in files."""
    seed: int = 0
    """The same seed and actions give the same frames."""
    steps: int | None = None
    """Maximum number of MaskGIT passes per frame. Default: the world's own."""
    temperature: float | None = None
    """Sampling temperature, 0 or more. Default: the world's own."""

    @property
    def export_path(self) -> Path:
        """File to write, `DEFAULT_EXPORT` unless --export is given."""
        return self.export or DEFAULT_EXPORT

    @cached_property
    def world_folder(self) -> Path:
        """Folder of the world to play if no start screen is shown."""
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
        engine="onnxruntime" if options.export_site else _engine_for(recording),
    )
    if options.export_site:
        return _export_site(library, options, options.export_site)
    if recording:
        return _replay(library, options, recording)
    if options.browser:
        return _serve(library, options)
    if not options.headless and _has_display(options):
        return _play_window(library, options)
    world = options.world_folder
    opening = library.open(world, options.prompt or first_prompt(world))
    presses = _presses(options, opening.keymap)
    print(opening.what_runs, flush=True)
    playthrough = _play_headless(opening, presses, options)
    if options.record:
        _save_recording(opening.recording(playthrough, opening.seed), options.record)
    return 0


def _engine_for(recording: Recording | None) -> EngineName | None:
    """What computes the frames of a recording here; None if any engine may."""
    if recording is None:
        return None
    return "onnxruntime" if recording.engine == IN_BROWSER else recording.engine


def _export_site(library: Library, options: Options, site: Path) -> int:
    from play.site.export import export

    size = export(library, options.world_folder, options.prompt, site)
    served_by = f"python -m http.server -d {quote(str(site))}"
    print(f"{size / 1e6:.0f} MB written to {site}: {served_by} serves it")
    return 0


def _presses(options: Options, keymap: KeyMap) -> Sequence[Press]:
    """The presses of a run without a window."""
    if options.random is not None:
        draw = random.Random(options.seed)
        numbers = (draw.randrange(keymap.num_actions) for _ in range(options.random))
        return [exactly(number) for number in numbers]
    if options.actions is None:
        return headless.scripted_walk(keymap)
    presses = headless.parse_actions(options.actions, keymap.vocabulary)
    headless.check_actions([press.action for press in presses], keymap.num_actions)
    return presses


def _play_headless(
    opening: Opening,
    presses: Sequence[Press],
    options: Options,
    recording: Recording | None = None,
) -> Playthrough:
    """Play and write the file, under the settings of `recording` if it is given."""
    playthrough = opening.playthrough(opening.seed, opening.settings)
    figures = headless.run(playthrough, presses, recording)
    frames, size = playthrough.frames, playthrough.frame.shape[:2]
    scale = options.scale or _fitting_scale(size, FILE_SIDE)
    if options.show_keys:
        scale = overlay.readable_scale(size, scale)
        frames = overlay.captioned(frames, playthrough.steps, opening.keymap, scale)
        scale = 1
    video.write(options.export_path, frames, fps=opening.fps, scale=scale)
    print(f"{len(frames)} frames written to {options.export_path}: {figures}")
    return playthrough


def _save_recording(recording: Recording, path: Path) -> None:
    recording.save(path)
    print(f"{len(recording.actions)} actions recorded in {path}")


def _replay(library: Library, options: Options, recording: Recording) -> int:
    """Return the exit code: 1 if a replayed frame differs from the recorded one, else 0."""
    path = options.replay
    folder = options.world_folder
    world = library.world(folder)
    if recording.fingerprint != world.fingerprint:
        raise UserError(
            f"{path} was recorded in another world ({recording.world}, "
            f"{recording.fingerprint}) than {folder} ({world.fingerprint}): give that world's "
            "folder with --world"
        )
    headless.check_actions(recording.actions, world.num_actions, str(path))
    opening = replace(
        library.open_frames(folder, recording.prompt),
        seed=recording.seed,
        settings=recording.settings_of(0),
        fps=options.fps or recording.fps,
    )
    if options.headless or options.export or not _opens_window():
        presses = [exactly(action) for action in recording.actions]
        playthrough = _play_headless(opening, presses, options, recording)
        changed = first_difference(playthrough.digests, recording.digests)
    else:
        screen = _show(library, options, opening, script=recording)
        changed = screen.player.changed_frame if screen else None
        if changed is None and not (screen and screen.player.script_ended):
            print("the recording was not played to its end")
            return 0
    if changed is None:
        print("every frame is the recorded one, bit for bit")
        return 0
    if recording.engine == IN_BROWSER:
        why = "it was recorded in a browser, where onnxruntime rounds differently"
    else:
        why = "the recording was edited, or it was made on a machine or version that rounds "
        why += "differently"
    print(f"frame {changed} is not the recorded one: {why}")
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
    """Reject invalid options before a world is loaded."""
    if options.replay:
        _check_replay(options)
    _check_browser(options)
    _check_site(options)
    for name, value in (("--actions", options.actions), ("--random", options.random)):
        if value is not None and not options.headless:
            raise UserError(f"{name} works only without a window: add --headless")
    if options.random is not None and not 1 <= options.random <= headless.MAX_ACTIONS:
        raise UserError(f"--random is {options.random}: give 1 to {headless.MAX_ACTIONS}")
    if options.random is not None and options.actions is not None:
        raise UserError("--random and --actions exclude each other: give one of them")
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
        raise UserError(f"--prompt {options.prompt} is no file: give an image, a video or a GIF")
    options.world_folder  # noqa: B018 - raises now if there is no such world; cached afterwards
    if options.headless or options.replay or options.export is not None:
        video.check_writable(options.export_path)
    if options.record is not None:
        if options.record.is_dir() or not options.record.parent.is_dir():
            raise UserError(f"--record {options.record}: give a file in an existing folder")
        if options.record.resolve() == options.export_path.resolve():
            raise UserError(f"--record and --export both name {options.record}: give two files")
        check_folder(options.record.parent)


def _check_replay(options: Options) -> None:
    """Reject options that would change the frames: a recording has its own."""
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
            raise UserError(f"--{name} is an option of the web page: add --browser")
    given = {
        "--headless": options.headless or None,
        "--record": options.record,
        "--export": options.export,
        "--scale": options.scale,
    }
    for name, value in given.items():
        if options.browser and value is not None:
            raise UserError(f"{name} does not apply to the page of --browser: leave it out")
    for name in options.allow:
        if not name.strip(".") or set(name) & set("/:* "):
            raise UserError(f"--allow is {name!r}: give a bare host name, such as play.example.org")
    if not 1 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}: give 1 to 65535")
    if not 1 <= options.players <= 64:
        raise UserError(f"--players is {options.players}: give 1 to 64")


def _check_site(options: Options) -> None:
    given = {
        "--browser": options.browser or None,
        "--headless": options.headless or None,
        "--record": options.record,
        "--replay": options.replay,
        "--export": options.export,
        "--scale": options.scale,
    }
    for name, value in given.items():
        if options.export_site and value is not None:
            raise UserError(f"{name} does not apply to --export-site: leave it out")
    if options.export_site and options.prompt and is_film(options.prompt):
        raise UserError(f"{options.prompt} is a video: a site starts from an image")


def _opens_window() -> bool:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from play.window import window

    return window.open_display()


def _has_display(options: Options) -> bool:
    if _opens_window():
        return True
    export = video.check_writable(options.export_path)
    print(
        f"no display found: writing a scripted walk to {export} instead of opening a window; "
        "python -m play --browser lets you play in a browser"
    )
    return False


def _play_window(library: Library, options: Options) -> int:
    opening = None
    if options.prompt or options.world:
        world = options.world_folder
        opening = library.open(world, options.prompt or first_prompt(world))
    screen = _show(library, options, opening)
    if options.record and screen and screen.player.playthrough.actions:
        _save_recording(screen.player.recording(), options.record)
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

    Returns the screen that the script was played on, or without a script the last one, if any.
    """
    from play.window.bar import BAR_HEIGHT, MIN_WIDTH
    from play.window.game_screen import GameScreen
    from play.window.start_screen import Gallery
    from play.window.window import Window

    shelves = {world: prompts_for(world) for world in all_worlds()}
    if not opening and not shelves:
        raise UserError("no world in checkpoints: give --world or train one with python -m train")
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
    """Entry point of `python -m play` and `genie-play`."""
    # Shells start background jobs with SIGINT ignored; SDL would then treat it as a closed window.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    command()
