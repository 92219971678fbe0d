"""The worlds that are timed, and the uncached way in which others run them."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

import genie
from genie.frames import to_uint8
from genie.machine import best_device
from genie.maskgit import reveal
from genie.playable import GraphWorld, open_world
from genie.sampling import Pace, SamplingConfig, fill_frame
from genie.session import Sessions
from genie.torch_engine import TorchEngine
from genie.world import World, WorldConfig
from train.presets import PRESETS

REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def shipped_world() -> World:
    """The shipped CoinRun."""
    return genie.load(REPOSITORY / "checkpoints" / "coinrun")


@cache
def shipped_graphs() -> GraphWorld:
    """The shipped CoinRun as play opens it where there is no GPU."""
    return open_world(REPOSITORY / "checkpoints" / "coinrun", "onnxruntime")


@cache
def paper_world() -> World:
    """The paper's CoinRun size with random weights: 256 tokens, 12 blocks of width 512."""
    pixels = PRESETS["paper"].tokenizer.model
    shape = {"num_tokens": pixels.num_tokens, "codebook_size": pixels.codebook.size}
    torch.manual_seed(0)
    return World(
        WorldConfig(
            tokenizer=pixels,
            latent_action=PRESETS["nano"].latent_action.model,  # not used to generate frames
            dynamics=replace(PRESETS["paper"].dynamics.model, **shape),
            sampling=PRESETS["paper"].dynamics.sampling,
        ),
        name="paper size",
    ).to(best_device())


@torch.inference_mode()
def start(
    world: World | GraphWorld, age: int, rows: int = 1, compile: bool = False, **sampling
) -> Sessions:
    """Sessions that have run for `age` frames, on the world's own engine.

    Fills the ring frame by frame and then only sets the clock: older frames have no effect.
    """
    prompts = torch.randint(256, (rows, 1, 3, *world.size), dtype=torch.uint8)
    config = replace(world.sampling, **sampling)
    if isinstance(world, GraphWorld):
        engine = world.engine
    else:
        engine = TorchEngine(world, config, compile=compile)
    running = Sessions(engine, prompts, range(rows), config)
    filled = min(age, running._past.capacity + 1)
    for step in range(1, filled):
        running.step(torch.full((rows,), step % world.num_actions))
    running.prepare()
    for ring in (running._past, running._shown):
        ring.num_frames += age - filled
    return running


class Uncached:
    """The same weights, number format and passes, but the whole history in every pass.

    As in open re-implementations of Genie: no cache, logits of every frame, all decoded; eager.
    """

    @torch.inference_mode()
    def __init__(self, world: World, age: int, sampling: SamplingConfig) -> None:
        self.nets, self.sampling = TorchEngine(world, sampling), sampling
        self.tokenizer = world.tokenizer
        config = world.config.dynamics
        size, self.device = (1, age, config.num_tokens), world.device
        self.past = torch.randint(config.codebook_size, size, device=self.device)
        self.actions = torch.randint(config.num_actions, (1, age + 1), device=self.device)

    @torch.inference_mode()
    def step(self) -> UInt8[Tensor, "1 3 h w"]:
        """Generate one frame."""
        n, mask_id = self.past.shape[2], self.nets.mask_id
        tokens = fill_frame(self._reveal, np.full((1, n), mask_id), mask_id, self.sampling)
        newest = torch.from_numpy(tokens).to(self.device)
        return self._decode(torch.cat([self.past, newest[:, None]], dim=1))

    def _reveal(self, tokens: Int[np.ndarray, "1 n"], number: int, pace: Pace) -> np.ndarray:
        shown = torch.from_numpy(tokens).to(self.device)
        noise = torch.rand(1, 2, tokens.shape[1], device=self.device)
        numbers = Pace(*(torch.from_numpy(np.asarray(x)).to(self.device) for x in pace))
        logits = self._logits(shown, guided=number == 0)
        return reveal(logits, shown, noise, self.nets.dynamics.factors, numbers).cpu().numpy()

    def _logits(self, newest: Int[Tensor, "1 n"], *, guided: bool) -> Tensor:
        clip = torch.cat([self.past, newest[:, None]], dim=1)
        conditional = self._pass(clip, self.actions)
        if self.sampling.guidance == 1 or not guided:
            return conditional
        unknown = self.actions.clone()
        unknown[:, -1] = self.nets.dynamics.no_action
        unconditional = self._pass(clip, unknown)
        return unconditional + self.sampling.guidance * (conditional - unconditional)

    def _pass(self, clip: Int[Tensor, "1 t n"], actions: Int[Tensor, "1 t"]) -> Tensor:
        dynamics = self.nets.dynamics
        return dynamics.out(dynamics.transformer(dynamics._embed(clip, actions)))[:, -1]

    def _decode(self, tokens: Int[Tensor, "1 t n"]) -> UInt8[Tensor, "1 3 h w"]:
        decoder, tokenizer = self.nets.decoder, self.nets.decoder.tokenizer
        features = tokenizer.decoder(decoder.codes(tokens) + tokenizer.decoder_position)
        pixels = tokenizer.head(features.flatten(0, 1).mT.unflatten(2, tokenizer.config.grid))
        return to_uint8(pixels[-1:].float())
