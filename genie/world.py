"""World: the three nets that fit together. Session: a running world.

In: a prompt frame and actions. Out: frames for the screen. `World` is the only place where the nets
meet; `Session` owns caches, random generator and counters, and nothing else has state. Knows no
keys, windows or clocks.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from genie import video
from genie.checkpoint import config_from_dict, load_weights, save_weights, write_whole
from genie.dynamics import Dynamics, DynamicsConfig, Frame
from genie.errors import UserError
from genie.latent_action import LatentActionConfig, LatentActionModel
from genie.maskgit import fill_frame
from genie.precision import autocast
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel
from genie.tokenizer import Tokenizer, TokenizerConfig

FORMAT_VERSION = 2
NETS = ("tokenizer", "latent_action", "dynamics")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How new frames are drawn; found by free-running rollouts on held-out clips."""

    maskgit_steps: int = 2
    """Passes over a new frame; more is slower."""
    temperature: float = 0.3
    """Of the token draws; 0 takes the most likely token."""
    choice_temperature: float = 1.0
    """Noise in the order in which tokens are revealed."""
    guidance: float = 1.5
    """1: logits as they are. Above: what the action changes in them is enlarged; costs twice."""

    def __post_init__(self) -> None:
        if self.maskgit_steps < 1:
            raise UserError(f"maskgit_steps is {self.maskgit_steps}: at least 1 is needed")
        if self.temperature < 0 or self.choice_temperature < 0:
            raise UserError("a temperature is negative: use 0 or more")
        if self.guidance < 1:
            raise UserError(f"guidance is {self.guidance}: use 1 (none) or more")


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The three configs, which must fit together."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Shape of the tokenizer."""
    latent_action: LatentActionConfig | STLatentActionConfig = field(
        default_factory=LatentActionConfig
    )
    """Shape of the latent action model; which of the two it is follows from the fields."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Shape of the dynamics model."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How new frames are drawn."""
    fps: float = 15.0
    """Frames per second of the videos it was learnt from."""
    version: int = FORMAT_VERSION
    """Format of the checkpoint folder."""

    def __post_init__(self) -> None:
        pairs = (
            ("dynamics.num_tokens", self.dynamics.num_tokens,
             "tokenizer.num_tokens", self.tokenizer.num_tokens),
            ("dynamics.codebook_size", self.dynamics.codebook_size,
             "tokenizer.codebook.size", self.tokenizer.codebook.size),
            ("dynamics.num_actions", self.dynamics.num_actions,
             "latent_action.num_actions", self.latent_action.num_actions),
            ("latent_action.height", self.latent_action.height,
             "tokenizer.height", self.tokenizer.height),
            ("latent_action.width", self.latent_action.width,
             "tokenizer.width", self.tokenizer.width),
        )  # fmt: skip
        for name, value, wanted_name, wanted in pairs:
            if value != wanted:
                raise UserError(
                    f"{name} is {value} but {wanted_name} is {wanted}: "
                    "train the stages from the same configs"
                )
        if self.sampling.guidance > 1 and not self.dynamics.action_dropout:
            raise UserError("guidance wants a dynamics trained with action_dropout above 0")
        if self.fps <= 0:
            raise UserError(f"fps is {self.fps}: more than 0 is wanted")


