"""What the three stages share, from opening the data to a finished net."""

import copy
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from genie.checkpoint import fingerprint_weights, load_weights
from genie.data.card import read_card
from genie.data.clips import Clips, FrameStore, TokenStore
from genie.dynamics import DynamicsConfig
from genie.errors import UserError
from genie.files import check_folder
from genie.latent_action import LatentActionConfig
from genie.machine import allow_quick_float32, best_device, check_compiler
from genie.orphans import end_with_parent
from genie.st_latent_action import STLatentActionConfig
from genie.tokenizer import TokenizerConfig
from genie.world import read_config
from train.loop.budget import begun_with, check_time, seconds_within, steps_within
from train.loop.compile_cache import load_compiled, save_compiled
from train.loop.config import LoopConfig
from train.loop.run_folder import describe
from train.loop.trainer import Judge, Replay, Trainer
from train.presets import AnyStage, StageConfig

Model = TypeVar(
    "Model", bound=TokenizerConfig | LatentActionConfig | STLatentActionConfig | DynamicsConfig
)
# May change when a run is resumed: steps keep their clips, only rounding and random draws change.
HOW_IT_RUNS = (
    *("compile", "recompute", "shard", "accumulation", "trackers", "keep_states", "resident"),
    "pictures",
)
PIPELINE = "GENIE_PIPELINE"  # environment variable of stages that `python -m train` has started


def check_start(world: Path | None, replay: str | None, *folders: str) -> None:
    """Check that a world can be trained further on the given data.

    Args:
        world: to start from, if any.
        replay: prepared folder of the world's old game, if any.
        folders: further prepared folders.

    Raises:
        UserError: if there is no such world, if frames do not have its size, or if there is a
            replay but no world.
    """
    if world is None:
        if replay:
            raise UserError("--replay is for a world that is trained further: give --from as well")
        return
    read_config(world)  # raises before any folder is made
    for folder in (*folders, *([replay] if replay else [])):
        card = read_card(folder)
        check_size(world, (card.height, card.width), folder)


def check_size(world: Path, size: tuple[int, int], of: str) -> None:
    """Check that frames have the size that a world needs.

    Args:
        of: what has frames of this size, for the message.

    Raises:
        UserError: if not, naming both sizes.
    """
    wanted = read_config(world).tokenizer
    if tuple(size) != (wanted.height, wanted.width):
        raise UserError(
            f"{world} needs frames of {wanted.height}x{wanted.width}, but {of} has "
            f"{size[0]}x{size[1]}: prepare the videos with --size {wanted.height} {wanted.width}"
        )


def open_stores(config: StageConfig) -> tuple[FrameStore, FrameStore]:
    """Open the training and the held-out frames.

    Raises:
        UserError: see `check_start`.
    """
    check_start(config.from_, config.replay, config.data)
    return FrameStore.open(config.data, "train"), FrameStore.open(config.data, "heldout")


def set_up(config: StageConfig) -> None:
    """Set up the compiler, the threads and the seed, before any weight is drawn.

    Raises:
        UserError: if the net is to be compiled but cannot be.
    """
    if config.loop.compile:
        check_compiler(best_device())
        if config.compile_cache:
            check_folder(config.compile_cache.parent)
        load_compiled(config.compile_cache)
    if config.loop.precision != "float32":
        allow_quick_float32(best_device())
    if PIPELINE in os.environ:
        end_with_parent()
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.loop.seed)


def fit(model: Model, **facts: Any) -> Model:
    """Fill in the fields of a net's config that follow from the data.

    Raises:
        UserError: if a flag contradicts the data.
    """
    defaults = {field.name: field.default for field in fields(model)}
    for name, value in facts.items():
        given = getattr(model, name)
        if given not in (value, defaults[name]):
            flag = f"--model.{name.replace('_', '-')}"
            raise UserError(f"{flag} is {given}, but the data says {value}: leave the flag out")
    return replace(model, **facts)


