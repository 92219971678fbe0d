"""The pure functions that generate frames: read a prompt, then look back, reveal and show.

In: tokens, actions, and the `Past` of a `Ring`. Out: tokens, frames, and the newest frame's keys
and values, which the caller appends to the ring. Play needs nothing else of the nets while it runs:
these functions are compiled for a GPU, and exported for engines other than PyTorch.
"""

from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from genie.dynamics import Dynamics
from genie.frames import to_float, to_uint8
from genie.maskgit import reveal
from genie.prior import ActionPrior
from genie.ring import FrameKeyValue, Past
from genie.sampling import Pace
from genie.tokenizer import FrameDecoder, Tokenizer


class LookBack(nn.Module):
    """Keys and values of a finished frame, for the past of the next."""

    def __init__(self, dynamics: Dynamics, foresees: bool) -> None:
        """Args: foresees: also give the next frame's logits without its action, for guidance."""
        super().__init__()
        self.dynamics, self.foresees = dynamics, foresees

    @property
    def num_next(self) -> int:
        """The number of next frames that its `past` must be for, see `Ring.past`."""
        return 2 if self.foresees else 1

    def forward(
        self, tokens: Int[Tensor, "b n"], led_by: Int[Tensor, " b"], past: Past
    ) -> tuple[Float[Tensor, "b n v"], FrameKeyValue]:
        """The next frame's logits without its action (zeros unless `foresees`); keys and values."""
        if self.foresees:
            return self.dynamics.look_back(tokens, led_by, past)
        newest = self.dynamics.remember(tokens, led_by, past)
        nothing = newest[0].new_zeros(*tokens.shape, self.dynamics.num_logits)
        return nothing, newest


class Reveal(nn.Module):
    """One MaskGIT pass over the next frame."""

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
            tokens: hidden ones are `mask_id`.
            actions: the action that leads to the frame.
            unled: logits without the action, from `LookBack`, as for a frame that is all hidden.
            noise: see `genie.maskgit.reveal`.
            pace: its fields are scalar tensors.
        """
        logits = self.logits(tokens, actions, unled, pace.guidance, past)
        return reveal(logits, tokens, noise, self.dynamics.factors, pace)

    def logits(
        self, tokens: Tensor, actions: Tensor, unled: Tensor, guidance: Tensor, past: Past
    ) -> Float[Tensor, "b n v"]:
        """Logits that tokens are drawn from: with guidance."""
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
        """The frame, 0..255, and its keys and values for the decoder's past."""
        frames, newest = self.decoder(tokens, past)
        return to_uint8(frames), newest


class Foretell(nn.Module):
    """The newest frames to what the recorded player would do next."""

    def __init__(self, prior: ActionPrior) -> None:
        """Args: prior: of the world."""
        super().__init__()
        self.prior = prior

    def forward(self, frames: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b a"]:
        """Logits of the next action. Args: frames: `prior.NUM_FRAMES`, the newest last."""
        return self.prior.logits(to_float(frames))


class Read(nn.Module):
    """A prompt's frame to tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Args: tokenizer: of the world."""
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, frames: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The tokens of a prompt of one frame."""
        return self.tokenizer.encode(to_float(frames)[:, None])[:, 0]
