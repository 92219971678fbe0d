"""All figures of a world on the held-out videos of one game.

In: a world and the clips to measure it on. Out: `Figures`, dataclasses of numbers, and pictures.
Rollouts are free-running: besides the prompt frame, the world gets only the latent actions that it
infers from the true video. The same seed gives the same figures, except for the latency.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from genie.data.clips import FrameStore
from genie.playable import Playable
from genie.world import World
from train.measure.figures import (
    ActionUse,
    Estimate,
    FirstFrames,
    HeldActions,
    Latency,
    Likeness,
    RolloutStep,
    delta_psnr_figures,
    first_frames,
    held_action_figures,
    latency_figures,
    latent_action_figures,
    likeness,
    rollout_figures,
)
from train.measure.long_rollouts import (
    LongFigures,
    long_figures,
    longest_scenes,
    play_on,
    run_on,
    steps_to_look_at,
)
from train.measure.networks import NetworkFigures, Supplied
from train.measure.pictures import draw_long, draw_pictures
from train.measure.rollouts import HISTORY, draw_rows, infer, read_clips, reconstruct, roll
from train.measure.true_actions import Agreement, TrueActions, true_action_figures

NUM_HELD_PROMPTS = 32


@dataclass(frozen=True)
class ClipChoice:
    """Which held-out clips of one game a world is measured on."""

    store: FrameStore
    rows: Int[np.ndarray, " b"]
    """Rows of the store at which the clips begin, their history included."""
    scenes: Int[np.ndarray, " f"]
    """Numbers of the scenes from whose beginning long rollouts start."""
    horizon: int
    """Frames to generate from each prompt frame."""
    seed: int
    """Draws random actions and the sampler's noise."""

    @property
    def facts(self) -> "Facts":
        """What must be equal for figures to be comparable."""
        data = self.store.split_fingerprint
        return Facts(data=data, num_clips=len(self.rows), horizon=self.horizon, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What must be equal for the figures of two worlds to be comparable."""

    data: str
    """Fingerprint of the held-out videos."""
    num_clips: int
    horizon: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of a world on the held-out videos of one game."""

    clips: Facts
    num_videos: int
    """Number of videos that the clips come from."""
    tokenizer: Likeness
    """Of true frames, encoded and decoded."""
    rollout: dict[int, RolloutStep]
    """By the number of frames since the prompt."""
    first_frames: FirstFrames
    networks: NetworkFigures
    delta_psnr: dict[int, Estimate]
    """dB, by the number of frames since the prompt: the paper's controllability."""
    latent_action: ActionUse
    true_actions: dict[str, Agreement] | None
    """By labelling, see `TrueActions.merges`; None if the true actions are unknown."""
    held_actions: HeldActions
    long: LongFigures | None
    """None if there were no long rollouts."""
    latency: Latency


def draw_choice(
    store: FrameStore, num_clips: int = 256, horizon: int = 15, seed: int = 0
) -> ClipChoice:
    """Draw clips by the seed, or all if there are fewer, and choose the longest scenes.

    Raises:
        UserError: if no video is long enough.
    """
    rows = draw_rows(store, num_clips, horizon, seed)
    return ClipChoice(store, rows, longest_scenes(store), horizon, seed)


@torch.no_grad()
def evaluate(
    world: World,
    choice: ClipChoice,
    truth: TrueActions | None = None,
    *,
    supplied: Supplied | None = None,
    long_steps: int = 0,
    pictures: Path | None = None,
    player: Playable | None = None,
) -> Figures:
    """Measure `world` on held-out videos.

    Args:
        world: in evaluation mode.
        choice: videos and clips, of the world's frame size.
        truth: the buttons that were pressed; None leaves out NMI and probe.
        supplied: networks for LPIPS, FID and FVD.
        long_steps: length of the long rollouts in frames; none below 10.
        pictures: folder for pictures; None draws none.
        player: the world as play opens it, to measure its latency; None measures `world`'s.

    Raises:
        UserError: if the true actions do not belong to these videos, or are too few; if a supplied
            network does not accept the frames.
    """
    store, horizon, seed = choice.store, choice.horizon, choice.seed
    true_actions = true_action_figures(world, store, truth, horizon, seed) if truth else None
    clips, video_ids = read_clips(store, choice.rows, horizon)
    rendered = reconstruct(world, clips)
    actions = infer(world, clips)
    prompts, future = clips[:, HISTORY], clips[:, HISTORY + 1 :]
    generated = roll(world, prompts, actions[:, HISTORY:], seed, "rollout")
    networks = (supplied or Supplied()).figures(generated, future, prompts)
    steps = steps_to_look_at(long_steps)
    films = (world, store, choice.scenes, steps, seed)
    long_run = run_on(*films) if steps else None
    by_prior = play_on(*films) if steps and world.has_prior else None
    if pictures:
        (pictures / "long.png").unlink(missing_ok=True)  # of an earlier evaluation
        draw_pictures(world, clips[:, HISTORY:], generated, pictures, seed=seed)
    if pictures and long_run:
        draw_long(long_run.windows, pictures)
    rollout = rollout_figures(generated, future, prompts, rendered[:, HISTORY + 1 :], video_ids)
    return Figures(
        clips=choice.facts,
        num_videos=len(np.unique(video_ids)),
        tokenizer=likeness(rendered.flatten(0, 1), clips.flatten(0, 1)),
        rollout=rollout,
        first_frames=first_frames(rollout),
        networks=networks,
        delta_psnr=delta_psnr_figures(world, generated, future, prompts, video_ids, seed),
        latent_action=latent_action_figures(clips, actions, world.num_actions),
        true_actions=true_actions,
        held_actions=held_action_figures(world, prompts[:NUM_HELD_PROMPTS], seed),
        long=long_figures(world, store, long_run, seed, by_prior) if long_run else None,
        latency=latency_figures(player or world, prompts[0], seed),
    )
