"""The recording of a real game, with what a world sees in it.

In: a recording with its true buttons, and a world. Out: latents, features and buttons by row.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from arena import Arena, read_recording
from guessing import guess
from jaxtyping import Float, Int
from latents import features, latent_actions
from mapping import Dictionary
from torch import Tensor

from genie.data.card import is_prepared
from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.world import World
from train.measure.true_actions import TrueActions


@dataclass(frozen=True)
class Transitions:
    """Each row is a frame, and leads to the next one."""

    store: FrameStore
    world: World
    latents: Int[Tensor, " rows"]
    """The latent action that led to the next frame; -1 if there is none."""
    buttons: Int[Tensor, " rows"]
    """The true buttons, likewise."""
    sizes: tuple[int, int]
    """The number of latent actions and of button combinations."""
    arena: Arena

    @classmethod
    def open(cls, recording: Path, folder: Path, num_labels: int) -> "Transitions":
        """Read a recording.

        Args:
            recording: its folder, by examples/record_game.py --arrays.
            folder: of the world that names the latent actions.
            num_labels: transitions that there must be.

        Raises:
            UserError: if a folder does not hold what it should, or they do not fit, or there are
                fewer transitions.
        """
        arena = Arena.of(recording)
        names = read_recording(recording).get("true_actions", [])
        if not is_prepared(recording):
            raise UserError(f"{recording} holds videos: record with --arrays")
        store = FrameStore.open(recording, "train")
        world = World.from_pretrained(folder)
        if store.size != world.size:
            raise UserError(
                f"frames of {recording} are {store.size}, those of {folder} {world.size}: "
                "give a world of this game"
            )
        starts = np.asarray(store.scene_starts)
        true = TrueActions.open(recording / "true_actions.npz").of_store(store)
        true[starts[1:] - 1] = -1  # nothing leads from one scene to the next
        num_transitions = int((true >= 0).sum())
        if num_transitions < num_labels:
            raise UserError(
                f"--labels asks for {num_labels}, {recording} has {num_transitions} transitions: "
                "record more --frames"
            )
        latents = latent_actions(world, store.read, starts.tolist())
        return cls(store, world, latents, true, (world.num_actions, len(names)), arena)

    @cached_property
    def rows(self) -> Int[Tensor, " n"]:
        """Frames that have a next one."""
        return (self.buttons >= 0).nonzero()[:, 0]

    @cached_property
    def features(self) -> Float[Tensor, "rows f"]:
        """What the world sees around the transition to the next frame, see `latents.features`."""
        return features(self.world, self.store.read, np.asarray(self.store.scene_starts).tolist())

    def guesses(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "rows k"]:
        """Probabilities of the buttons in all transitions, by the labels of these rows."""
        labels = self.buttons[rows].numpy()
        shares = guess(self.features.numpy(), rows.numpy(), labels, self.sizes[1])
        return torch.from_numpy(shares)

    def dictionary(self, rows: Int[Tensor, " n"]) -> Dictionary:
        """What the latent actions stand for, by the labels of these rows."""
        return Dictionary(self.latents[rows].numpy(), self.buttons[rows].numpy(), self.sizes)
