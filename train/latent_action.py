"""Stage 2: train the latent action model. `accelerate launch train/latent_action.py --data DIR`."""

from genie.errors import UserError
from genie.world import make_latent_action
from train.errors import one_line_errors
from train.loop.previews import LatentActionJudge
from train.presets import LatentActionStage, parse, presets_of
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

COLLAPSED_PERPLEXITY = 1.5
COLLAPSED_DELTA_PSNR = 0.1


def main(config: LatentActionStage) -> dict[str, float]:
    """Train or resume training, and return the held-out metrics.

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
    """Say what to do if the latent actions carry no information; "" if they do."""
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
        main(parse(presets_of("latent_action"), "Stage 2: train the latent action model."))
