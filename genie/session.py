"""Sessions: running worlds. Prompts and actions in, frames for the screen out.

Owns all that changes from frame to frame: the past, seeds and counters; nothing else has state. One
generated frame costs a few passes over that frame's tokens alone, however long the session has run.
Knows no keys, windows or clocks, and not which engine computes its frames.
"""

import copy
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from genie import noise
from genie.errors import UserError
from genie.ring import Array, FrameKeyValue, Past, Ring
from genie.sampling import Pace, SamplingConfig, fill_frame

EngineName = Literal["onnxruntime", "torch"]
NUM_RECENT = 3
"""Frames that the action prior sees."""
LEAST_SHARE = 1e-3
"""Added to the prior's weights, of which the largest is 1."""


@runtime_checkable
class Engine(Protocol):
    """What computes a world's frames: pure functions of NumPy arrays.

    Keys, values and logits may be arrays of its own kind, on its own device.
    """

    size: tuple[int, int]
    """Height and width of frames."""
    num_actions: int
    """Number of latent actions."""
    mask_id: int
    """The id that stands for a hidden token."""
    has_prior: bool
    """Whether there is an action prior, so that `foretell` can be called."""
    num_next: int
    """The number of next frames that `look_back` needs the past for, see `Ring.past`."""

    def new_rings(self, batch_size: int) -> tuple[Ring, Ring]:
        """Empty pasts of the dynamics and of the decoder."""
        ...

    def new_logits(self, batch_size: int) -> Array:
        """Zeros (b n v), in the kind of array that `look_back` returns."""
        ...

    def read(
        self, prompts: UInt8[np.ndarray, "b t 3 h w"]
    ) -> tuple[Int64[np.ndarray, "b t n"], Int64[np.ndarray, "b t"]]:
        """The tokens of prompts, and the action that led to each of their frames."""
        ...

    def foretell(self, frames: UInt8[np.ndarray, "b t 3 h w"]) -> Float32[np.ndarray, "b a"]:
        """See `genie.frame.Foretell`."""
        ...

    def look_back(
        self, tokens: Int64[np.ndarray, "b n"], led_by: Int64[np.ndarray, " b"], past: Past
    ) -> tuple[Array, FrameKeyValue]:
        """See `genie.frame.LookBack`."""
        ...

    def reveal(
        self,
        tokens: Int64[np.ndarray, "b n"],
        actions: Int64[np.ndarray, " b"],
        unled: Array,
        drawn: np.ndarray,
        pace: Pace,
        past: Past,
    ) -> Int64[np.ndarray, "b n"]:
        """See `genie.frame.Reveal`."""
        ...

    def show(
        self, tokens: Int64[np.ndarray, "b n"], past: Past
    ) -> tuple[UInt8[np.ndarray, "b 3 h w"], FrameKeyValue]:
        """See `genie.frame.Show`."""
        ...


