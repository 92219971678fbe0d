"""From latent actions to buttons, learnt from a few labelled transitions.

In: latent actions with the buttons that were pressed, and what a net knows of the pictures. Out:
probabilities of the buttons. Plays nothing.
"""

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int


class Mapping(Protocol):
    """Latent actions to buttons, learnt from labelled transitions."""

    def shares(
        self, latents: Int[np.ndarray, " b"], features: Float[np.ndarray, "b f"]
    ) -> Float[np.ndarray, "b buttons"]:
        """Probabilities of the buttons. Args: features: of the pictures, by the clone."""


class Dictionary:
    """Each latent action stands for the buttons that its labels show, in their proportions.

    Source: Genie, section 3.3. One that no label shows stands for all buttons alike.
    """

    def __init__(
        self, latents: Int[np.ndarray, " n"], buttons: Int[np.ndarray, " n"], sizes: tuple[int, int]
    ) -> None:
        """Args: latents, buttons: of labelled transitions. sizes: how many there are of both."""
        counts = np.zeros(sizes)
        np.add.at(counts, (latents, buttons), 1)
        counts[counts.sum(axis=1) == 0] = 1
        self._shares = counts / counts.sum(axis=1, keepdims=True)

    def shares(
        self, latents: Int[np.ndarray, " b"], features: Float[np.ndarray, "b f"]
    ) -> Float[np.ndarray, "b buttons"]:
        """See `Mapping`."""
        return self._shares[latents]
