"""`python -m play`: options in, a window or a file out.

Everything that loads torch is imported after the options are parsed, so that `--help` is quick.
"""

import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

if TYPE_CHECKING:
    from genie.world import World
    from play.game import Game, StartGame
    from play.keymap import KeyMap
    from play.recorder import Recorder
    from play.recording import Recording

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_PROMPT_FRAMES = 8
WINDOW_SIDE = 512
FILE_SIDE = 256
"""Pixels along the longer side of a picture, about, unless --scale is given."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play a world learnt from videos.

    1-8, arrow keys or WASD act, R restarts, P pauses, G saves a GIF, Esc quits.
    """

    prompt: Path | None = None
    """Image that the world starts from, or a video or GIF whose last frames it continues.
    Without it, the world's first prompt in examples/prompts."""
    world: Path = Path("checkpoints/coinrun")
    """Folder of the world."""
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
    """Play a recording again without a window, write --export, and say whether every frame is
    the same, bit for bit."""
    export: Path | None = None
    """GIF or MP4 to write, by its ending. Without it, rollout.gif."""
    fps: float | None = None
    """Frames per second. Without it, those of the videos that the world learnt from."""
    scale: int | None = None
    """Whole-number enlargement of the picture. Without it, about 512 pixels in the window and 256
    in files."""
    seed: int = 0
    """The same seed and actions give the same frames."""
    steps: int | None = None
    """MaskGIT steps a frame. Without it, the world's own."""
    temperature: float | None = None
    """Of the sampling, 0 or more. Without it, the world's own."""


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
    from genie.errors import UserError

    try:
        return _play(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _play(options: Options) -> int:
    from play.keymap import KeyMap
    from play.recording import Recording

    _check(options)
    if options.replay:
        return _replay(Recording.load(options.replay), options)
    prompt_path = options.prompt or _first_prompt(options.world)
    opens_window = not options.headless and _has_display(options)
    world = _load(options.world)
    keymap = KeyMap.load(options.world, world.num_actions)
    actions = () if opens_window else _actions(options, keymap)
    prompt = _read_prompt(prompt_path, world.size)
    start = _starter(world, prompt, options)
    print(_what_runs(world, options), flush=True)
    if opens_window:
        recorder = _play_window(world, keymap, start, options)
    else:
        recorder = _play_headless(start(), actions, world.fps, options)
    if options.record:
        _save_recording(recorder, world, prompt, options)
    return 0


def _actions(options: Options, keymap: "KeyMap") -> Sequence[int]:
    """What to play where there is no window."""
    from play import headless

    if options.random is not None:
        draw = random.Random(options.seed)
        return [draw.randrange(keymap.num_actions) for _ in range(options.random)]
    if options.actions is None:
        return headless.scripted_walk(keymap)
    actions = headless.parse_actions(options.actions, keymap.bindings)
    headless.check_actions(actions, keymap.num_actions)
    return actions


def _play_headless(
    game: "Game", actions: Sequence[int], fps: float, options: Options
) -> "Recorder":
    from play import headless
    from play.recorder import Recorder

    recorder, size = Recorder(game), game.frame.shape[:2]
    scale = options.scale or _fitting_scale(size, FILE_SIDE)
    fps = options.fps or fps
    print(headless.run(recorder, actions, _export(options), fps=fps, scale=scale))
    return recorder


def _save_recording(recorder: "Recorder", world: "World", prompt: Any, options: Options) -> None:
    from genie import video
    from play.recording import Recording

    if not recorder.actions:
        print(f"nothing was played, so {options.record} is not written")
        return
    sampling = world.config.sampling
    steps, temperature = options.steps, options.temperature
    Recording(
        world=world.name,
        fingerprint=world.fingerprint,
        prompt=np.stack([video.to_picture(frame) for frame in prompt]),
        seed=options.seed,
        maskgit_steps=sampling.maskgit_steps if steps is None else steps,
        temperature=sampling.temperature if temperature is None else temperature,
        fps=options.fps or world.fps,
        actions=tuple(recorder.actions),
        digests=tuple(recorder.digests),
    ).save(options.record)
    print(f"{len(recorder.actions)} actions recorded in {options.record}")


def _replay(recording: "Recording", options: Options) -> int:
    """0 if every frame is the one that was recorded, else 1."""
    from genie import video
    from genie.errors import UserError
    from play import headless

    world = _load(options.world)
    if recording.fingerprint != world.fingerprint:
        raise UserError(
            f"{options.replay} was recorded in another world ({recording.world}, "
            f"{recording.fingerprint}) than {options.world} ({world.fingerprint}): give --world"
        )
    headless.check_actions(recording.actions, world.num_actions)
    game = world.start(
        video.from_pictures(recording.prompt),
        seed=recording.seed,
        maskgit_steps=recording.maskgit_steps,
        temperature=recording.temperature,
    )
    recorder = _play_headless(game, recording.actions, recording.fps, options)
    pairs = enumerate(zip(recorder.digests, recording.digests, strict=True))
    changed = next((number for number, (ours, theirs) in pairs if ours != theirs), None)
    if changed is None:
        print("every frame is the recorded one, bit for bit")
        return 0
    print(f"frame {changed} is not the recorded one: another machine or version rounds otherwise")
    return 1


def _check(options: Options) -> None:
    """Refuse whatever can be refused before the world is loaded."""
    from genie import video
    from genie.checkpoint import check_folder
    from genie.errors import UserError
    from play.headless import MAX_ACTIONS

    if options.replay:
        _check_replay(options)
    for name, value in (("--actions", options.actions), ("--random", options.random)):
        if value is not None and not options.headless:
            raise UserError(f"{name} plays without a window: add --headless")
    if options.random is not None and not 1 <= options.random <= MAX_ACTIONS:
        raise UserError(f"--random is {options.random}: give 1 to {MAX_ACTIONS}")
    if options.random is not None and options.actions is not None:
        raise UserError("--random and --actions are two ways to choose: give one of them")
    if options.fps is not None and not 0.1 <= options.fps <= 240:
        raise UserError(f"--fps is {options.fps}: give 0.1 to 240")
    if options.scale is not None and not 1 <= options.scale <= 32:
        raise UserError(f"--scale is {options.scale}: give a whole number from 1 to 32")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed is {options.seed}: give a whole number from 0 to 2^63-1")
    if options.steps is not None and options.steps < 1:
        raise UserError(f"--steps is {options.steps}: give at least 1")
    if options.temperature is not None and not (
        isfinite(options.temperature) and options.temperature >= 0
    ):
        raise UserError(f"--temperature is {options.temperature}: give 0 or more")
    if options.prompt is not None and not options.prompt.is_file():
        raise UserError(f"no prompt {options.prompt}: give an image, a video or a GIF")
    if not options.world.is_dir():
        raise UserError(
            f"no world folder {options.world}: give --world or make one with python -m train"
        )
    if options.headless or options.replay or options.export is not None:
        video.check_writable(_export(options))
    if options.record is not None:
        if options.record.is_dir() or not options.record.parent.is_dir():
            raise UserError(f"--record {options.record}: give a file in a folder that is there")
        check_folder(options.record.parent)


def _check_replay(options: Options) -> None:
    """A recording brings everything that would change its frames."""
    from genie.errors import UserError

    given = {
        "--prompt": options.prompt,
        "--actions": options.actions,
        "--random": options.random,
        "--record": options.record,
        "--steps": options.steps,
        "--temperature": options.temperature,
    }
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--replay plays what was recorded: leave {name} out")


def _export(options: Options) -> Path:
    from play.recorder import DEFAULT_EXPORT

    return options.export or DEFAULT_EXPORT


def _first_prompt(world: Path) -> Path:
    from genie.errors import UserError

    folder = REPOSITORY / "examples" / "prompts"
    prompts = sorted(folder.glob(f"{escape(world.resolve().name)}*.png"))
    if not prompts:
        raise UserError(f"no prompt for {world} in {folder}: give --prompt image.png")
    return prompts[0]


def _has_display(options: Options) -> bool:
    from genie import video

    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from play import window

    if window.open_display():
        return True
    export = video.check_writable(_export(options))
    print(f"no display here: a scripted walk goes to {export} instead of a window")
    return False


def _load(folder: Path) -> "World":
    from genie import machine
    from genie.world import World

    machine.choose_threads()
    return World.from_pretrained(folder)


def _what_runs(world: "World", options: Options) -> str:
    """Such as "coinrun on cpu, 2 threads, bfloat16, 1 pass a frame"."""
    from genie import machine

    passes = options.steps or world.config.sampling.maskgit_steps
    plural = "" if passes == 1 else "es"
    return f"{world.name} on {machine.describe(world.device)}, {passes} pass{plural} a frame"


def _starter(world: "World", prompt: Any, options: Options) -> "StartGame":
    return lambda: world.start(
        prompt,
        seed=options.seed,
        maskgit_steps=options.steps,
        temperature=options.temperature,
    )


def _read_prompt(path: Path, size: tuple[int, int]) -> Any:
    """Frames, a uint8 tensor (t, 3, h, w)."""
    from genie import video

    if path.suffix.lower() in video.VIDEO_SUFFIXES:
        return video.read(path, size, last=MAX_PROMPT_FRAMES)
    return video.read_image(path, size)[None]


def _play_window(
    world: "World",
    keymap: "KeyMap",
    start: "StartGame",
    options: Options,
) -> "Recorder":
    from play.window import Window

    window = Window(
        start,
        keymap,
        title=world.name,
        fps=options.fps or world.fps,
        scale=options.scale or _fitting_scale(world.size, WINDOW_SIDE),
        export=_export(options),
        export_scale=options.scale or _fitting_scale(world.size, FILE_SIDE),
    )
    window.run()
    return window.recorder


def _fitting_scale(size: tuple[int, int], side: int) -> int:
    return max(1, side // max(size))


if __name__ == "__main__":
    # A shell's background job starts with Ctrl-C ignored, and then SDL would take it for a click.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
