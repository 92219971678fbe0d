"""Stage 2: train the latent action model. `accelerate launch train/latent_action.py --data DIR`."""

from dataclasses import dataclass, field

import tyro

from genie.errors import UserError
from genie.latent_action import LatentActionConfig
from genie.st_latent_action import STLatentActionConfig
from genie.world import make_latent_action
from train.errors import one_line_errors
from train.loop.config import LoopConfig
from train.loop.previews import LatentActionJudge
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

COLLAPSED_PERPLEXITY = 1.5
COLLAPSED_DELTA_PSNR = 0.1


@dataclass(frozen=True, kw_only=True)
class LatentActionStage(StageConfig):
    """Train the latent action model."""

    clip_frames: int = 6
    """Frames in a training clip; all transitions with a full history behind them are learnt."""
    model: tyro.conf.AvoidSubcommands[LatentActionConfig | STLatentActionConfig] = field(
        default_factory=LatentActionConfig
    )
    """Shape of the net; height and width come from the data."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(num_steps=4600, batch_size=16, learning_rate=1e-3)
    )
    """How it is trained."""


PRESETS = {
    "tiny": LatentActionStage(
        clip_frames=4,
        model=LatentActionConfig(num_actions=5, history=2, dim=16, code_dim=4),
        loop=LoopConfig(num_steps=300, batch_size=16, learning_rate=3e-3, warmup_steps=10),
    ),
    "nano": LatentActionStage(),
    "finetune": LatentActionStage(
        loop=LoopConfig(num_steps=900, batch_size=16, learning_rate=5e-4, optimizer="adamw")
    ),
    "quarter": LatentActionStage(
        clip_frames=8,
        model=LatentActionConfig(dim=48),
        loop=LoopConfig(
            num_steps=6_000,
            batch_size=128,
            learning_rate=1e-3,
            compile=True,
            pictures=False,
            evaluate_every=1_000,
            num_workers=6,
        ),
    ),
    "platformers": LatentActionStage(
        clip_frames=8,
        model=LatentActionConfig(dim=64),
        loop=LoopConfig(
            num_steps=8_000,
            batch_size=64,
            learning_rate=8e-4,
            evaluate_every=2_000,
            save_every=1_000,
            num_workers=6,
        ),
    ),
    "base": LatentActionStage(
        clip_frames=8,
        model=LatentActionConfig(dim=96),
        loop=LoopConfig(num_steps=20_000, batch_size=64, learning_rate=6e-4, num_workers=6),
    ),
    # Genie, appendix F, tables 16 and 9.
    "paper": LatentActionStage(
        clip_frames=16,
        model=STLatentActionConfig(),
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
            num_workers=6,
        ),
    ),
}


def main(config: LatentActionStage) -> dict[str, float]:
    """Train, or go on training; gives the held-out metrics.

    Raises:
        UserError: if the actions have collapsed, so that no dynamics is trained on them.
    """
    set_up(config)
    stores = open_stores(config)
    replay = open_replay(config)
    height, width = stores[0].size
    model = fit(starting_model(config, "latent_action"), height=height, width=width)
    if config.clip_frames < model.shortest_clip:
        raise UserError(
            f"clip_frames is {config.clip_frames}: {model.shortest_clip} or more is wanted"
        )
    trainer = make_trainer(
        config,
        "latent_action",
        starting_net(config, "latent_action", make_latent_action(model)),
        stores,
        replay,
        judge=LatentActionJudge(stores[1], config.clip_frames),
        advise=advise,
        model=model,
        data=data_fingerprint(stores[0], replay),
    )
    return run_to_end(config, trainer)


def advise(metrics: dict[str, float]) -> str:
    """What to do about actions that carry nothing; "" if all is well."""
    perplexity, delta = metrics["perplexity"], metrics["delta_psnr"]
    if perplexity >= COLLAPSED_PERPLEXITY and delta >= COLLAPSED_DELTA_PSNR:
        return ""
    return (
        f"the latent actions collapsed (perplexity {perplexity:.2f}, delta PSNR {delta:.2f} dB)"
        ": give more or more varied videos, or train longer in a new run folder with "
        "train/latent_action.py --loop.num-steps (or more --until)"
    )


if __name__ == "__main__":
    with one_line_errors():
        main(parse(PRESETS, "Stage 2: train the latent action model."))