class World(nn.Module):
    """Tokenizer, latent action model and dynamics that were trained for each other."""

    def __init__(self, config: WorldConfig, name: str = "world") -> None:
        """Random weights. Args: name: for people."""
        super().__init__()
        self.config, self.name = config, name
        self.tokenizer = Tokenizer(config.tokenizer)
        self.latent_action = make_latent_action(config.latent_action)
        self.dynamics = Dynamics(config.dynamics)
        self.eval()

    @property
    def num_actions(self) -> int:
        """How many latent actions there are."""
        return self.config.latent_action.num_actions

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.config.tokenizer.height, self.config.tokenizer.width

    @property
    def fps(self) -> float:
        """Frames per second at which the world looks natural."""
        return self.config.fps

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "World":
        """Load a checkpoint folder, onto a GPU where there is one.

        Raises:
            UserError: if a file is missing or unreadable, the version is unknown, a field is
                unknown or missing, or weights do not have the shapes that config.json says.
        """
        folder = Path(folder)
        world = cls(read_config(folder), name=folder.resolve().name)
        for net in NETS:
            load_weights(getattr(world, net), folder / f"{net}.safetensors")
        return world.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write one safetensors file per net and, when they are all there, config.json.

        A folder without config.json is no world, so an old world and a new one never mix.

        Raises:
            UserError: if the folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").unlink(missing_ok=True)
            for net in NETS:
                save_weights(getattr(self, net), folder / f"{net}.safetensors")
            write_whole(folder / "config.json", json.dumps(asdict(self.config), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror or error}") from error

    def start(
        self,
        prompt: UInt8[Tensor, "*t 3 h w"],
        *,
        seed: int = 0,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
    ) -> "Session":
        """A session that starts after the prompt's last frame.

        Args:
            prompt: one frame or several neighbouring ones (their motion continues), stored range.
            seed: same seed and actions give the same frames, bit for bit on one CPU.
            maskgit_steps: passes over a frame; None takes the world's own.
            temperature: of the token draws; None takes the world's own.
        """
        frames = prompt if prompt.ndim == 4 else prompt[None]
        return Session(
            Rollout(self, frames[None], seed, self._sampling(maskgit_steps, temperature))
        )

    def rollout(
        self,
        prompt: UInt8[Tensor, "b t 3 h w"],
        actions: Int[Tensor, "b s"],
        *,
        seed: int = 0,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
    ) -> UInt8[Tensor, "b s 3 h w"]:
        """Free-running frames of a batch of worlds under given actions."""
        running = Rollout(self, prompt, seed, self._sampling(maskgit_steps, temperature))
        return torch.stack([running.step(action) for action in actions.unbind(1)], dim=1)

    def _sampling(self, maskgit_steps: int | None, temperature: float | None) -> SamplingConfig:
        given = {"maskgit_steps": maskgit_steps, "temperature": temperature}
        return replace(
            self.config.sampling, **{name: v for name, v in given.items() if v is not None}
        )


def make_latent_action(
    config: LatentActionConfig | STLatentActionConfig,
) -> LatentActionModel | STLatentActionModel:
    """The model that a config describes, with random weights."""
    if isinstance(config, STLatentActionConfig):
        return STLatentActionModel(config)
    return LatentActionModel(config)


class Rollout:
    """A batch of running worlds: caches, generator, newest frames."""

    @torch.inference_mode()
    def __init__(
        self,
        world: World,
        prompt: UInt8[Tensor, "b t 3 h w"],
        seed: int,
        sampling: SamplingConfig,
    ) -> None:
        """Read the prompt. Args: sampling: how frames are drawn."""
        if tuple(prompt.shape[-2:]) != world.size:
            raise UserError(
                f"the prompt is {prompt.shape[-2]}x{prompt.shape[-1]}, the world is "
                f"{world.size[0]}x{world.size[1]}: resize it (genie.video.read_image does)"
            )
        self.world, self.sampling = world, sampling
        self.generator = torch.Generator(world.device).manual_seed(seed)
        self.past = world.dynamics.transformer.new_cache()
        self.finished: Frame | None = None
        self.shown = world.tokenizer.decoder.new_cache()
        frames = video.to_float(prompt.to(world.device))
        with autocast(world.device):
            tokens = world.tokenizer.encode(frames)
            actions = world.latent_action.infer(frames)
            start = torch.full_like(tokens[:, 0, 0], world.dynamics.no_action)
            for t in range(tokens.shape[1]):
                self._show(tokens[:, t], actions[:, t - 1] if t else start)

    @torch.inference_mode()
    def step(self, action: Int[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Generate the frame that `action` leads to. Cost does not grow with history."""
        action = action.to(self.world.device)
        dynamics = self.world.dynamics
        with autocast(self.world.device):
            tokens = fill_frame(
                lambda tokens: self.logits(tokens, action),
                batch_size=len(action),
                num_tokens=dynamics.config.num_tokens,
                mask_id=dynamics.mask_id,
                num_steps=self.sampling.maskgit_steps,
                temperature=self.sampling.temperature,
                choice_temperature=self.sampling.choice_temperature,
                generator=self.generator,
            )
            self._show(tokens, action)
        return self.frames

    def snapshot(self) -> tuple[Any, ...]:
        """Everything that `step` depends on; shares memory with the running world, safely."""
        caches = self.past.copy(), self.shown.copy()
        return *caches, self.generator.get_state(), self.finished, self.frames

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Continue from a snapshot, bit for bit."""
        past, shown, state, self.finished, self.frames = snapshot
        self.past, self.shown = past.copy(), shown.copy()
        self.generator.set_state(state)

    def logits(
        self, tokens: Int[Tensor, "b n"], action: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n v"]:
        """Logits, with classifier-free guidance (Ho & Salimans 2022) by the action.

        The frame finished last becomes part of the past in the same pass, so that it costs none.
        """
        dynamics, guidance = self.world.dynamics, self.sampling.guidance
        logits, fresh = dynamics.next_logits(tokens, action, self.past, before=self.finished)
        if self.finished:
            self.past.append(fresh)
            self.finished = None
        if guidance == 1:
            return logits
        unknown = torch.full_like(action, dynamics.no_action)
        unled, _ = dynamics.next_logits(tokens, unknown, self.past)
        return unled + guidance * (logits - unled)

    def _show(self, tokens: Int[Tensor, "b n"], action: Int[Tensor, " b"]) -> None:
        """Make a frame the newest in the picture; the next pass will make it part of the past."""
        if self.finished:
            _, fresh = self.world.dynamics.next_logits(*self.finished, self.past)
            self.past.append(fresh)
        self.finished = tokens, action
        frames = self.world.tokenizer.decode_next(tokens[:, None], self.shown)
        self.frames = video.to_uint8(frames[:, 0])


class Session:
    """One running world, for people: whole-number actions in, pictures out."""

    def __init__(self, running: Rollout) -> None:
        """Use `World.start`."""
        self._running = running
        self.num_steps = 0

    @property
    def num_actions(self) -> int:
        """Actions 0..num_actions-1 can be taken."""
        return self._running.world.num_actions

    @property
    def frame(self) -> np.ndarray:
        """The newest frame, uint8 (h, w, 3); at the start the prompt, as the tokenizer has it."""
        return video.to_picture(self._running.frames[0])

    def step(self, action: int) -> np.ndarray:
        """Take an action; gives the next frame, uint8 (h, w, 3).

        Raises:
            UserError: if there is no such action.
        """
        if not 0 <= action < self.num_actions:
            raise UserError(
                f"action {action} does not exist: this world has 0 to {self.num_actions - 1}"
            )
        self._running.step(torch.tensor([action]))
        self.num_steps += 1
        return self.frame

    def snapshot(self) -> tuple[Any, ...]:
        """The present moment, to return to by `restore`."""
        return self._running.snapshot(), self.num_steps

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Return to a snapshot; from there all goes on as it went then, bit for bit."""
        running, self.num_steps = snapshot
        self._running.restore(running)


def read_config(folder: Path) -> WorldConfig:
    """The config of a checkpoint folder.

    Raises:
        UserError: if it is missing, broken, of another version, or has unknown or missing fields.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a world: it has no config.json; name a checkpoint folder")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore the file") from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has version {version}, this program reads {FORMAT_VERSION}: "
            "update the program or train the world again"
        )
    return config_from_dict(WorldConfig, values, where=str(path))
