"""The whole pipeline: `python -m train --data DIR --out checkpoints/NAME --preset nano`.

Prepares the videos, trains the tokenizer and the latent action model (side by side on a CPU, each
on half of the cores), then the dynamics, and writes the world. If it is killed at any time, the
same command goes on where it was.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro

from genie.data.card import is_prepared, is_remote, read_card
from genie.data.parts import FrameOptions
from genie.data.prepare import HELDOUT_SHARE, describe_source
from genie.errors import UserError
from genie.files import check_folder, write_whole, writing
from genie.world import read_config
from train import compare, prepare, prior
from train.errors import one_line_errors
from train.loop.budget import begun_with, check_time
from train.loop.progress import process_age_s
from train.loop.provenance import command_line, note_start, python_name
from train.loop.run_folder import claim, claiming, is_finished
from train.presets import DEFAULT_PRESET, PRESETS
from train.stage import PIPELINE, check_size, check_start, make_graphs

STOPPED = (130, 143)  # exit codes of a stage that was asked to stop and has saved
SHARES = {  # of --minutes for each stage, by the number of stages that train at once
    1: {"tokenizer": 0.32, "latent_action": 0.1, "dynamics": 0.53},
    2: {"tokenizer": 0.5, "latent_action": 0.5},
}
UNTIL_SHARES = {  # of --until for each encoder, by the number of encoders that train at once
    1: {"tokenizer": 0.3, "latent_action": 0.12},
    2: {"tokenizer": 0.42, "latent_action": 0.42},
}
LATE_SHARE = 0.1  # of --until is the least for a stage: a late world is better than none
AFTERWARDS = 0.1, 60.0  # share of --until, and at most so many seconds, to finish the world
TINY_PRIOR = 20  # steps of the action prior with the preset "tiny"
EXPLAINED = 2  # exit code of a stage that has printed in one line what is wrong


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """From a folder of videos to a playable world."""

    data: str
    """Folder with videos, any other source of python -m train.prepare, or a folder that it made,
    which may be remote (hf://datasets/owner/name)."""
    out: Path
    """Folder that the world is written to."""
    preset: str | None = None
    """tiny (a minute, for tests), nano (2 CPU cores, an hour; the default), quarter, platformers
    and base (one GPU), paper; finetune (2 CPU cores; the default with --from)."""
    run: Path | None = None
    """Folder for everything but the world; default: runs/NAME, with the NAME of --out."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """World to start from, such as checkpoints/coinrun: its nets are trained further, for fewer
    steps (--preset finetune)."""
    replay: str | None = None
    """Prepared folder of that world's own game, so that the world does not forget it."""
    minutes: float = 0
    """Train for about so many minutes in total on this machine, instead of the preset's steps;
    preparing and the evaluation of --from are not counted. A stage that has already begun keeps
    its number of steps."""
    until: float = 0
    """End so many seconds after the start of this command, except for the evaluation of --from. The
    time that is left after preparing is divided among the stages, which train by the clock, so that
    no step has to be timed beforehand. A stage that has already saved a state keeps its seconds."""
    compile_cache: Path | None = None
    """Folder that keeps compiled code, if the preset compiles: the next run on such a device loads
    it from there."""
    frames: tyro.conf.OmitArgPrefixes[FrameOptions] = field(default_factory=FrameOptions)
    """How frames are taken, if videos have yet to be prepared."""
    heldout_share: float = HELDOUT_SHARE
    """Share of those videos that is held out, if no folder decides."""


def main(config: PipelineConfig) -> None:
    """Run all stages that have not finished yet."""
    preset = config.preset or ("finetune" if config.from_ else DEFAULT_PRESET)
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    check_time(config.minutes, config.until)
    check_start(config.from_, config.replay)
    if config.out.resolve() == Path.cwd():
        raise UserError("--out is empty or the current folder: give a folder for the world")
    check_folder(config.out)
    run = check_folder(config.run or Path("runs") / config.out.name)
    with _warming_up(config, preset, run):
        prepared = _prepared(config, preset, run)
    check_start(config.from_, config.replay, prepared)
    _explain(run, config.out, prepared)
    shared = ["--preset", preset, "--data", prepared, "--run", str(run)]
    if config.from_:
        shared += ["--from", str(config.from_)]
    if config.replay:
        shared += ["--replay", config.replay]
    if config.minutes or config.until:
        _report_begun_stages(run)
    timing = _Timing(config.minutes, config.until)

    def flags_of(stage: str, at_once: int) -> list[str]:
        flags = [*shared, *timing.flags(stage, at_once)]
        if config.compile_cache:
            flags += ["--compile-cache", str(config.compile_cache / f"{stage}.bin")]
        return [*flags, "--out", str(config.out)] if stage == "dynamics" else flags

    encoders = [s for s in ("tokenizer", "latent_action") if not is_finished(run / s)]
    _run_stages(encoders, flags_of, side_by_side=2)
    _run_stages(["dynamics"], flags_of, side_by_side=1)
    if not config.until:  # they would take longer than the time that was given
        _add_prior(config.out, prepared, preset)
    else:
        command = [python_name(), "-m", "train.prior", str(config.out), prepared]
        print(
            f"{shlex.join(command)} adds what it may lack: keys as wishes, graphs to start quickly"
        )
    if config.from_:
        before, after, replay = config.from_, config.out, config.replay
        compare.main(
            compare.CompareConfig(before=before, after=after, data=prepared, replay=replay, out=run)
        )


def _add_prior(world: Path, prepared: str, preset: str) -> None:
    """Add an action prior and graphs to the world, unless it has them."""
    if read_config(world).prior is None:
        steps = TINY_PRIOR if preset == "tiny" else prior.PriorTraining.steps
        prior.main(prior.PriorTraining(world=world, data=prepared, steps=steps))
    else:
        make_graphs(world)


class _Timing:
    """The flags that say how long each stage may take."""

    def __init__(self, minutes: float, until: float) -> None:
        """Args: for the whole command; seconds that it has already used are not shared out."""
        self.minutes, self.until = minutes, until
        share, most_s = AFTERWARDS
        self.end_s = until - min(share * until, most_s)
        self.shared_s = self.end_s - process_age_s()

    def flags(self, stage: str, at_once: int) -> list[str]:
        """The flags of a stage that starts now, together with `at_once - 1` others."""
        if self.minutes:
            return ["--minutes", f"{self.minutes * SHARES[at_once][stage]:.4g}"]
        if not self.until:
            return []
        if stage in UNTIL_SHARES[at_once]:
            seconds = UNTIL_SHARES[at_once][stage] * self.shared_s
        else:
            seconds = self.end_s - process_age_s()
        return ["--until", f"{max(seconds, LATE_SHARE * self.until):.4g}"]


def _report_begun_stages(run: Path) -> None:
    """Print which stages keep their length, whatever --minutes or --until say now."""
    for stage in ("tokenizer", "latent_action", "dynamics"):
        if (run / stage / "config.json").is_file():
            steps, until = begun_with(run / stage)
            kept = f"{steps:,} steps" if steps else f"{until:.0f} seconds"
            if steps or until:
                print(f"{stage} was begun before, and keeps its {kept}")


@contextlib.contextmanager
def _warming_up(config: PipelineConfig, preset: str, run: Path) -> Iterator[None]:
    """Compile the nets on the GPU, if there is one, while the CPU prepares frames."""
    stages = vars(PRESETS[preset]).values()
    compiles = any(stage.loop.compile for stage in stages) and not config.from_
    prepared = is_prepared(config.data) or is_prepared(run / "data")
    if prepared or not compiles or not torch.cuda.is_available():
        yield
        return
    command = [sys.executable, "-m", "train.warm_up", "--preset", preset, "--size"]
    command += map(str, config.frames.size)
    if config.compile_cache:
        command += ["--compile-cache", str(config.compile_cache)]
    process = subprocess.Popen(command, env=os.environ | {PIPELINE: "1"}, process_group=0)
    try:
        yield
        process.wait()  # if it failed, a stage will fail in the same way and report it
    finally:
        process.terminate()
        process.wait()


def _check_patches(size: tuple[int, int], preset: str) -> None:
    """Check the size of frames before they are prepared, not only in the tokenizer.

    Raises:
        UserError: if the preset's patches do not cover frames of this size.
    """
    patch = PRESETS[preset].tokenizer.model.patch_size
    if size[0] % patch or size[1] % patch:
        raise UserError(
            f"--preset {preset} cuts frames into patches of {patch}, and {size[0]}x{size[1]} is "
            f"not a multiple of that: give another --size, or train stage by stage, with "
            "--model.patch-size 10 --model.stem linear in train/tokenizer.py for 90x160"
        )


def _prepared(config: PipelineConfig, preset: str, run: Path) -> str:
    """Return the prepared folder, which is made in the run folder if videos were given."""
    facts: dict[str, object] = {"preset": preset}
    if config.from_:
        facts |= {"from": str(config.from_.resolve()), "replay": config.replay}
    place = config.data
    if is_prepared(place):
        card = read_card(place)
        if config.frames.size not in {FrameOptions.size, (card.height, card.width)}:
            raise UserError(
                f"{place} was prepared at {card.height}x{card.width}: leave --size out, or give "
                "the folder of videos that it was made from"
            )
        if not config.from_:  # with --from, the frames have to fit the world instead
            _check_patches((card.height, card.width), preset)
        where = place if is_remote(place) else str(Path(place).resolve())
        claim(run, {"data": {"places": [where], "fingerprint": card.fingerprint}} | facts)
        return place
    if config.from_:
        check_size(config.from_, config.frames.size, "--size")
    else:
        _check_patches(config.frames.size, preset)
    source = describe_source([config.data], config.frames, config.heldout_share)
    prepared = run / "data"
    with claiming(run, {"data": source} | facts):
        if not is_prepared(prepared):
            prepare.main(
                prepare.PrepareConfig(
                    sources=(config.data,),
                    out=prepared,
                    frames=config.frames,
                    heldout_share=config.heldout_share,
                )
            )
    return str(prepared)


def _explain(run: Path, world: Path, prepared: str) -> None:
    """Write the README.md of the run folder, and note this start in starts.jsonl."""
    evaluate = [python_name(), "-m", "train.evaluate", str(world), prepared]
    play = [python_name(), "-m", "play", "--world", str(world)]
    text = f"""# The making of a world: {world.name}

To resume or repeat it:

```sh
{command_line()}
```

When it is finished:

```sh
{shlex.join(evaluate)}
{shlex.join(play)}
```

| folder | holds |
|---|---|
| data | the frames, if they were prepared by this command |
| tokenizer, latent_action, dynamics | a stage of training each, explained in its README |
| tokens | tokens and actions of all frames, from the first two stages for the third |

config.json holds the settings, starts.jsonl the command, commit and versions of every start.
"""
    with writing(run):
        note_start(run)
        write_whole(run / "README.md", text)


def _run_stages(
    stages: list[str], flags_of: Callable[[str, int], list[str]], side_by_side: int
) -> None:
    """Run stages that do not need each other: together on a CPU, one by one on a GPU."""
    cores = os.cpu_count() or 1
    at_once = 1 if torch.cuda.is_available() else max(1, min(side_by_side, cores))
    # Also for a single stage that is left: the order of sums depends on the number of threads.
    threads = max(1, cores // at_once)
    shows_bars = sys.stderr.isatty()  # positions on a screen would be noise in a log file
    while stages:
        batch, stages = stages[:at_once], stages[at_once:]
        running = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", f"train.{stage}", *flags_of(stage, at_once)),
                    *("--threads", str(threads)),
                ],
                env=os.environ
                | {"OMP_NUM_THREADS": str(threads), PIPELINE: "1"}
                | ({"TQDM_POSITION": str(line)} if shows_bars else {}),
                process_group=0,  # Ctrl-C reaches only this process, which then stops them
            )
            for line, stage in enumerate(batch)
        ]
        _wait(batch, running)


def _wait(stages: list[str], running: list[subprocess.Popen]) -> None:
    """Wait until all stages are done; the first that fails stops the others."""
    try:
        while None in (codes := [process.poll() for process in running]) and not any(codes):
            time.sleep(0.2)
    finally:
        for process in running:
            process.terminate()
            process.wait()
    for stage, code in zip(stages, codes, strict=True):
        if code in (EXPLAINED, *STOPPED):
            raise SystemExit(code)
        if code:
            raise UserError(f"stage {stage} failed (see above); repeat the command to go on")


def command() -> None:
    """`python -m train` and `genie-train`."""
    with one_line_errors():
        main(tyro.cli(PipelineConfig, description=__doc__))


if __name__ == "__main__":
    command()