def starting_net(config: StageConfig, name: str, net: nn.Module) -> nn.Module:
    """Load the weights of the world given by --from, if any, into the net."""
    if config.from_:
        load_weights(net, config.from_ / f"{name}.safetensors")
    return net


def starting_model(config: AnyStage, name: str) -> Any:
    """The config of a net: that of the world given by --from, else the preset's."""
    return getattr(read_config(config.from_), name) if config.from_ else config.model


def open_replay(config: StageConfig) -> FrameStore | None:
    """Open the frames of the old game, if --replay is given.

    Raises:
        UserError: if the share is out of range.
    """
    if not config.replay:
        return None
    if not 0 < config.replay_share < 1:
        raise UserError(f"--replay-share is {config.replay_share}: give a share such as 0.25")
    return FrameStore.open(config.replay, "train")


def data_fingerprint(store: FrameStore, replay: FrameStore | None) -> str:
    """Identify the frames that a net is trained on, including the replayed ones."""
    return f"{store.fingerprint}+{replay.fingerprint}" if replay else store.fingerprint


def make_trainer(
    config: StageConfig,
    name: str,
    net: nn.Module,
    stores: Sequence[FrameStore | TokenStore],
    replay: FrameStore | TokenStore | None = None,
    *,
    judge: Judge | None = None,
    advise: Callable[[dict[str, float]], str] | None = None,
    then: Sequence[str] = (),
    **description: Any,
) -> Trainer:
    """Make the trainer of a stage, on clips of both splits.

    Args:
        name: of the stage's folder in the run folder.
        stores: the training and the held-out split.
        replay: the old game's training split.
        judge: see `Trainer`, also for `advise` and `then`.
        description: all that determines the result, besides the clips and the loop.

    Raises:
        UserError: if the videos are shorter than a clip, or the folder holds another run.
    """
    check_time(config.minutes, config.until)
    clips = [Clips(store, config.clip_frames) for store in stores]
    replayed = None
    if replay is not None:
        replayed = Replay(Clips(replay, config.clip_frames), config.replay_share)
        description["replay_share"] = config.replay_share
    if config.from_:
        description["started_from"] = fingerprint_weights(config.from_ / f"{name}.safetensors")
    loop, folder = config.loop, config.run / name
    until = 0.0
    if config.minutes or config.until:
        steps, until = begun_with(folder)
        if steps is None and not until and config.until:
            until = seconds_within(config.until)
        elif steps is None and not until:

            def trial(loop: LoopConfig, folder: Path) -> Trainer:
                return Trainer(copy.deepcopy(net), *clips, loop, folder, {}, replay=replayed)

            steps = steps_within(config.minutes, folder, loop, trial)
        loop = replace(loop, num_steps=steps or loop.num_steps)
    settings = {name: value for name, value in asdict(loop).items() if name not in HOW_IT_RUNS}
    if until:
        settings["num_steps"] = f"until {until:g} s"
        description["until"] = until
    description = describe(clip_frames=config.clip_frames, loop=settings, **description)
    return Trainer(
        net,
        *clips,
        loop,
        folder,
        description,
        replay=replayed,
        judge=judge,
        advise=advise,
        then=then,
        until=until,
    )


def run_to_end(config: StageConfig, trainer: Trainer) -> dict[str, float]:
    """Train a stage to its end, accept the result, and return the held-out metrics.

    Raises:
        UserError: see `Trainer.run`.
    """
    metrics = trainer.run()
    trainer.finish()
    if config.loop.compile and trainer.is_main:
        save_compiled(config.compile_cache)
    return metrics


def make_graphs(world: Path) -> None:
    """Make the graphs with which a world starts quickly, unless it has them; it plays without."""
    if importlib.util.find_spec("onnxruntime") is None:
        return
    from genie import onnx_engine  # needs onnxruntime, which is optional
    from train import graphs

    if onnx_engine.read_card(world) is None:
        try:
            graphs.main(graphs.GraphsConfig(world=world))
        except UserError as error:
            print(f"the world has no graphs, so that it takes longer to start: {error}")
