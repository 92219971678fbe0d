"""The engine that computes a world's frames with PyTorch, on any device.

In: a world's nets. Out: the functions of `genie.session.Engine` over NumPy arrays. The past stays
on the device.
"""

import copy
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Int64, UInt8
from torch import Tensor

from genie.compiling import compile_parts
from genie.cuda_graphs import Function, Graphed
from genie.dynamics import Dynamics
from genie.frame import Foretell, LookBack, Reveal, Show
from genie.frames import to_float
from genie.machine import autocast, check_compiler, quick_dtype
from genie.prior import ActionPrior
from genie.ring import Array, FrameKeyValue, Past, Ring
from genie.sampling import Pace, SamplingConfig
from genie.tokenizer import QuickFrameDecoder, Tokenizer


@runtime_checkable
class TrainedNets(Protocol):
    """What `TorchEngine` needs of a `World`."""

    tokenizer: Tokenizer
    dynamics: Dynamics
    prior: ActionPrior | None

    @property
    def latent_action(self) -> "InfersActions":
        """Infers the actions of a prompt of several frames."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the nets are."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of frames."""
        ...

    @property
    def num_actions(self) -> int:
        """How many latent actions there are."""
        ...


class InfersActions(Protocol):
    """What `TorchEngine` needs of a latent action model."""

    def infer(self, frames: Float[Tensor, "b t 3 h w"]) -> Int[Tensor, "b t-1"]:
        """See `LatentActionModel.infer`."""
        ...


class TorchEngine:
    """Copies of the nets, in the dtype that the device computes fastest."""

    def __init__(
        self,
        trained: TrainedNets,
        sampling: SamplingConfig,
        *,
        compile: bool = False,
        exact: bool = False,
    ) -> None:
        """Copies the weights as they are now.

        Args:
            trained: the nets.
            sampling: only whether it has guidance matters here.
            compile: see `World.start_many`, also for errors.
            exact: compute in float32.
        """
        if compile:
            check_compiler(trained.device)
        self.trained, self.size, self.num_actions = trained, trained.size, trained.num_actions
        self.dtype = torch.float32 if exact else quick_dtype(trained.device)
        self.dynamics = copy.deepcopy(trained.dynamics).to(self.dtype).eval().requires_grad_(False)
        self.decoder = QuickFrameDecoder(trained.tokenizer, self.dtype)
        self.mask_id = self.dynamics.mask_id
        prior = copy.deepcopy(trained.prior)
        self._foretell = Foretell(prior.eval().requires_grad_(False)) if prior else None
        self.has_prior = prior is not None
        look_back = LookBack(self.dynamics, foresees=sampling.guidance != 1)
        self.num_next = look_back.num_next
        parts = look_back, Reveal(self.dynamics), Show(self.decoder)
        functions: Iterable[Function] = parts
        if compile:
            compile_parts(self.dynamics)
            compile_parts(self.decoder)
            if trained.device.type == "cuda":
                functions = (Graphed(part.forward) for part in parts)
        self._look_back, self._reveal, self._show = functions

    def new_rings(self, batch_size: int) -> tuple[Ring, Ring]:
        """See `genie.session.Engine`."""
        stacks = self.dynamics.transformer, self.decoder.tokenizer.decoder
        num_tokens = self.dynamics.config.num_tokens
        past, shown = (stack.new_ring(batch_size, num_tokens) for stack in stacks)
        return past, shown

    def new_logits(self, batch_size: int) -> Array:
        """See `genie.session.Engine`."""
        shape = batch_size, self.dynamics.config.num_tokens, self.dynamics.num_logits
        return self.dynamics.out.weight.new_zeros(shape)

    @torch.no_grad()
    def read(
        self, prompts: UInt8[np.ndarray, "b t 3 h w"]
    ) -> tuple[Int64[np.ndarray, "b t n"], Int64[np.ndarray, "b t"]]:
        """See `genie.session.Engine`."""
        frames = to_float(torch.from_numpy(prompts).to(self.trained.device))
        with autocast(self.trained.device, enabled=self.dtype != torch.float32):
            tokens = self.trained.tokenizer.encode(frames)
            actions = self.trained.latent_action.infer(frames)
        led_by = F.pad(actions, (1, 0), value=self.dynamics.no_action)
        return tokens.cpu().numpy(), led_by.cpu().numpy()

    @torch.no_grad()
    def foretell(self, frames: UInt8[np.ndarray, "b t 3 h w"]) -> Float32[np.ndarray, "b a"]:
        """See `genie.session.Engine`."""
        assert self._foretell is not None
        return self._foretell(*self._to_device(frames)).float().cpu().numpy()

    @torch.no_grad()
    def look_back(
        self, tokens: Int64[np.ndarray, "b n"], led_by: Int64[np.ndarray, " b"], past: Past
    ) -> tuple[Array, FrameKeyValue]:
        """See `genie.session.Engine`."""
        return self._look_back(*self._to_device(tokens, led_by), past)

    @torch.no_grad()
    def reveal(
        self,
        tokens: Int64[np.ndarray, "b n"],
        actions: Int64[np.ndarray, " b"],
        unled: Array,
        drawn: np.ndarray,
        pace: Pace,
        past: Past,
    ) -> Int64[np.ndarray, "b n"]:
        """See `genie.session.Engine`."""
        given = self._to_device(tokens, actions)
        numbers = *self._to_device(drawn), self._pace(pace)
        return self._reveal(*given, unled, *numbers, past).cpu().numpy()

    @torch.no_grad()
    def show(
        self, tokens: Int64[np.ndarray, "b n"], past: Past
    ) -> tuple[UInt8[np.ndarray, "b 3 h w"], FrameKeyValue]:
        """See `genie.session.Engine`."""
        frames, newest = self._show(*self._to_device(tokens), past)
        return frames.cpu().numpy(), newest

    def _to_device(self, *arrays: np.ndarray) -> list[Tensor]:
        return [torch.from_numpy(array).to(self.trained.device) for array in arrays]

    def _pace(self, pace: Pace) -> Pace:
        return Pace(*self._to_device(*map(np.asarray, pace)))
