"""How a net in training does on held-out videos: pictures, and figures of rollouts.

In: a net after some steps. Out: PNG and GIF files, if a folder is given, and figures of
free-running rollouts. There is one class per stage, which the training loop calls at every
evaluation; nothing is trained here.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from genie.data.clips import Clips, FrameStore
from genie.dynamics import Dynamics
from genie.errors import UserError
from genie.frames import to_float, to_uint8
from genie.latent_action import LatentActionModel
from genie.machine import best_device
from genie.metrics import psnr
from genie.st_latent_action import STLatentActionModel
from genie.tokenizer import Tokenizer
from genie.world import World, WorldConfig
from train.measure import metrics
from train.measure.pictures import contact_sheet, draw_actions, png, write
from train.measure.rollouts import HISTORY, draw_clips, infer, roll

NUM_CLIPS = 16
NUM_SHOWN = 3
HORIZON = 8
STEP = 4  # frames after the prompt at which rollouts are measured, as in the paper


@dataclass(frozen=True)
class TokenizerJudge:
    """Shows held-out clips beside what the tokenizer reconstructs of them."""

    store: FrameStore
    num_frames: int

    @torch.no_grad()
    def __call__(self, net: Tokenizer, folder: Path | None) -> dict[str, float]:
        """Draw `reconstructions.png`; there are no further figures."""
        if folder is None:
            return {}
        clips = _clips(self.store, self.num_frames)
        frames = to_float(clips.to(_device(net)))
        kept = to_uint8(net.decode(net.encode(frames))).cpu()
        rows = torch.stack([clips, kept], dim=1).flatten(0, 1)
        names = [f"clip {n}\n{what}" for n in range(1, len(clips) + 1) for what in ("real", "kept")]
        times = [str(time) for time in range(clips.shape[1])]
        write(folder / "reconstructions.png", png(contact_sheet(rows, names, times)))
        return {}


@dataclass(frozen=True)
class LatentActionJudge:
    """Shows the next frame that the latent action model predicts for each action."""

    store: FrameStore
    num_frames: int

    @torch.no_grad()
    def __call__(
        self, net: LatentActionModel | STLatentActionModel, folder: Path | None
    ) -> dict[str, float]:
        """Draw `actions.png`; there are no further figures."""
        if folder is None:
            return {}
        clips = _clips(self.store, self.num_frames)
        frames = to_float(clips.to(_device(net)))
        past, inferred = frames[:, :-1], net.infer(frames)
        expected = []
        for action in range(net.config.num_actions):
            actions = inferred.clone()
            actions[:, -1] = action
            expected.append(to_uint8(net.predict(past, actions)[:, -1]).cpu())
        rows = torch.stack([clips[:, -2], clips[:, -1], *expected], dim=1)
        names = [f"clip {n}" for n in range(1, len(clips) + 1)]
        columns = ["now", "next", *(f"action {action}" for action in range(len(expected)))]
        write(folder / "actions.png", png(contact_sheet(rows, names, columns)))
        return {}


@dataclass(frozen=True)
class DynamicsJudge:
    """Measures free-running rollouts from held-out frames, and shows what each action does."""

    store: FrameStore
    world: World
    """The finished tokenizer and latent action model with a copy of the dynamics."""

    @torch.no_grad()
    def __call__(self, net: Dynamics, folder: Path | None) -> dict[str, float]:
        """Draw `actions.png` and `actions.gif`; return PSNRs after `STEP` frames, in dB."""
        # Only the weights are copied: the blocks of the net in training may be compiled.
        self.world.dynamics.load_state_dict(net.state_dict())
        clips, _ = draw_clips(self.store, NUM_CLIPS, HORIZON, seed=0)
        if folder is not None:
            draw_actions(self.world, clips[:NUM_SHOWN, HISTORY], folder, horizon=HORIZON, seed=0)
        return self._figures(clips)

    def _figures(self, clips: torch.Tensor) -> dict[str, float]:
        prompts, truth = clips[:, HISTORY], clips[:, HISTORY + STEP]
        inferred = infer(self.world, clips)[:, HISTORY : HISTORY + STEP]
        generator = torch.Generator().manual_seed(0)
        random = torch.randint(self.world.num_actions, inferred.shape, generator=generator)
        by_inferred, by_random, copied, wanted = map(
            to_float,
            (
                roll(self.world, prompts, inferred, 0, "judging")[:, -1],
                roll(self.world, prompts, random, 0, "judging")[:, -1],
                prompts,
                truth,
            ),
        )
        return {
            f"rollout_psnr_{STEP}": psnr(by_inferred, wanted).mean().item(),
            f"rollout_copy_psnr_{STEP}": psnr(copied, wanted).mean().item(),
            f"delta_psnr_{STEP}": metrics.delta_psnr(wanted, by_inferred, by_random).mean().item(),
        }


def dynamics_judge(
    config: WorldConfig,
    tokenizer: Tokenizer,
    latent_action: LatentActionModel | STLatentActionModel,
    store: FrameStore,
) -> DynamicsJudge | None:
    """Make the judge of a dynamics with these encoders; None if no video is long enough."""
    try:
        draw_clips(store, 1, HORIZON, seed=0)
    except UserError:
        return None
    world = World(config, name="in training")
    world.tokenizer, world.latent_action = tokenizer, latent_action
    return DynamicsJudge(store, world.to(best_device()))


def _clips(store: FrameStore, num_frames: int) -> torch.Tensor:
    """A few clips, spread over the split."""
    clips = Clips(store, num_frames)
    chosen = torch.linspace(0, len(clips) - 1, min(NUM_SHOWN, len(clips))).long().tolist()
    return torch.stack([clips[index] for index in chosen])


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device
