"""Stage 3: train the dynamics on stored tokens. `accelerate launch train/dynamics.py --data DIR`.

Tokens and actions are those that `encode.py` stored in the run folder; the training step sees no
encoder. At the end the three nets are put together into a world.
"""

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import torch
from jaxtyping import UInt8
from torch import Tensor

from genie import legend, video
from genie.data.clips import FrameStore
from genie.dynamics import Dynamics, DynamicsConfig
from genie.errors import UserError
from genie.files import check_folder
from genie.frames import to_pictures
from genie.sampling import SamplingConfig
from genie.tokenizer import Tokenizer
from genie.world import World, WorldConfig, read_config
from train.encode import ActionModel, fingerprint, load_encoders, open_tokens
from train.errors import one_line_errors
from train.loop.config import LoopConfig
from train.loop.previews import dynamics_judge
from train.loop.provenance import python_name
from train.loop.run_folder import load_finished
from train.measure.effects import write_legend
from train.stage import (
    StageConfig,
    data_fingerprint,
    fit,
    make_trainer,
    open_replay,
    open_stores,
    parse,
    run_to_end,
    set_up,
    starting_model,
    starting_net,
)

LEGEND_PROMPTS = 64
SAVED_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class DynamicsStage(StageConfig):
    """Train the dynamics model and put the world together."""

    out: Path | None = None
    """Where the finished world goes; default: world in the run folder."""
    clip_frames: int = 12
    """Frames in a training clip."""
    model: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Shape of the net; tokens and actions come from the other two stages."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the finished world draws frames."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=3600, batch_size=4, learning_rate=8e-4, average=0.99
        )
    )
    """How it is trained."""


PRESETS = {
    "tiny": DynamicsStage(
        clip_frames=6,
        model=DynamicsConfig(dim=32, num_blocks=2, num_heads=2, window=4),
        loop=LoopConfig(num_steps=60, batch_size=4, learning_rate=3e-3, warmup_steps=10),
    ),
    "nano": DynamicsStage(),
    "finetune": DynamicsStage(
        loop=LoopConfig(
            num_steps=1000, batch_size=4, learning_rate=6e-4, average=0.99, optimizer="adamw"
        )
    ),
    "quarter": DynamicsStage(
        clip_frames=16,
        model=DynamicsConfig(window=12),
        sampling=SamplingConfig(guidance=1.0),
        loop=LoopConfig(
            num_steps=3_000,
            batch_size=32,
            learning_rate=1e-3,
            average=0.999,
            compile=True,
            pictures=False,
            evaluate_every=1_000,
            num_workers=4,
        ),
    ),
    "platformers": DynamicsStage(
        clip_frames=16,
        model=DynamicsConfig(dim=384, num_blocks=6, num_heads=6, window=12),
        loop=LoopConfig(
            num_steps=5_000,
            batch_size=32,
            learning_rate=6e-4,
            average=0.999,
            compile=True,
            evaluate_every=2_000,
            save_every=1_000,
            num_workers=4,
        ),
    ),
    "base": DynamicsStage(
        clip_frames=16,
        model=DynamicsConfig(dim=512, num_blocks=8, num_heads=8, window=12),
        loop=LoopConfig(
            num_steps=15_000,
            batch_size=32,
            learning_rate=4e-4,
            average=0.999,
            compile=True,
            num_workers=4,
        ),
    ),
    # Genie, appendix F, tables 17 and 9.
    "paper": DynamicsStage(
        clip_frames=16,
        model=DynamicsConfig(
            dim=512,
            num_blocks=12,
            num_heads=8,
            window=16,
            masking="clip",
            corruption=0.0,
            changed_weight=0.0,
            action_dropout=0.0,
        ),
        sampling=SamplingConfig(maskgit_steps=25, temperature=1.0, guidance=1.0),
        loop=LoopConfig(
            num_steps=200_000,
            batch_size=36,
            learning_rate=3e-5,
            final_learning_rate=3e-6,
            schedule="cosine",
            warmup_steps=5_000,
            optimizer="adamw",
            betas=(0.9, 0.9),
            compile=True,
            recompute=True,
            num_workers=4,
        ),
    ),
}


def main(config: DynamicsStage) -> dict[str, float]:
    """Train, or go on training, then write the world; gives the held-out metrics."""
    if config.clip_frames < 2:
        raise UserError(f"clip_frames is {config.clip_frames}: 2 or more is wanted")
    out = check_folder(config.out or config.run / "world")
    set_up(config)
    stores = open_stores(config)
    replay = open_replay(config)
    tokenizer, latent_action = load_encoders(config.run)
    tokens = [open_tokens(config, tokenizer, latent_action, store) for store in stores]
    replayed = open_tokens(config, tokenizer, latent_action, replay, "replay") if replay else None
    model = fit(
        starting_model(config, "dynamics"),
        num_tokens=tokenizer.config.num_tokens,
        codebook_size=tokenizer.config.codebook.size,
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
    """Frames spread evenly over a split, for the legend and to play from."""
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
    """Put trained nets together, find out what their actions do, and write a checkpoint folder."""
    world = World(config)
    world.tokenizer.load_state_dict(tokenizer.state_dict())
    world.latent_action.load_state_dict(latent_action.state_dict())
    world.dynamics.load_state_dict(dynamics.state_dict())
    (out / legend.FILE_NAME).unlink(missing_ok=True)  # of an earlier world in the same place
    world.save_pretrained(out, torch.float16)  # the run folder keeps them whole
    write_legend(World.from_pretrained(out), prompts, out)
    _save_prompts(prompts[:: -(-len(prompts) // SAVED_PROMPTS)], out / "prompts")
    print(f"world written to {out}; play it: {_play_command(out)}")


def _play_command(world: Path) -> str:
    return f"{python_name()} -m play --world {quote(str(world))}"


def _save_prompts(prompts: UInt8[Tensor, "p 3 h w"], folder: Path) -> None:
    """Pictures to start from, so that a new world can be played at once."""
    folder.mkdir(exist_ok=True)
    for number, prompt in enumerate(prompts, start=1):
        video.write_image(folder / f"{number}.png", to_pictures(prompt))


if __name__ == "__main__":
    with one_line_errors():
        main(parse(PRESETS, "Stage 3: train the dynamics model and put the world together."))
