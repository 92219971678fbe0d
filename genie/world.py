"""World: the three nets that fit together, their config, and their checkpoint folder.

In: a checkpoint folder. Out: sessions. `World` is the only place where the nets meet; it has no
state but weights.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor, nn

from genie.checkpoint import load_weights, remove_weights, save_weights
from genie.configs import config_from_dict
from genie.dynamics import Dynamics, DynamicsConfig
from genie.errors import UserError
from genie.files import write_whole, writing
from genie.frames import from_pictures, to_float
from genie.latent_action import LatentActionConfig, LatentActionModel
from genie.machine import best_device, describe, quick_dtype
from genie.places import find_world
from genie.prior import ActionPrior, PriorConfig
from genie.sampling import SamplingConfig
from genie.session import Engine, EngineName, Session, Sessions
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel
from genie.tokenizer import Tokenizer, TokenizerConfig
from genie.torch_engine import TorchEngine

FORMAT_VERSION = 4
NETS = ("tokenizer", "latent_action", "dynamics")
# One frame or neighbouring ones, as a tensor or as pictures.
Clip = UInt8[Tensor, "*t 3 h w"] | UInt8[np.ndarray, "*t h w 3"]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The configs of the nets, which must fit together."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Shape of the tokenizer."""
    latent_action: LatentActionConfig | STLatentActionConfig = field(
        default_factory=LatentActionConfig
    )
    """Shape of the latent action model; its fields say which of the two."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Shape of the dynamics model."""
    prior: PriorConfig | None = None
    """Shape of the action prior; None if the world has none."""
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
        if self.prior:
            pairs += (
                ("prior.num_actions", self.prior.num_actions,
                 "latent_action.num_actions", self.latent_action.num_actions),
                ("prior.height", self.prior.height, "tokenizer.height", self.tokenizer.height),
                ("prior.width", self.prior.width, "tokenizer.width", self.tokenizer.width),
            )  # fmt: skip
        for name, value, wanted_name, wanted in pairs:
            if value != wanted:
                raise UserError(
                    f"{name} is {value} but {wanted_name} is {wanted}: "
                    "train the stages from the same configs"
                )
        if self.sampling.guidance > 1 and not self.dynamics.action_dropout:
            raise UserError(
                "guidance needs a dynamics trained with action_dropout above 0: set guidance to 1"
            )
        if self.fps <= 0:
            raise UserError(f"fps is {self.fps}: use more than 0")


