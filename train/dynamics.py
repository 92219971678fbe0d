"""Stage 3: train the dynamics on stored tokens. `accelerate launch train/dynamics.py --data DIR`.

Reads the tokens and actions that `encode.py` stored in the run folder, so that no encoder runs in a
training step. At the end, the three nets are combined into a world.
"""

from pathlib import Path
from shlex import quote

import torch
from jaxtyping import UInt8
from torch import Tensor

from genie import legend, video
from genie.data.clips import FrameStore
from genie.dynamics import Dynamics
from genie.errors import UserError
from genie.files import check_folder
from genie.frames import to_pictures
from genie.tokenizer import Tokenizer
from genie.world import World, WorldConfig, read_config
from train.encode import ActionModel, fingerprint, load_encoders, open_tokens
from train.errors import one_line_errors
from train.loop.previews import dynamics_judge
from train.loop.provenance import python_name
from train.loop.run_folder import load_finished
from train.measure.effects import write_legend
from train.presets import DynamicsStage, parse, presets_of
from train.stage import (
    data_fingerprint,
    fit,
    make_trainer,
    open_replay,
    open_stores,
    run_to_end,
    set_up,
    starting_model,
    starting_net,
)

LEGEND_PROMPTS = 64
SAVED_PROMPTS = 6


def main(config: DynamicsStage) -> dict[str, float]:
    """Train or resume training, write the world, and return the held-out metrics."""
    if config.clip_frames < 2:
        raise UserError(f"clip_frames is {config.clip_frames}: 2 or more is wanted")
    out = check_folder(config.out or config.run / "world")
    set_up(config)
    stores = open_stores(config)
    replay = open_replay(config)
    tokenizer, latent_action = load_encoders(config.run)
    tokens = [open_tokens(config, tokenizer, latent_action, store) for store in stores]
    replayed = open_tokens(config, tokenizer, latent_action, replay, "replay") if replay else None
    start = starting_model(config, "dynamics")
    model = fit(
        start,
        num_tokens=tokenizer.config.num_tokens,
        codebook_size=tokenizer.config.codebook.size,
        factors=start.factors if config.from_ else tokenizer.config.codebook.factors,
        num_actions=latent_action.config.num_actions,
    )
    world = WorldConfig(
        tokenizer=tokenizer.config,
        latent_action=latent_action.config,
        dynamics=model,
        sampling=read_config(config.from_).sampling if config.from_ else config.sampling,
        fps=stores[0].fps,
    )
    trainer = make_trainer(
        config,
        "dynamics",
        starting_net(config, "dynamics", Dynamics(model)),
        tokens,
        replayed,
        judge=dynamics_judge(world, tokenizer, latent_action, stores[1]),
        model=model,
        data=data_fingerprint(stores[0], replay),
        tokens=fingerprint(tokenizer, latent_action, stores[0]),
        then=(
            f"{python_name()} -m train.evaluate {quote(str(out))} {quote(str(config.data))}",
            _play_command(out),
        ),
    )
    metrics = run_to_end(config, trainer)
    if trainer.is_main:
        net = load_finished(Dynamics(model), config.run / "dynamics")
        save_world(world, tokenizer, latent_action, net, draw_prompts(stores[1]), out)
    return metrics


def draw_prompts(store: FrameStore, count: int = LEGEND_PROMPTS) -> UInt8[Tensor, "p 3 h w"]:
    """Frames spread evenly over a split, for the legend and as prompts to play from."""
    rows = torch.linspace(0, len(store) - 1, count).long().tolist()
    return torch.cat([store.read(row, row + 1) for row in rows])


def save_world(
    config: WorldConfig,
    tokenizer: Tokenizer,
    latent_action: ActionModel,
    dynamics: Dynamics,
    prompts: UInt8[Tensor, "p 3 h w"],
    out: Path,
) -> None:
    """Combine trained nets, measure what their actions do, and write a checkpoint folder.

    If the folder has this world already, it stays as it is, with all that was added since.
    """
    world = World(config)
    world.tokenizer.load_state_dict(tokenizer.state_dict())
    world.latent_action.load_state_dict(latent_action.state_dict())
    world.dynamics.load_state_dict(dynamics.state_dict())
    _round(world)  # the run folder keeps the weights in float32
    if not _holds(out, world):
        (out / legend.FILE_NAME).unlink(missing_ok=True)  # of an earlier world in this folder
        world.save_pretrained(out, torch.float16)
        _save_prompts(prompts[:: -(-len(prompts) // SAVED_PROMPTS)], out / "prompts")
        write_legend(World.from_pretrained(out), prompts, out)
    print(f"world written to {out}; play it: {_play_command(out)}")


@torch.no_grad()
def _round(world: World) -> None:
    """Side effect: the world's weights are those that half precision keeps."""
    for tensor in world.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def _holds(folder: Path, world: World) -> bool:
    """Whether a folder has all that `save_world` writes of this very world."""
    if not (folder / legend.FILE_NAME).is_file():  # it is written last
        return False
    try:
        found = World.from_pretrained(folder)
    except UserError:
        return False
    return found.fingerprint == world.fingerprint


def _play_command(world: Path) -> str:
    return f"{python_name()} -m play --world {quote(str(world))}"


def _save_prompts(prompts: UInt8[Tensor, "p 3 h w"], folder: Path) -> None:
    """Write pictures to start from, so that a new world can be played at once."""
    folder.mkdir(exist_ok=True)
    for number, prompt in enumerate(prompts, start=1):
        video.write_image(folder / f"{number}.png", to_pictures(prompt))


if __name__ == "__main__":
    with one_line_errors():
        main(
            parse(
                presets_of("dynamics"),
                "Stage 3: train the dynamics model and put the world together.",
            )
        )
