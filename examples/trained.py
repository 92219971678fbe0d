"""A player that was trained by `learning.py`, from its file.

In: a file. Out: the probabilities of what it does in each picture. Learns nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
from acting import Shares
from jaxtyping import Float, UInt8

from genie.errors import UserError

PLACE = "learnt_in"  # the name under which a player's file says where it has learnt


def load(path: Path, place: str, num_choices: int) -> Shares:
    """Load a player's net.

    Args:
        path: the file that `learning.save` wrote.
        place: where it must have learnt, see `learning.save`.
        num_choices: button combinations of the game in which it has learnt or latent actions of the
            world.

    Raises:
        UserError: if there is no such player, or it has learnt elsewhere.
    """
    import torch
    from baselines import PPO

    if not path.is_file():
        raise UserError(f"there is no file {path}: train a player with examples/expert.py")
    try:
        loaded = PPO.load(path, device="cpu")
    except Exception as error:  # pickle, zip, JSON and torch each have their own
        raise UserError(f"{path} holds no player: train one with examples/expert.py") from error
    learnt_in = getattr(loaded, PLACE, None)
    if learnt_in != place or getattr(loaded.action_space, "n", None) != num_choices:
        raise UserError(
            f"the player {path} has learnt in {learnt_in}, not in {place}: train one there"
        )

    @torch.inference_mode()
    def shares(seen: UInt8[np.ndarray, "n 6 h w"]) -> Float[np.ndarray, "n k"]:
        inputs, _ = loaded.policy.obs_to_tensor(seen)
        distribution: Any = loaded.policy.get_distribution(inputs).distribution
        return distribution.probs.double().numpy()

    return shares
