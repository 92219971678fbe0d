"""Stage 1: train the video tokenizer. `accelerate launch train/tokenizer.py --data DIR`."""

from genie.tokenizer import Tokenizer
from train.errors import one_line_errors
from train.loop.previews import TokenizerJudge
from train.presets import TokenizerStage, parse, presets_of
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


def main(config: TokenizerStage) -> dict[str, float]:
    """Train or resume training, and return the held-out metrics.

    Raises:
        UserError: if the codebook has collapsed.
    """
    set_up(config)
    stores = open_stores(config)
    replay = open_replay(config)
    height, width = stores[0].size
    model = fit(starting_model(config, "tokenizer"), height=height, width=width)
    trainer = make_trainer(
        config,
        "tokenizer",
        starting_net(config, "tokenizer", Tokenizer(model)),
        stores,
        replay,
        judge=TokenizerJudge(stores[1], config.clip_frames),
        advise=advise,
        model=model,
        data=data_fingerprint(stores[0], replay),
    )
    return run_to_end(config, trainer)


def advise(metrics: dict[str, float]) -> str:
    """Say what to do if hardly any code of the codebook is used; "" if many are."""
    perplexity = metrics["perplexity"]
    if perplexity >= COLLAPSED_PERPLEXITY:
        return ""
    return (
        f"the tokenizer's codebook collapsed (perplexity {perplexity:.2f}): check that the videos "
        "show more than one picture, lower --loop.learning-rate, or use --model.codebook.kind fsq"
    )


if __name__ == "__main__":
    with one_line_errors():
        main(parse(presets_of("tokenizer"), "Stage 1: train the video tokenizer."))
