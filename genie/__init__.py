"""Genie: playable worlds learnt from videos without action labels.

Six tensors pass between files. This table is the one place that defines their shapes:

| name           | type                         | range  | made by; read by                 |
|----------------|------------------------------|--------|----------------------------------|
| `frames`, raw  | `UInt8[Tensor, "t 3 h w"]`   | 0..255 | `data.clips`, `frames`; world    |
| `frames`, nets | `Float[Tensor, "b t 3 h w"]` | 0..1   | `frames.to_float`; nets           |
| `tokens`       | `Int[Tensor, "b t n"]`       | 0..v-1 | `Tokenizer.encode`; dynamics     |
| `actions`      | `Int[Tensor, "b t-1"]`       | 0..a-1 | `infer` of the LAM; dynamics     |
| `logits`       | `Float[Tensor, "b t n v"]`   | real   | `Dynamics`; maskgit, loss        |
| `frame`        | numpy `uint8 (h, w, 3)`      | 0..255 | `video`, `Session.step`; `play`  |

Axes: b batch, t frames, n tokens in a frame, h w pixels, d model width, e code width, v codebook
size (of logits: the sum over the digits of a token), a number of actions, k heads, s cached frames.
Action t leads from frame t to frame t+1.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Session", "Sessions", "UserError", "World", "load"]


if TYPE_CHECKING:
    from genie.errors import UserError
    from genie.session import Session, Sessions
    from genie.world import World

    load = World.from_pretrained


def __getattr__(name: str) -> Any:
    """Import on first use: `python -m play --help` need not wait for torch."""
    if name == "UserError":
        from genie.errors import UserError

        return UserError
    if name in __all__:
        try:
            from genie import world
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            from genie.errors import WITHOUT_TORCH

            raise ModuleNotFoundError(f"genie.{name} {WITHOUT_TORCH}", name="torch") from None
        return world.World.from_pretrained if name == "load" else getattr(world, name)
    raise AttributeError(f"module 'genie' has no attribute {name!r}")
