"""From latent actions to buttons, learnt from a few labelled transitions.

In: latent actions with the buttons that were pressed. Out: buttons, drawn. Plays nothing.
"""

import numpy as np
from jaxtyping import Float, Int


class Dictionary:
    """Each latent action stands for the buttons that its labels show, in their proportions.

    Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 3.3. A latent action that no label
    shows stands for all buttons alike.
    """

    def __init__(
        self, latents: Int[np.ndarray, " n"], buttons: Int[np.ndarray, " n"], sizes: tuple[int, int]
    ) -> None:
        """Args: latents, buttons: of labelled transitions. sizes: how many there are of both."""
        counts = np.zeros(sizes)
        np.add.at(counts, (latents, buttons), 1)
        counts[counts.sum(axis=1) == 0] = 1
        self.shares: Float[np.ndarray, "latents buttons"] = counts / counts.sum(
            axis=1, keepdims=True
        )
        """Probabilities of the buttons by latent action."""

    def draw(
        self, latents: Int[np.ndarray, " b"], generator: np.random.Generator
    ) -> Int[np.ndarray, " b"]:
        """Buttons for latent actions."""
        return draw(self.shares[latents], generator)


def draw(shares: Float[np.ndarray, "b k"], generator: np.random.Generator) -> Int[np.ndarray, " b"]:
    """Draw a number from each row of probabilities, int32."""
    passed = shares.cumsum(axis=1) <= generator.random((len(shares), 1)) * shares.sum(
        axis=1, keepdims=True
    )
    return passed.sum(axis=1).clip(max=shares.shape[1] - 1).astype(np.int32)
