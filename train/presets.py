"""All presets on one page: what each of their stages trains, for how long, and with what result.

A preset consists of Python values; each field is also a flag of the stage's command.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import tyro

from genie.codebook import CodebookConfig
from genie.dynamics import DynamicsConfig
from genie.errors import UserError
from genie.latent_action import LatentActionConfig
from genie.sampling import SamplingConfig
from genie.st_latent_action import STLatentActionConfig
from genie.tokenizer import TokenizerConfig
from train.loop.config import LoopConfig

Config = TypeVar("Config")
DEFAULT_PRESET = "nano"


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Flags that every stage has."""

    data: str = "runs/world/data"
    """Prepared folder (python -m train.prepare); a remote one, such as hf://datasets/owner/name or
    s3://bucket/folder, is streamed."""
    run: Path = Path("runs/world")
    """Run folder, in which every stage has its own folder. Repeat the command to resume."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """World to start from, such as checkpoints/coinrun: its nets, with their shapes, are trained
    further on the new videos."""
    replay: str | None = None
    """Prepared folder of the world's old game, so that it is not forgotten (with --from)."""
    replay_share: float = 0.25
    """Share of every step's clips that comes from --replay."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    minutes: float = 0
    """Train for about so many minutes on this machine instead of --loop.num-steps: steps are timed
    first, and their number is written down, so that the run can be resumed and repeated."""
    until: float = 0
    """Train until so many seconds after the start of this command, imports included, instead of
    --loop.num-steps: the learning rate follows the clock, no step is timed beforehand, and weights
    are written every minute. At least a tenth of the time is spent on training. The run can be
    resumed, but not repeated bit by bit."""
    compile_cache: Path | None = None
    """File that keeps compiled code (with --loop.compile): the next run on such a device loads it
    from there."""
    clip_frames: int
    """Frames in a training clip."""
    loop: LoopConfig
    """How the net is trained."""


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


@dataclass(frozen=True, kw_only=True)
class LatentActionStage(StageConfig):
    """Train the latent action model."""

    clip_frames: int = 6
    """Frames in a training clip; it trains all transitions that have a full history before them."""
    model: tyro.conf.AvoidSubcommands[LatentActionConfig | STLatentActionConfig] = field(
        default_factory=LatentActionConfig
    )
    """Shape of the net; height and width come from the data."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(num_steps=4600, batch_size=16, learning_rate=1e-3)
    )
    """How it is trained."""


@dataclass(frozen=True, kw_only=True)
class DynamicsStage(StageConfig):
    """Train the dynamics model and put the world together."""

    out: Path | None = None
    """Folder of the finished world; default: world in the run folder."""
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


