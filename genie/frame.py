"""A frame as pure functions of arrays: look back, reveal, show; and read, which begins it all.

In: tokens, actions, and what a `Ring` keeps of the past. Out: tokens, pictures, and the newest keys
and values, for whoever keeps the ring. This is all that play asks of the nets while it runs: what
is compiled for a GPU, and what is exported for engines other than PyTorch.
"""

from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from genie.dynamics import Dynamics
from genie.frames import to_float, to_uint8
from genie.maskgit import reveal
from genie.ring import FrameKeyValue, Past
from genie.sampling import Pace
from genie.tokenizer import FrameDecoder, Tokenizer


class LookBack(nn.Module):
    """A finished frame becomes past."""

    def __init__(self, dynamics: Dynamics, foresees: bool) -> None:
        """Args: foresees: also say what comes next whatever the action is, which guidance wants."""
        super().__init__()
        self.dynamics, self.foresees = dynamics, foresees

    @property
    def num_next(self) -> int:
        """For how many frames it wants the past."""
        return 2 if self.foresees else 1

    def forward(
        self, tokens: Int[Tensor, "b n"], led_by: Int[Tensor, " b"], past: Past
    ) -> tuple[Float[Tensor, "b n v"], FrameKeyValue]:
        """Logits of the next frame after whatever action (zeros if not asked for); the newest."""
        if self.foresees:
            return self.dynamics.look_back(tokens, led_by, past)
        newest = self.dynamics.remember(tokens, led_by, past)
        nothing = newest[0].new_zeros(*tokens.shape, self.dynamics.config.codebook_size)
        return nothing, newest


class Reveal(nn.Module):
    """One pass over the next frame."""

    def __init__(self, dynamics: Dynamics) -> None:
        """Args: dynamics: whose logits are drawn from."""
        super().__init__()
        self.dynamics = dynamics

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        actions: Int[Tensor, " b"],
        unled: Float[Tensor, "b n v"],
        noise: Float[Tensor, "b 2 n"],
        pace: Pace,
        past: Past,
    ) -> Int[Tensor, "b n"]:
        """More tokens of the frame, drawn with classifier-free guidance (Ho & Salimans 2022).

        Args:
            tokens: hidden ones being `mask_id`.
            actions: what leads to the frame.
            unled: what `LookBack` says of it. It is of a frame that is wholly hidden.
            noise: see `genie.maskgit.reveal`.
            pace: of tensors of one number each.
        """
        logits = self.logits(tokens, actions, unled, pace.guidance, past)
        return reveal(logits, tokens, noise, self.dynamics.mask_id, pace)

    def logits(
        self, tokens: Tensor, actions: Tensor, unled: Tensor, guidance: Tensor, past: Past
    ) -> Float[Tensor, "b n v"]:
        """What tokens are drawn from."""
        led = self.dynamics.next_logits(tokens, actions, past).float()
        return led + (guidance - 1) * (led - unled.float())


class Show(nn.Module):
    """Tokens to pixels."""

    def __init__(self, decoder: FrameDecoder) -> None:
        """Args: decoder: of the world's tokenizer."""
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Int[Tensor, "b n"], past: Past
    ) -> tuple[UInt8[Tensor, "b 3 h w"], FrameKeyValue]:
        """The frame for the screen, and what the next ones see of it."""
        frames, newest = self.decoder(tokens, past)
        return to_uint8(frames), newest


class Read(nn.Module):
    """A picture to tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Args: tokenizer: of the world."""
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, frames: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The tokens of a prompt of one frame."""
        return self.tokenizer.encode(to_float(frames)[:, None])[:, 0]