class Sessions:
    """B running worlds in one forward pass; each has its own history, seed and age."""

    def __init__(
        self,
        engine: Engine,
        prompts: Array,
        seeds: Sequence[int],
        sampling: SamplingConfig,
    ) -> None:
        """Use `World.start_many`, which describes the arguments."""
        prompts = _as_numpy(prompts)
        _check_prompts(prompts, engine.size)
        _check_seeds(seeds, len(prompts))
        self._allocate(engine, seeds, sampling)
        self._read(np.array(prompts, order="C"))  # contiguous, as engines need it

    def step(self, actions: Array) -> UInt8[np.ndarray, "b 3 h w"]:
        """Generate the frames that the actions lead to. Cost does not grow with history.

        Args:
            actions: one whole number for each world, an array or a tensor.

        Raises:
            UserError: if there is no such action, or not one for each world.
        """
        actions = self._checked(actions)
        tokens, frames, shown = self._foresee(actions)
        self._shown.append(shown)
        self._show(frames)
        self._newest, self._foreseen = (tokens, actions), None
        self._ages += 1
        return self.frames

    def choose(self, wishes: Array) -> Int64[np.ndarray, " b"]:
        """Draw actions that fit both what is wished and what the recorded player would do here.

        The probability of an action is proportional to that of the action prior times its weight.
        Until the next `step`, the same weights give the same actions; no later frame depends on
        whether this was called.

        Args:
            wishes: (b, num_actions) weights of at least 0, above 0 for at least one action each.

        Raises:
            UserError: if there is no prior, or weights do not fit.
        """
        wishes = self._checked_wishes(wishes)
        if self._foretold is None:
            logits = self._engine.foretell(np.stack(self._recent, axis=1)).astype(np.float64)
            self._foretold = np.exp(logits - logits.max(axis=1, keepdims=True))
        # The smallest share leaves an action that the prior rules out to whoever insists on it.
        cumulative = ((self._foretold + LEAST_SHARE) * wishes).cumsum(axis=1)
        # Frames use the numbers of the steps from 0 on.
        drawn = noise.uniform(self._seeds, -1 - self._ages, 1) * cumulative[:, -1:]
        return (cumulative <= drawn).sum(axis=1)

    def prepare(self, likely: Array | None = None) -> None:
        """Use idle time to shorten the next `step`; its frames stay the same.

        Args:
            likely: actions for which the next frames are generated now: a `step` with them then
                takes no time, one with others as long as if `likely` had not been given.

        Raises:
            UserError: as for `step`.
        """
        if likely is None:
            self._append_newest()
        else:
            self._foresee(self._checked(likely))

    def reset(self, row: int, prompt: Array, *, seed: int = 0) -> None:
        """Start one of the worlds anew; the others are not affected.

        Args:
            prompt: uint8 (t, 3, h, w), an array or a tensor.
            seed: see `World.start`.

        Raises:
            UserError: if there is no such row, or the prompt has another size.
        """
        if not 0 <= row < len(self._ages):
            raise UserError(f"world {row} does not exist: there are 0 to {len(self._ages) - 1}")
        fresh = Sessions(self._engine, prompt[None], [seed], self.sampling)
        self.restore(fresh.snapshot(), row)

    def snapshot(self) -> tuple[Any, ...]:
        """A copy of everything that `step` depends on, but for `sampling`."""
        self._append_newest()
        rows = (self._seeds, self._ages, *self._recent, self._unled)
        return self._past.state(), self._shown.state(), *copy.deepcopy(rows)

    def restore(self, snapshot: tuple[Any, ...], row: int = 0) -> None:
        """Continue from a snapshot, bit for bit; its worlds replace those from `row` on.

        Raises:
            UserError: if there are not enough worlds.
        """
        past, shown, *saved_rows = snapshot
        count = len(saved_rows[0])
        if not 0 <= row <= len(self._ages) - count:
            raise UserError(f"a snapshot of {count} worlds does not fit at row {row}")
        self._append_newest()
        self._foreseen = self._foretold = None
        self._past.restore(past, row)
        self._shown.restore(shown, row)
        rows = (self._seeds, self._ages, *self._recent, self._unled)
        for own, saved in zip(rows, saved_rows, strict=True):
            own[row : row + count] = saved
        self.frames = self._recent[-1].copy()  # the caller may still use the old array

    def fork(self, count: int) -> "Sessions":
        """Copies of the one world that runs here, to run side by side; this one does not change.

        Raises:
            UserError: if more than one world runs here.
        """
        if len(self._ages) != 1:
            raise UserError(f"{len(self._ages)} worlds run here: fork one that runs alone")
        copies = Sessions.__new__(Sessions)
        copies._allocate(self._engine, [0] * count, self.sampling)
        copies._recent = tuple(frames.repeat(count, axis=0) for frames in self._recent)
        snapshot = self.snapshot()
        for row in range(count):
            copies.restore(snapshot, row)
        return copies

    def tune(self, *, maskgit_steps: int | None = None, temperature: float | None = None) -> None:
        """Change how frames are drawn from the next step on; None leaves a setting as it is.

        Raises:
            UserError: if a number is out of range.
        """
        self.sampling = self.sampling.changed(maskgit_steps, temperature)
        self._foreseen = None

    def _allocate(self, engine: Engine, seeds: Sequence[int], sampling: SamplingConfig) -> None:
        self._engine, self.sampling = engine, sampling
        self._past, self._shown = engine.new_rings(len(seeds))
        self._unled = engine.new_logits(len(seeds))
        self._seeds = np.array(seeds, dtype=np.int64)
        self._ages = np.zeros_like(self._seeds)
        self.num_passes = 0
        """Passes over new frames since the start, those generated ahead of a `step` included."""
        self._newest: tuple[np.ndarray, np.ndarray] | None = None  # until it is appended
        self._foreseen: tuple[np.ndarray, Foreseen] | None = None
        self.frames: UInt8[np.ndarray, "b 3 h w"]
        """The newest frames; at first the prompts', as the tokenizer decodes them."""
        self._recent: tuple[np.ndarray, ...] = ()  # copies of the last `NUM_RECENT` frames
        self._foretold: np.ndarray | None = None  # weights of actions by the prior, if known

    def _show(self, frames: UInt8[np.ndarray, "b 3 h w"]) -> None:
        """Make frames the newest ones; the first one stands for those before it."""
        missing = max(1, NUM_RECENT - len(self._recent))
        newest = (frames.copy() for _ in range(missing))
        self._recent = (*self._recent, *newest)[-NUM_RECENT:]
        self.frames, self._foretold = frames, None

    def _checked_wishes(self, wishes: Array) -> np.ndarray:
        taken, shape = _as_numpy(wishes), (len(self._ages), self._engine.num_actions)
        if not self._engine.has_prior:
            raise UserError("this world has no action prior: python -m train.prior adds one")
        if (
            not isinstance(taken, np.ndarray)
            or taken.dtype.kind not in "iuf"
            or taken.shape != shape
        ):
            raise UserError(f"wishes must be {shape[0]} rows of {shape[1]} numbers")
        taken = taken.astype(np.float64)
        if not (np.isfinite(taken).all() and (taken >= 0).all() and (taken > 0).any(axis=1).all()):
            raise UserError("wishes must be numbers from 0 on, and above 0 for at least one action")
        return taken / taken.max(axis=1, keepdims=True)  # so that none over- or underflows

    def _checked(self, actions: Array) -> Int64[np.ndarray, " b"]:
        """A copy of the actions, checked; the caller may use the array again."""
        num_worlds, num_actions = len(self._ages), self._engine.num_actions
        taken = _as_numpy(actions)
        is_array = isinstance(taken, np.ndarray)
        if not is_array or taken.dtype.kind not in "iu" or taken.ndim != 1:
            raise UserError("actions must be one row of whole numbers: give np.array([...])")
        if len(taken) != num_worlds:
            raise UserError(f"{len(taken)} actions for {num_worlds} worlds: give one for each")
        for action in taken.tolist():
            if not 0 <= action < num_actions:
                raise UserError(
                    f"action {action} does not exist: this world has 0 to {num_actions - 1}"
                )
        return taken.astype(np.int64)

    def _read(self, prompts: UInt8[np.ndarray, "b t 3 h w"]) -> None:
        tokens, led_by = self._engine.read(prompts)
        for t in range(tokens.shape[1]):
            self._append_newest()
            frames, shown = self._engine.show(tokens[:, t], self._shown.past())
            self._show(frames)
            self._shown.append(shown)
            self._newest = tokens[:, t], led_by[:, t]
        self._append_newest()

    def _append_newest(self) -> None:
        """Append the newest frame to the past, unless that is done; costs one pass.

        Always a pass of its own, so that frames do not depend on whether idle time was used for it.
        It also gives guidance its logits, which do not depend on the next action.
        """
        if self._newest is not None:
            past = self._past.past(self._engine.num_next)
            self._unled, key_value = self._engine.look_back(*self._newest, past)
            self._past.append(key_value)
            self._newest = None

    def _foresee(self, actions: Int64[np.ndarray, " b"]) -> "Foreseen":
        """The next frames under these actions, generated now unless they already are."""
        if self._foreseen is None or (self._foreseen[0] != actions).any():
            self._append_newest()
            tokens = self._draw(actions)
            frames, shown = self._engine.show(tokens, self._shown.past())
            self._foreseen = actions, Foreseen(tokens, frames, shown)
        return self._foreseen[1]

    def _draw(self, actions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, "b n"]:
        b, steps, n = len(actions), self.sampling.maskgit_steps, self._past.keys.shape[2]
        drawn = noise.uniform(self._seeds, self._ages, steps * 2 * n).reshape(b, steps, 2, n)
        past, mask_id = self._past.past(), self._engine.mask_id

        def one_pass(tokens: np.ndarray, number: int, pace: Pace) -> np.ndarray:
            self.num_passes += 1
            numbers = drawn[:, number]
            return self._engine.reveal(tokens, actions, self._unled, numbers, pace, past)

        hidden = np.full((b, n), mask_id, dtype=np.int64)
        return fill_frame(one_pass, hidden, mask_id, self.sampling)


