"""Stage 3: train the dynamics on stored tokens. `accelerate launch train/dynamics.py --data DIR`.

Tokens and actions are computed once by the two finished stages and stored in the run folder; the
training step sees no encoder. At the end the three nets are put together into a world.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tqdm import tqdm

from genie import video
from genie.checkpoint import config_from_dict
from genie.data import Clips, FrameStore, TokenStore
from genie.dynamics import Dynamics, DynamicsConfig
from genie.latent_action import LatentActionConfig, LatentActionModel
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel
from genie.tokenizer import Tokenizer, TokenizerConfig
from genie.world import (
    SamplingConfig,
    World,
    WorldConfig,
    make_latent_action,
)
from train.loop import LoopConfig, Trainer, describe, has_fast_bf16, load_finished, read_description
from train.stage import StageConfig, one_line_errors, open_stores, parse, set_up

# Frames encoded at once, and frames before them that only warm up the temporal attention.
ENCODE_FRAMES, LEAD_FRAMES = 120, 8

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
        default_factory=lambda: LoopConfig(num_steps=3300, batch_size=4, learning_rate=8e-4)
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
        ),
        sampling=SamplingConfig(maskgit_steps=25, temperature=1.0),
        loop=LoopConfig(
            num_steps=200_000,
            batch_size=36,
            learning_rate=3e-5,
            final_learning_rate=3e-6,
            schedule="cosine",
            warmup_steps=5_000,
            betas=(0.9, 0.9),
            compile=True,
            num_workers=4,
        ),
    ),
}


def main(config: DynamicsStage) -> dict[str, float]:
    """Train, or go on training, then write the world; gives the held-out metrics."""
    set_up(config, config.loop.seed)
    stores = open_stores(config)
    tokenizer, latent_action = load_encoders(config.run)
    train, heldout = (
        encode_split(tokenizer, latent_action, store, config.run / "tokens" / split)
        for store, split in zip(stores, ("train", "heldout"), strict=True)
    )
    model = replace(
        config.model,
        num_tokens=tokenizer.config.num_tokens,
        codebook_size=tokenizer.config.codebook.size,
        num_actions=latent_action.config.num_actions,
    )
    net = Dynamics(model)
    trainer = Trainer(
        net,
        Clips(train, config.clip_frames),
        Clips(heldout, config.clip_frames),
        config.loop,
        config.run / "dynamics",
        describe(
            model=model,
            loop=config.loop,
            clip_frames=config.clip_frames,
            tokens=_fingerprint(tokenizer, latent_action, stores[0]),
        ),
    )
    metrics = trainer.run()
    world = WorldConfig(
        tokenizer=tokenizer.config,
        latent_action=latent_action.config,
        dynamics=model,
        sampling=config.sampling,
        fps=stores[0].fps,
    )
    save_world(world, tokenizer, latent_action, net, config.out or config.run / "world")
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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer.to(device), latent_action.to(device)
    pieces = list(_pieces(store))
    for lead, start, stop in tqdm(pieces, desc=f"encode {folder.name}", mininterval=1):
        frames = video.to_float(store.read(lead, stop).to(device))[None]
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, has_fast_bf16()):
            tokens[start:stop] = tokenizer.encode(frames)[0, start - lead :].int().cpu()
            found = latent_action.infer(frames)[0].int().cpu()
        # The action into the first kept frame belongs to the row before it.
        first = max(lead, start - 1)
        actions[first : stop - 1] = found[first - lead :]
    made = TokenStore(tokens, actions, store.video_starts)
    made.save(folder, fingerprint)
    return made


def save_world(
    config: WorldConfig,
    tokenizer: Tokenizer,
    latent_action: ActionModel,
    dynamics: Dynamics,
    out: Path,
) -> None:
    """Put trained nets together and write them as a checkpoint folder."""
    world = World(config)
    world.tokenizer.load_state_dict(tokenizer.state_dict())
    world.latent_action.load_state_dict(latent_action.state_dict())
    world.dynamics.load_state_dict(dynamics.state_dict())
    world.save_pretrained(out)
    print(f"world written to {out}; play it: python -m play --world {out} --prompt IMAGE")


def _pieces(store: FrameStore) -> list[tuple[int, int, int]]:
    """(first row read, first row kept, end) of stretches that cover all videos."""
    pieces = []
    for first, end in zip(store.video_starts[:-1], store.video_starts[1:], strict=True):
        for start in range(int(first), int(end), ENCODE_FRAMES):
            stop = min(start + ENCODE_FRAMES, int(end))
            pieces.append((max(int(first), start - LEAD_FRAMES), start, stop))
    return pieces


def _fingerprint(tokenizer: Tokenizer, latent_action: ActionModel, store: FrameStore) -> str:
    digest = hashlib.sha256(store.fingerprint.encode())
    for net in (tokenizer, latent_action):
        for name, tensor in net.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    with one_line_errors():
        main(parse(PRESETS, "Stage 3: train the dynamics model and put the world together."))
