"""Sessions: running worlds. Prompts and actions in, frames for the screen out.

Owns what runs from frame to frame, namely caches, seeds and counters; nothing else has state. One
generated frame costs a few passes over that frame's tokens alone, at minute ten as at second one.
Knows no keys, windows or clocks.
"""

import copy
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from genie import noise
from genie.compiling import compile_parts
from genie.dynamics import Dynamics
from genie.errors import UserError
from genie.frames import to_float, to_pictures, to_uint8
from genie.machine import autocast, check_compiler, quick_dtype
from genie.maskgit import fill_frame
from genie.sampling import SamplingConfig
from genie.st_transformer import FrameKeyValue
from genie.tokenizer import FrameDecoder, Tokenizer

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@runtime_checkable
class TrainedNets(Protocol):
    """What is needed of a `World`."""

    tokenizer: Tokenizer
    dynamics: Dynamics

    @property
    def latent_action(self) -> "InfersActions":
        """What tells the actions of a prompt of several frames."""
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
    """What is needed of a latent action model."""

    def infer(self, frames: Float[Tensor, "b t 3 h w"]) -> Int[Tensor, "b t-1"]:
        """See `LatentActionModel.infer`."""
        ...


class QuickNets:
    """The nets as play needs them: copies whose weights are in the machine's quickest format."""

    def __init__(self, trained: TrainedNets, *, compile: bool = False) -> None:
        """Copies the weights as they are now. Args and errors: see `World.start_many`."""
        if compile:
            check_compiler(trained.device)
        dtype = quick_dtype(trained.device)
        self.trained = trained
        self.dynamics = copy.deepcopy(trained.dynamics).to(dtype).eval().requires_grad_(False)
        self.decoder = FrameDecoder(trained.tokenizer, dtype)
        if compile:
            compile_parts(self.dynamics)
            compile_parts(self.decoder)


