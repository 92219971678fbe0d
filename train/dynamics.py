"""Stage 3: train the dynamics on stored tokens. `accelerate launch train/dynamics.py --data DIR`.

Tokens and actions are computed once by the two finished stages and stored in the run folder; the
training step sees no encoder. At the end the three nets are put together into a world.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from genie import legend, video
from genie.checkpoint import check_folder, config_from_dict
from genie.data import FrameStore, TokenStore
from genie.dynamics import Dynamics, DynamicsConfig
from genie.errors import UserError
from genie.latent_action import LatentActionConfig, LatentActionModel
from genie.machine import autocast, best_device
from genie.session import SamplingConfig
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel
from genie.tokenizer import Tokenizer, TokenizerConfig
from genie.world import World, WorldConfig, make_latent_action
from train.config import LoopConfig
from train.run_folder import load_finished, read_description
from train.stage import StageConfig, fit, make_trainer, one_line_errors, open_stores, parse, set_up

ENCODE_FRAMES = 120  # encoded at once
LEGEND_PROMPTS = 64
SAVED_PROMPTS = 6

ActionModel = LatentActionModel | STLatentActionModel


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
        default_factory=lambda: LoopConfig(num_steps=3600, batch_size=4, learning_rate=8e-4)
    )
    """How it is trained."""


PRESETS = {
    "tiny": DynamicsStage(
        clip_frames=6,
        model=DynamicsConfig(dim=32, num_blocks=2, num_heads=2, window=4),
        loop=LoopConfig(num_steps=60, batch_size=4, learning_rate=3e-3, warmup_steps=10),
    ),
    "nano": DynamicsStage(),
    "base": DynamicsStage(
        clip_frames=16,
        model=DynamicsConfig(dim=512, num_blocks=8, num_heads=8, window=12),
        loop=LoopConfig(
            num_steps=15_000, batch_size=32, learning_rate=4e-4, compile=True, num_workers=4
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
    tokenizer, latent_action = load_encoders(config.run)
    tokens = tuple(
        encode_split(tokenizer, latent_action, store, config.run / "tokens" / split)
        for store, split in zip(stores, ("train", "heldout"), strict=True)
    )
    model = fit(
        config.model,
        num_tokens=tokenizer.config.num_tokens,
        codebook_size=tokenizer.config.codebook.size,
        num_actions=latent_action.config.num_actions,
    )
    world = WorldConfig(
        tokenizer=tokenizer.config,
        latent_action=latent_action.config,
        dynamics=model,
        sampling=config.sampling,
        fps=stores[0].fps,
    )
    net, fingerprint = Dynamics(model), _fingerprint(tokenizer, latent_action, stores[0])
    trainer = make_trainer(config, "dynamics", net, tokens, model=model, tokens=fingerprint)
    metrics = trainer.run()
    trainer.finish()
    save_world(world, tokenizer, latent_action, net, draw_prompts(stores[1]), out)
    return metrics


def load_encoders(run: Path) -> tuple[Tokenizer, ActionModel]:
    """The two finished stages of a run folder.

    Raises:
        UserError: if one has not finished.
    """
    nets = []
    for stage, kind, make in (
        ("tokenizer", TokenizerConfig, Tokenizer),
        ("latent_action", LatentActionConfig | STLatentActionConfig, make_latent_action),
    ):
        values = read_description(run / stage)["model"]
        net = make(config_from_dict(kind, values, where=str(run / stage / "config.json")))
        nets.append(load_finished(net, run / stage))
    return nets[0], nets[1]


def encode_split(
    tokenizer: Tokenizer, latent_action: ActionModel, store: FrameStore, folder: Path
) -> TokenStore:
    """Tokens and actions of a split: the stored ones if these nets made them, else computed."""
    fingerprint = _fingerprint(tokenizer, latent_action, store)
    stored = TokenStore.open(folder, fingerprint, store.video_starts)
    if stored is not None:
        return stored
    tokens = torch.zeros(len(store), tokenizer.config.num_tokens, dtype=torch.int32)
    actions = torch.zeros(len(store), dtype=torch.int32)
    device = best_device()
    tokenizer.to(device), latent_action.to(device)
    pieces = _pieces(store, max(tokenizer.config.reach, latent_action.config.reach))
    for lead, start, stop in tqdm(pieces, desc=f"encode {folder.name}", mininterval=1):
        frames = video.to_float(store.read(lead, stop).to(device))[None]
        with torch.inference_mode(), autocast(device):
            tokens[start:stop] = tokenizer.encode(frames)[0, start - lead :].int().cpu()
            found = latent_action.infer(frames)[0].int().cpu()
        # The action into the first kept frame belongs to the row before it.
        first = max(lead, start - 1)
        actions[first : stop - 1] = found[first - lead :]
    made = TokenStore(tokens, actions, store.video_starts)
    made.save(folder, fingerprint)
    return made


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
    legend.write_legend(World.from_pretrained(out), prompts, out)
    _save_prompts(prompts[:: -(-len(prompts) // SAVED_PROMPTS)], out / "prompts")
    print(f"world written to {out}; play it: python -m play --world {out}")


def _save_prompts(prompts: UInt8[Tensor, "p 3 h w"], folder: Path) -> None:
    """Pictures to start from, so that a new world can be played at once."""
    folder.mkdir(exist_ok=True)
    for number, prompt in enumerate(prompts, start=1):
        video.write_image(folder / f"{number}.png", prompt)


def _pieces(store: FrameStore, reach: int) -> list[tuple[int, int, int]]:
    """(first row read, first row kept, end) of stretches that cover all videos.

    What is read before the first row kept is all that can change how that row is encoded.
    """
    pieces = []
    for first, end in zip(store.video_starts[:-1], store.video_starts[1:], strict=True):
        for start in range(int(first), int(end), ENCODE_FRAMES):
            stop = min(start + ENCODE_FRAMES, int(end))
            pieces.append((max(int(first), start - reach), start, stop))
    return pieces


def _fingerprint(tokenizer: Tokenizer, latent_action: ActionModel, store: FrameStore) -> str:
    digest = hashlib.sha256(store.fingerprint.encode())
    for net in (tokenizer, latent_action):
        for name, tensor in net.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    with one_line_errors():
        main(parse(PRESETS, "Stage 3: train the dynamics model and put the world together."))
