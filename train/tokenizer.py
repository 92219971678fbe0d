"""Stage 1: train the video tokenizer. `accelerate launch train/tokenizer.py --data DIR`."""

from dataclasses import dataclass, field

from genie.codebook import CodebookConfig
from genie.tokenizer import Tokenizer, TokenizerConfig
from train.errors import one_line_errors
from train.loop.config import LoopConfig
from train.loop.previews import TokenizerJudge
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


@dataclass(frozen=True, kw_only=True)
class TokenizerStage(StageConfig):
    """Train the video tokenizer."""

    clip_frames: int = 8
    """Frames in a training clip."""
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Shape of the net; height and width come from the data."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            num_steps=4200, batch_size=4, learning_rate=1e-3, average=0.99
        )
    )
    """How it is trained."""


PRESETS = {
    "tiny": TokenizerStage(
        clip_frames=4,
        model=TokenizerConfig(
            dim=32,
            encoder_blocks=1,
            decoder_blocks=1,
            num_heads=2,
            window=4,
            codebook=CodebookConfig(levels=(4, 4, 4)),
        ),
        loop=LoopConfig(num_steps=60, batch_size=4, learning_rate=3e-3, warmup_steps=10),
    ),
    "nano": TokenizerStage(),
    "finetune": TokenizerStage(
        loop=LoopConfig(
            num_steps=900, batch_size=4, learning_rate=6e-4, average=0.99, optimizer="adamw"
        )
    ),
    # A full game in a quarter of an hour of one GPU (`--until 780`), and yet a world that two CPU
    # cores play. 256 tokens a frame show a background; what they cost is saved on the dynamics,
    # which is no larger than nano's and has no guidance.
    "quarter": TokenizerStage(
        clip_frames=16,
        model=TokenizerConfig(
            patch_size=4, dim=192, encoder_blocks=3, decoder_blocks=4, num_heads=3, window=8
        ),
        loop=LoopConfig(
            num_steps=3_000,
            batch_size=32,
            learning_rate=1e-3,
            average=0.999,
            compile=True,
            pictures=False,
            evaluate_every=1_000,
            num_workers=6,
        ),
    ),
    # Several games in one world that still plays on two CPU cores; for a quarter of an hour's GPU.
    "platformers": TokenizerStage(
        clip_frames=16,
        model=TokenizerConfig(patch_size=4, dim=256, encoder_blocks=3, decoder_blocks=5, window=8),
        loop=LoopConfig(
            num_steps=6_000,
            batch_size=32,
            learning_rate=8e-4,
            average=0.999,
            compile=True,
            evaluate_every=2_000,
            save_every=1_000,
            num_workers=6,
        ),
    ),
    "base": TokenizerStage(
        clip_frames=16,
        model=TokenizerConfig(
            patch_size=4, dim=384, encoder_blocks=4, decoder_blocks=6, num_heads=6, window=8
        ),
        loop=LoopConfig(
            num_steps=12_000,
            batch_size=32,
            learning_rate=6e-4,
            average=0.999,
            compile=True,
            num_workers=6,
        ),
    ),
    # Genie, appendix F, tables 15 and 8. The printed cosine has equal ends: a constant rate.
    "paper": TokenizerStage(
        clip_frames=16,
        model=TokenizerConfig(
            patch_size=4,
            stem="linear",
            dim=512,
            encoder_blocks=8,
            decoder_blocks=8,
            num_heads=8,
            window=16,
            codebook=CodebookConfig(kind="vq", num_codes=1024, code_dim=32),
            changed_weight=0.0,
            absolute_weight=0.0,
        ),
        loop=LoopConfig(
            num_steps=300_000,
            batch_size=48,
            learning_rate=3e-4,
            final_learning_rate=3e-4,
            schedule="cosine",
            warmup_steps=10_000,
            optimizer="adamw",
            betas=(0.9, 0.9),
            compile=True,
            recompute=True,
            num_workers=6,
        ),
    ),
}


def main(config: TokenizerStage) -> dict[str, float]:
    """Train, or go on training; gives the held-out metrics.

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
    """What to do about a codebook of which hardly a code is in use; "" if all is well."""
    perplexity = metrics["perplexity"]
    if perplexity >= COLLAPSED_PERPLEXITY:
        return ""
    return (
        f"the tokenizer's codebook collapsed (perplexity {perplexity:.2f}): check that the videos "
        "show more than one picture, lower --loop.learning-rate, or take --model.codebook.kind fsq"
    )


if __name__ == "__main__":
    with one_line_errors():
        main(parse(PRESETS, "Stage 1: train the video tokenizer."))