class Sessions:
    """B running worlds in one forward pass; each has its own history, seed and age."""

    @torch.inference_mode()
    def __init__(
        self,
        nets: QuickNets,
        prompts: UInt8[Tensor, "b t 3 h w"],
        seeds: Sequence[int],
        sampling: SamplingConfig,
    ) -> None:
        """Use `World.start_many`, which says what the arguments mean."""
        _check_prompts(prompts, nets.trained.size)
        _check_seeds(seeds, len(prompts))
        self._make_room(nets, seeds, sampling)
        self._read(prompts.to(nets.trained.device))

    @torch.inference_mode()
    def step(self, actions: Int[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Generate the frames that the actions lead to. Cost does not grow with history.

        Raises:
            UserError: if there is no such action, or not one for each world.
        """
        actions = self._checked(actions)
        tokens, self.frames, shown = self._foresee(actions)
        self._shown.append(shown)
        self._unsettled, self._foreseen = (tokens, actions), None
        self._ages += 1
        return self.frames

    @torch.inference_mode()
    def prepare(self, likely: Int[Tensor, " b"] | None = None) -> None:
        """Spend idle time so that the next `step` is shorter; frames stay what they would be.

        Args:
            likely: actions under which the next frames are generated already: a `step` under them
                then takes no time, one under others takes as long as if they were not given.

        Raises:
            UserError: as for `step`.
        """
        if likely is None:
            self._settle()
        else:
            self._foresee(self._checked(likely))

    def reset(self, row: int, prompt: UInt8[Tensor, "t 3 h w"], *, seed: int = 0) -> None:
        """Start one of the worlds anew; the others do not notice.

        Raises:
            UserError: if there is no such row, or the prompt has another size.
        """
        if not 0 <= row < len(self._ages):
            raise UserError(f"world {row} does not exist: there are 0 to {len(self._ages) - 1}")
        fresh = Sessions(self._nets, prompt[None], [seed], self.sampling)
        self.restore(fresh.snapshot(), row)

    @torch.inference_mode()
    def snapshot(self) -> tuple[Any, ...]:
        """Everything that `step` depends on."""
        self._settle()
        kept = (self._seeds, self._ages, self.frames, self._unled)
        return self._past.state(), self._shown.state(), *(tensor.clone() for tensor in kept)

    @torch.inference_mode()
    def restore(self, snapshot: tuple[Any, ...], row: int = 0) -> None:
        """Continue from a snapshot, bit for bit; it is for the worlds from `row` on.

        Raises:
            UserError: if there are not so many worlds.
        """
        past, shown, *kept = snapshot
        if not 0 <= row <= len(self._ages) - len(kept[0]):
            raise UserError(f"a snapshot of {len(kept[0])} worlds does not fit at row {row}")
        self._settle()
        self._foreseen = None
        self._past.restore(past, row)
        self._shown.restore(shown, row)
        self.frames = self.frames.clone()  # what was given out stays as it was
        own_kept = (self._seeds, self._ages, self.frames, self._unled)
        for own, saved in zip(own_kept, kept, strict=True):
            own[row : row + len(saved)] = saved

    @torch.inference_mode()
    def fork(self, count: int) -> "Sessions":
        """Copies of the one world that runs here, to go on side by side; this one stays.

        Raises:
            UserError: if more than one world runs here.
        """
        if len(self._ages) != 1:
            raise UserError(f"{len(self._ages)} worlds run here: fork one that runs alone")
        copies = Sessions.__new__(Sessions)
        copies._make_room(self._nets, [0] * count, self.sampling)
        copies.frames = self.frames.repeat(count, 1, 1, 1)
        moment = self.snapshot()
        for row in range(count):
            copies.restore(moment, row)
        return copies

    def tune(self, *, maskgit_steps: int | None = None, temperature: float | None = None) -> None:
        """Draw frames otherwise from the next step on; None leaves a setting as it is.

        Raises:
            UserError: if a number is out of range.
        """
        given = {"maskgit_steps": maskgit_steps, "temperature": temperature}
        changes = {name: value for name, value in given.items() if value is not None}
        self.sampling = replace(self.sampling, **changes)
        self._foreseen = None

    def _make_room(self, nets: QuickNets, seeds: Sequence[int], sampling: SamplingConfig) -> None:
        self._nets, self.sampling = nets, sampling
        b, device, dynamics = len(seeds), nets.trained.device, nets.dynamics
        num_tokens, num_codes = dynamics.config.num_tokens, dynamics.config.codebook_size
        self._past = dynamics.transformer.new_ring(b, num_tokens)
        self._shown = nets.decoder.decoder.new_ring(b, num_tokens)
        self._unled = dynamics.out.weight.new_zeros(b, num_tokens, num_codes)
        self._seeds = torch.tensor(seeds, device=device)
        self._ages = torch.zeros(b, dtype=torch.long, device=device)
        self.num_passes = 0
        """Passes over new frames since the start, whether they are shown or only foreseen."""
        self._unsettled: tuple[Tensor, Tensor] | None = None
        self._foreseen: tuple[Tensor, Tensor, Tensor, FrameKeyValue] | None = None

    def _checked(self, actions: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The actions if they can be taken: a copy, for the caller may use the tensor again."""
        num_worlds, num_actions = len(self._ages), self._nets.trained.num_actions
        if not isinstance(actions, Tensor) or actions.dtype not in WHOLE or actions.ndim != 1:
            raise UserError("actions are no row of whole numbers: give torch.tensor([...])")
        if len(actions) != num_worlds:
            raise UserError(f"{len(actions)} actions for {num_worlds} worlds: give as many")
        for action in actions.tolist():
            if not 0 <= action < num_actions:
                raise UserError(
                    f"action {action} does not exist: this world has 0 to {num_actions - 1}"
                )
        return actions.to(self._ages.device, torch.long, copy=True)

    def _read(self, prompts: UInt8[Tensor, "b t 3 h w"]) -> None:
        nets, frames = self._nets.trained, to_float(prompts)
        with autocast(nets.device):
            tokens, actions = nets.tokenizer.encode(frames), nets.latent_action.infer(frames)
        start = torch.full_like(tokens[:, 0, 0], self._nets.dynamics.no_action)
        for t in range(tokens.shape[1]):
            self._settle()
            self.frames, shown = self._decode(tokens[:, t])
            self._shown.append(shown)
            self._unsettled = tokens[:, t], actions[:, t - 1] if t else start
        self._settle()

    def _settle(self) -> None:
        """Make the newest frame part of the past: one pass, at the latest before the next frame.

        A pass of its own, whether there was idle time for it or not, so that time never tells.
        What guidance needs of the next frame does not depend on its action, and is had with it.
        """
        if self._unsettled is None:
            return
        if self._is_guided:
            past = self._past.past(2)
            self._unled, newest = self._nets.dynamics.look_back(*self._unsettled, past)
        else:
            newest = self._nets.dynamics.remember(*self._unsettled, self._past.past())
        self._past.append(newest)
        self._unsettled = None

    def _foresee(
        self, actions: Int[Tensor, " b"]
    ) -> tuple[Int[Tensor, "b n"], UInt8[Tensor, "b 3 h w"], FrameKeyValue]:
        """Tokens and frames under these actions, which may be there already."""
        if self._foreseen is not None and torch.equal(self._foreseen[0], actions):
            return self._foreseen[1:]
        self._settle()
        b, steps, n = len(actions), self.sampling.maskgit_steps, self._past.keys.shape[2]
        guided = iter((True,))  # the first pass alone
        drawn = noise.uniform(self._seeds, self._ages, steps * 2 * n)
        tokens = fill_frame(
            lambda tokens: self.logits(tokens, actions, guided=next(guided, False)),
            noise=drawn.view(b, steps, 2, n),
            mask_id=self._nets.dynamics.mask_id,
            temperature=self.sampling.temperature,
            choice_temperature=self.sampling.choice_temperature,
            entropy_bound=self.sampling.entropy_bound,
        )
        self._foreseen = actions, tokens, *self._decode(tokens)
        return self._foreseen[1:]

    def logits(
        self, tokens: Int[Tensor, "b n"], actions: Int[Tensor, " b"], *, guided: bool = True
    ) -> Float[Tensor, "b n v"]:
        """Of the next frame, with classifier-free guidance (Ho & Salimans 2022) by the action.

        Args:
            guided: only of a frame that is wholly hidden.
        """
        self.num_passes += 1
        self._settle()
        led = self._nets.dynamics.next_logits(tokens, actions, self._past.past())
        if not guided or not self._is_guided:
            return led
        return self._unled + self.sampling.guidance * (led - self._unled)

    @property
    def _is_guided(self) -> bool:
        return self.sampling.guidance != 1

    def _decode(self, tokens: Int[Tensor, "b n"]) -> tuple[UInt8[Tensor, "b 3 h w"], FrameKeyValue]:
        frames, shown = self._nets.decoder(tokens, self._shown.past())
        return to_uint8(frames.float()), shown


class Session:
    """One running world, for people: whole-number actions in, pictures out."""

    def __init__(self, running: Sessions, num_actions: int) -> None:
        """Use `World.start`. Args: running: one world."""
        self._running = running
        self.num_actions = num_actions
        self.num_steps = 0

    @property
    def frame(self) -> np.ndarray:
        """The newest frame, uint8 (h, w, 3); at the start the prompt, as the tokenizer has it."""
        return to_pictures(self._running.frames[0])

    def step(self, action: int) -> np.ndarray:
        """Take an action; gives the next frame, uint8 (h, w, 3).

        Raises:
            UserError: if there is no such action.
        """
        self._running.step(_one(action))
        self.num_steps += 1
        return self.frame

    def prepare(self, likely: int | None = None) -> None:
        """Spend idle time on the next `step`; frames stay what they would be, bit for bit.

        Args:
            likely: an action: a `step` under it then takes no time.

        Raises:
            UserError: if there is no such action.
        """
        self._running.prepare(None if likely is None else _one(likely))

    @property
    def sampling(self) -> SamplingConfig:
        """How frames are drawn at present."""
        return self._running.sampling

    @property
    def num_passes(self) -> int:
        """Passes over new frames so far, whether they are shown or only foreseen."""
        return self._running.num_passes

    def tune(self, *, maskgit_steps: int | None = None, temperature: float | None = None) -> None:
        """See `Sessions.tune`."""
        self._running.tune(maskgit_steps=maskgit_steps, temperature=temperature)

    def futures(self) -> Iterator[np.ndarray]:
        """What would come if each action were held from now on: frame after frame, without end.

        This session stays where it is. Each yields uint8 (actions, h, w, 3).
        """
        copies, held = self._running.fork(self.num_actions), torch.arange(self.num_actions)
        while True:
            yield to_pictures(copies.step(held))

    def snapshot(self) -> tuple[Any, ...]:
        """The present moment, to return to by `restore`."""
        return self._running.snapshot(), self.num_steps

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Return to a snapshot; from there all goes on as it went then, bit for bit."""
        running, self.num_steps = snapshot
        self._running.restore(running)


def _one(action: int) -> Int[Tensor, "1"]:
    """Whole numbers of any library, but nothing that would be rounded."""
    try:
        return torch.tensor([operator.index(action)])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"action {action!r} is no whole number: give one") from error


def _check_prompts(prompts: Any, size: tuple[int, int]) -> None:
    is_tensor = isinstance(prompts, Tensor)
    if not is_tensor or prompts.dtype != torch.uint8 or prompts.ndim != 5 or prompts.shape[2] != 3:
        given = f"{prompts.dtype} {tuple(prompts.shape)}" if is_tensor else type(prompts).__name__
        raise UserError(
            f"prompts are {given}, a uint8 tensor (worlds, frames, 3, height, width) is wanted: "
            "genie.frames.from_pictures makes such of what genie.video reads"
        )
    if not prompts.shape[0] or not prompts.shape[1]:
        raise UserError("there is no prompt frame: give at least one for each world")
    if tuple(prompts.shape[-2:]) != tuple(size):
        raise UserError(
            f"the prompt is {prompts.shape[-2]}x{prompts.shape[-1]}, the world is "
            f"{size[0]}x{size[1]}: resize it (genie.video.read_image does)"
        )


def _check_seeds(seeds: Sequence[int], num_worlds: int) -> None:
    if len(seeds) != num_worlds:
        raise UserError(f"there are {len(seeds)} seeds for {num_worlds} prompts: give as many")
    for seed in seeds:
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UserError(f"seed {seed!r} is no whole number from 0 to 2^63-1: give one")