class Foreseen(NamedTuple):
    """The next frames, generated before it is sure that they are shown."""

    tokens: Int64[np.ndarray, "b n"]
    frames: UInt8[np.ndarray, "b 3 h w"]
    shown: FrameKeyValue
    """Keys and values of the decoder."""


class Session:
    """One running world, for people: whole-number actions in, pictures out."""

    def __init__(self, running: Sessions, num_actions: int) -> None:
        """Use `World.start`. Args: running: one world."""
        self._running = running
        self.num_actions = num_actions
        self.num_steps = 0

    @property
    def frame(self) -> np.ndarray:
        """The newest frame, uint8 (h, w, 3); at first the prompt, as the tokenizer decodes it."""
        return as_pictures(self._running.frames)[0]

    def step(self, action: int) -> np.ndarray:
        """Take an action and return the next frame, uint8 (h, w, 3).

        Raises:
            UserError: if there is no such action.
        """
        self._running.step(_one(action))
        self.num_steps += 1
        return self.frame

    def choose(self, wish: Array) -> int:
        """An action that fits both a wish and the picture, see `Sessions.choose`.

        Args:
            wish: a weight for each action, in an array or a list.

        Raises:
            UserError: if there is no prior, or weights do not fit.
        """
        try:
            weights = np.array([wish], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UserError("wishes must be numbers, one for each action") from error
        return int(self._running.choose(weights)[0])

    def prepare(self, likely: int | None = None) -> None:
        """Use idle time to shorten the next `step`; its frame stays the same, bit for bit.

        Args:
            likely: an action: a `step` with it then takes no time.

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
        """Passes over new frames so far, those generated ahead of a `step` included."""
        return self._running.num_passes

    def tune(self, *, maskgit_steps: int | None = None, temperature: float | None = None) -> None:
        """See `Sessions.tune`."""
        self._running.tune(maskgit_steps=maskgit_steps, temperature=temperature)

    def futures(self) -> Iterator[np.ndarray]:
        """The frames that follow if each action is repeated from now on, without end.

        Each item is uint8 (actions, h, w, 3). This session does not change.
        """
        copies, actions = self._running.fork(self.num_actions), np.arange(self.num_actions)
        while True:
            yield as_pictures(copies.step(actions))

    def snapshot(self) -> tuple[Any, ...]:
        """The present moment, to return to by `restore`."""
        return self._running.snapshot(), self.num_steps

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Return to a snapshot; the same actions then give the same frames, bit for bit."""
        running, self.num_steps = snapshot
        self._running.restore(running)


def _as_numpy(values: Any) -> Any:
    """An array, or a tensor on any device, as an array; anything else unchanged."""
    if not hasattr(values, "dtype"):
        return values
    try:
        return np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    except (TypeError, RuntimeError):  # such as a dtype that NumPy lacks
        return values


def as_pictures(frames: UInt8[np.ndarray, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Frames with channels last, as people and screens take them."""
    return np.ascontiguousarray(np.moveaxis(frames, 1, -1))


def _one(action: int) -> Int64[np.ndarray, "1"]:
    """An array of one action: a whole number of any library, but no float."""
    try:
        return np.array([operator.index(action)], dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"action {action!r} is not a whole number: give one") from error


def _check_prompts(prompts: Any, size: tuple[int, int]) -> None:
    is_array = isinstance(prompts, np.ndarray)
    if not is_array or prompts.dtype != np.uint8 or prompts.ndim != 5 or prompts.shape[2] != 3:
        given = f"{prompts.dtype} {prompts.shape}" if is_array else type(prompts).__name__
        raise UserError(
            f"prompts are {given}, but must be uint8 (worlds, frames, 3, height, width): "
            "genie.frames.from_pictures converts what genie.video reads"
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
        raise UserError(f"there are {len(seeds)} seeds for {num_worlds} prompts: give one for each")
    for seed in seeds:
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UserError(f"seed {seed!r} is not a whole number from 0 to 2^63-1: give one")
