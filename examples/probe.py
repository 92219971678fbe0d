"""From latent actions and pictures to buttons, where a latent action alone leaves them open.

In: labelled transitions, and what a net knows of their pictures. Out: a `Mapping`. Plays nothing.
"""

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


class Probe:
    """Logistic regression of the buttons on latent action and picture.

    Pressing UP does something else in the air than on the ground, and a latent action tells what
    was seen to happen, not what was pressed.
    """

    def __init__(
        self,
        latents: Int[np.ndarray, " n"],
        buttons: Int[np.ndarray, " n"],
        features: Float[np.ndarray, "n f"],
        sizes: tuple[int, int],
    ) -> None:
        """Args: as for `Dictionary`; features: of the pictures, by the clone."""
        self._sizes = sizes
        self._regression = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, max_iter=500))
        self._regression.fit(self._inputs(latents, features), buttons)

    def shares(
        self, latents: Int[np.ndarray, " b"], features: Float[np.ndarray, "b f"]
    ) -> Float[np.ndarray, "b buttons"]:
        """See `Mapping`."""
        shares = np.zeros((len(latents), self._sizes[1]))
        shares[:, self._regression.classes_] = self._regression.predict_proba(
            self._inputs(latents, features)
        )
        return shares

    def _inputs(self, latents: np.ndarray, features: np.ndarray) -> np.ndarray:
        # As wide as all features together, or the regression would hardly notice it.
        return np.hstack([features, 10 * np.eye(self._sizes[0])[latents]])