class World(nn.Module):
    """Tokenizer, latent action model and dynamics that were trained for each other.

    An action prior may be added to them later.
    """

    def __init__(self, config: WorldConfig, name: str = "world") -> None:
        """Random weights. Args: name: for people."""
        super().__init__()
        self.config, self.name = config, name
        self.tokenizer = Tokenizer(config.tokenizer)
        self.latent_action = make_latent_action(config.latent_action)
        self.dynamics = Dynamics(config.dynamics)
        self.prior = ActionPrior(config.prior) if config.prior else None
        self._engine: tuple[object, Engine] | None = None
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
    def sampling(self) -> SamplingConfig:
        """How new frames are drawn."""
        return self.config.sampling

    @property
    def has_prior(self) -> bool:
        """Whether there is an action prior."""
        return self.prior is not None

    engine_name: EngineName = "torch"

    @property
    def what_computes(self) -> str:
        """Processor, threads and number format, for people."""
        return describe(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Hash of weights and configs but for the prior's, which change no frame; 16 hex digits."""
        digest = hashlib.sha256(_described(self.config).encode())
        for name, tensor in self.state_dict().items():
            if name.startswith("prior."):
                continue
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "World":
        """Load a world, onto the accelerator where there is one.

        Args:
            folder: a checkpoint folder, or another name that `places.find_world` knows.

        Raises:
            UserError: if a file is missing or unreadable, the version is unknown, a field is
                unknown or missing, or weights do not have the shapes that config.json says.
        """
        folder = find_world(folder)
        world = cls(read_config(folder), name=folder.resolve().name)
        for net in world._nets:
            load_weights(getattr(world, net), folder / f"{net}.safetensors")
        return world.eval().to(best_device())

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write one safetensors file per net and, last, config.json.

        A folder without config.json is no world, so an old world and a new one never mix.

        Args:
            dtype: floats are rounded to it; torch.float16 halves the files and is still finer than
                bfloat16. None keeps them as they are.

        Raises:
            UserError: if the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").unlink(missing_ok=True)
            if not self.prior:
                remove_weights(folder / "prior.safetensors")  # of an earlier world
            for net in self._nets:
                save_weights(getattr(self, net), folder / f"{net}.safetensors", dtype)
            write_config(self.config, folder)

    def start(
        self,
        prompt: Clip,
        *,
        seed: int = 0,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
    ) -> Session:
        """A session that starts after the prompt's last frame.

        Args:
            prompt: one frame or several neighbouring ones (their motion continues).
            seed: same seed and actions give the same frames, bit for bit on one CPU.
            maskgit_steps: passes over a frame at most; None takes the world's own.
            temperature: of the token draws; None takes the world's own.
        """
        frames = _as_frames(prompt)
        frames = frames[None] if getattr(frames, "ndim", 0) == 3 else frames
        running = self.start_many(
            frames[None] if isinstance(frames, Tensor) else frames,  # refused there
            seeds=[seed],
            maskgit_steps=maskgit_steps,
            temperature=temperature,
        )
        return Session(running, self.num_actions)

    def start_many(
        self,
        prompts: UInt8[Tensor, "b t 3 h w"] | UInt8[np.ndarray, "b t 3 h w"],
        *,
        seeds: Sequence[int] | None = None,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
        compile: bool = False,
    ) -> Sessions:
        """Many sessions that run side by side in one forward pass.

        Args:
            prompts: as for `start`, one for each.
            seeds: one for each; None takes 0, 1, 2 and so on.
            compile: torch.compile the ST-blocks and, on a GPU, record CUDA graphs. The first frame
                then takes half a minute; worth it for large worlds. Needs a C++ compiler, or a GPU.

        Raises:
            UserError: if sizes or numbers do not fit, or there is no compiler.
        """
        sampling = self.sampling.changed(maskgit_steps, temperature)
        seeds = list(range(len(prompts)) if seeds is None else seeds)
        return Sessions(self._make_engine(sampling, compile), prompts, seeds, sampling)

    def read(
        self, prompts: UInt8[np.ndarray, "b t 3 h w"]
    ) -> tuple[Int64[np.ndarray, "b t n"], Int64[np.ndarray, "b t"]]:
        """The tokens of prompts, and the action that led to each of their frames."""
        return self._make_engine(self.sampling, compile=False).read(prompts)

    @torch.inference_mode()
    def infer(
        self, clip: UInt8[Tensor, "t 3 h w"] | UInt8[np.ndarray, "t h w 3"]
    ) -> Int[Tensor, " t-1"]:
        """The latent actions between a clip's neighbouring frames, inferred from its pixels.

        Args:
            clip: at least two neighbouring frames of the world's size.
        """
        frames = to_float(_as_frames(clip).to(self.device))
        return self.latent_action.infer(frames[None])[0].cpu()

    def rollout(
        self,
        prompt: UInt8[Tensor, "b t 3 h w"],
        actions: Int[Tensor, "b s"],
        *,
        seed: int = 0,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
    ) -> UInt8[Tensor, "b s 3 h w"]:
        """Free-running frames of a batch of worlds under given actions.

        Raises:
            UserError: if there is no action, or sizes or numbers do not fit.
        """
        if actions.ndim != 2 or not actions.shape[1]:
            raise UserError("a rollout needs at least one action for each world")
        # Far apart, so that rollouts with neighbouring seeds share no random numbers.
        seeds = [(seed + row * 2**32) % 2**63 for row in range(len(prompt))]
        running = self.start_many(
            prompt, seeds=seeds, maskgit_steps=maskgit_steps, temperature=temperature
        )
        frames = [running.step(action) for action in actions.cpu().unbind(1)]
        return torch.from_numpy(np.stack(frames, axis=1))

    @property
    def _nets(self) -> tuple[str, ...]:
        return (*NETS, "prior") if self.prior else NETS

    def _make_engine(self, sampling: SamplingConfig, compile: bool) -> Engine:
        """The engine, which all sessions share until a weight or one of these settings changes."""
        weights = *self.parameters(), *self.buffers()
        versions = tuple((weight.data_ptr(), weight._version) for weight in weights)
        key = compile, sampling.guidance, quick_dtype(self.device), versions
        if self._engine is None or self._engine[0] != key:
            self._engine = key, TorchEngine(self, sampling, compile=compile)
        return self._engine[1]


def make_latent_action(
    config: LatentActionConfig | STLatentActionConfig,
) -> LatentActionModel | STLatentActionModel:
    """The model that a config describes, with random weights."""
    if isinstance(config, STLatentActionConfig):
        return STLatentActionModel(config)
    return LatentActionModel(config)


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
    if version in (2, 3):
        values = _from_earlier(values)
    elif version != FORMAT_VERSION:
        raise UserError(
            f"{path} has version {version}, this program reads {FORMAT_VERSION}: "
            "update the program or train the world again"
        )
    return config_from_dict(WorldConfig, values, where=str(path))


def write_config(config: WorldConfig, folder: Path) -> None:
    """Write config.json of a checkpoint folder."""
    write_whole(folder / "config.json", json.dumps(asdict(config), indent=1) + "\n")


def _from_earlier(values: dict) -> dict:
    """There was no prior, and tokens had one digit; version 2 had no entropy bound either."""
    added = {"dynamics": {"factors": ()}}
    if values["version"] == 2:
        added["sampling"] = {"entropy_bound": 0.0}
    for part, fields in added.items():
        if isinstance(values.get(part), dict):
            values = values | {part: fields | values[part]}
    return {"prior": None} | values | {"version": FORMAT_VERSION}


def _described(config: WorldConfig) -> str:
    """The config as text, for the fingerprint.

    What an earlier version could say has its text: users' key bindings and recordings refer to
    that fingerprint.
    """
    described, version = repr(replace(config, prior=None)), f"version={config.version}"
    if config.dynamics.factors:
        return described
    for part in ("factors=(), ", "prior=None, "):
        described = described.replace(part, "")
    described = described.replace(version, "version=3")
    if config.sampling.entropy_bound == 0:
        described = described.replace("entropy_bound=0.0, ", "").replace("version=3", "version=2")
    return described


def _as_frames(clip: Clip) -> Tensor:
    return from_pictures(clip) if isinstance(clip, np.ndarray) else clip