AnyStage = TokenizerStage | LatentActionStage | DynamicsStage


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The three stages of one size."""

    tokenizer: TokenizerStage
    """Stage 1."""
    latent_action: LatentActionStage
    """Stage 2."""
    dynamics: DynamicsStage
    """Stage 3."""


PRESETS = {
    # A minute on any machine, to see that everything runs; its worlds are noise.
    "tiny": Preset(
        tokenizer=TokenizerStage(
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
        latent_action=LatentActionStage(
            clip_frames=4,
            model=LatentActionConfig(num_actions=5, history=2, dim=16, code_dim=4),
            loop=LoopConfig(num_steps=300, batch_size=16, learning_rate=3e-3, warmup_steps=10),
        ),
        dynamics=DynamicsStage(
            clip_frames=6,
            model=DynamicsConfig(dim=32, num_blocks=2, num_heads=2, window=4),
            loop=LoopConfig(num_steps=60, batch_size=4, learning_rate=3e-3, warmup_steps=10),
        ),
    ),
    # An hour on two CPU cores; for its results see checkpoints/coinrun and checkpoints/ninja.
    "nano": Preset(
        tokenizer=TokenizerStage(),
        latent_action=LatentActionStage(),
        dynamics=DynamicsStage(),
    ),
    # From a finished world to another game in half an hour on two CPU cores: see train/README.md.
    "finetune": Preset(
        tokenizer=TokenizerStage(
            loop=LoopConfig(
                num_steps=900, batch_size=4, learning_rate=6e-4, average=0.99, optimizer="adamw"
            )
        ),
        latent_action=LatentActionStage(
            loop=LoopConfig(num_steps=900, batch_size=16, learning_rate=5e-4, optimizer="adamw")
        ),
        dynamics=DynamicsStage(
            loop=LoopConfig(
                num_steps=1000, batch_size=4, learning_rate=6e-4, average=0.99, optimizer="adamw"
            )
        ),
    ),
    # A full game in a quarter of an hour on one GPU (`--until 780`), in a world that still plays on
    # two CPU cores: 256 tokens a frame show a background, but the dynamics is no larger than
    # nano's. Not run yet.
    "quarter": Preset(
        tokenizer=TokenizerStage(
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
        latent_action=LatentActionStage(
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
        dynamics=DynamicsStage(
            clip_frames=16,
            model=DynamicsConfig(window=12),
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
    ),
    # Several games in one world that still plays on two CPU cores; a quarter of an hour on one GPU.
    # Not run yet.
    "platformers": Preset(
        tokenizer=TokenizerStage(
            clip_frames=16,
            model=TokenizerConfig(
                patch_size=4, dim=256, encoder_blocks=3, decoder_blocks=5, window=8
            ),
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
        latent_action=LatentActionStage(
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
        dynamics=DynamicsStage(
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
    ),
    # Not run yet.
    "base": Preset(
        tokenizer=TokenizerStage(
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
        latent_action=LatentActionStage(
            clip_frames=8,
            model=LatentActionConfig(dim=96),
            loop=LoopConfig(num_steps=20_000, batch_size=64, learning_rate=6e-4, num_workers=6),
        ),
        dynamics=DynamicsStage(
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
    ),
    # Genie, appendix F, tables 15 and 8, 16 and 9, 17 and 9. The tokenizer's cosine is printed with
    # equal ends, which makes the learning rate constant. Not run yet.
    "paper": Preset(
        tokenizer=TokenizerStage(
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
        latent_action=LatentActionStage(
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
        dynamics=DynamicsStage(
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
            sampling=SamplingConfig(
                maskgit_steps=25,
                temperature=1.0,
                choice_temperature=1.0,
                entropy_bound=0.0,
                guidance=1.0,
            ),
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
    ),
}


@overload
def presets_of(stage: Literal["tokenizer"]) -> dict[str, TokenizerStage]: ...
@overload
def presets_of(stage: Literal["latent_action"]) -> dict[str, LatentActionStage]: ...
@overload
def presets_of(stage: Literal["dynamics"]) -> dict[str, DynamicsStage]: ...
def presets_of(stage: str) -> dict[str, Any]:
    """One stage of every preset, by the preset's name."""
    return {name: getattr(preset, stage) for name, preset in PRESETS.items()}


def parse(presets: Mapping[str, Config], description: str, args: list[str] | None = None) -> Config:
    """Read the flags: --preset chooses the defaults, and every other flag replaces one of them."""
    args = list(sys.argv[1:] if args is None else args)
    name = _take_preset(args)
    if name not in presets:
        raise UserError(f"no preset {name!r}: choose one of {', '.join(presets)}")
    description = f"{description}\n\n--preset {{{','.join(presets)}}} chooses the defaults below."
    return tyro.cli(type(presets[name]), default=presets[name], args=args, description=description)


def _take_preset(args: list[str]) -> str:
    for index, arg in enumerate(args):
        if arg == "--preset":
            if index + 1 == len(args):
                raise UserError("--preset wants a name")
            name = args[index + 1]
            del args[index : index + 2]
            return name
        if arg.startswith("--preset="):
            del args[index]
            return arg.removeprefix("--preset=")
    return DEFAULT_PRESET
