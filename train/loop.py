"""The one training loop: prepare, step, log, evaluate on held-out clips, save, resume.

In: a net whose forward gives (loss, metrics), and clips. Out: a run folder with config.json,
metrics.jsonl, state.pt (everything needed to go on) and weights.safetensors.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from genie import video
from genie.checkpoint import load_weights, save_weights
from genie.data import Clips
from genie.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a net is trained."""

    num_steps: int
    """Optimiser steps in all."""
    batch_size: int
    """Clips per step and process."""
    learning_rate: float
    """At the top of the schedule."""
    final_learning_rate: float = 0.0
    """At the last step."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """wsd: warm up, stay, fall linearly over the last decay_share. cosine: fall all the way."""
    warmup_steps: int = 100
    """Steps over which the rate rises from 0."""
    decay_share: float = 0.4
    """Share of the steps in which the rate falls (wsd only)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    weight_decay: float = 1e-4
    """AdamW's; matrices only."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bf16 where this machine computes it quickly, or what `accelerate launch` was told."""
    compile: bool = False
    """torch.compile the net where it trains on a GPU; a CPU always runs it eagerly."""
    seed: int = 0
    """Of the weights, the order of the clips and every draw while training."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    evaluate_every: int = 400
    """Steps between two evaluations on held-out clips; there is always one at the end."""
    evaluate_batches: int = 8
    """Batches in one evaluation."""
    save_every: int = 200
    """Steps between two saves of state.pt; there is always one at the end."""
    num_workers: int = 0
    """Processes that load clips; 0 loads in the training process."""

    def __post_init__(self) -> None:
        counts = ("num_steps", "batch_size", "log_every", "evaluate_every", "save_every")
        for name in (*counts, "evaluate_batches"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: 1 or more is wanted")
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate is {self.learning_rate}: more than 0 is wanted")


class Trainer:
    """Trains one net to its last step, from wherever the run folder says it had got to."""

    def __init__(
        self,
        net: nn.Module,
        train_clips: Clips,
        heldout_clips: Clips,
        config: LoopConfig,
        folder: Path,
        description: dict[str, Any],
    ) -> None:
        """Args: folder: of this stage. description: everything that makes this run what it is."""
        self.config, self.folder, self.net = config, folder, net
        self.accelerator = Accelerator(mixed_precision=_mixed_precision(config.precision))
        self.optimizer = _optimizer(net, config)
        self.step = 0
        _claim_folder(folder, description)
        self._resume()
        self.model, self.optimizer = self.accelerator.prepare(net, self.optimizer)
        if config.compile and self.accelerator.device.type == "cuda":
            self.model = torch.compile(self.model)
        self.batches = self._loader(train_clips, _StepSampler(train_clips, config, self.step))
        self.heldout = self._loader(heldout_clips, _StepSampler(heldout_clips, config, 0))

    def run(self) -> dict[str, float]:
        """Train to the end; gives the held-out metrics of the last evaluation."""
        config, final = self.config, {}
        bar = tqdm(
            total=config.num_steps,
            initial=self.step,
            desc=self.folder.name,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        )
        batches = iter(self.batches)
        while self.step < config.num_steps:
            started = time.perf_counter()
            batch = next(batches)
            loaded = time.perf_counter()
            metrics = self._train_step(batch)
            self.step += 1
            bar.update()
            last = self.step == config.num_steps
            if self.step % config.log_every == 0 or last:
                shown = self._numbers(metrics)
                seconds = {"step_s": time.perf_counter() - started, "wait_s": loaded - started}
                self._log("train", shown | seconds)
                bar.set_postfix_str(_brief(shown), refresh=False)
                self._check_finite(shown)
            if self.step % config.evaluate_every == 0 or last:
                final = self._evaluate()
                bar.write(f"{self.folder.name} step {self.step} held-out: {_brief(final)}")
            if self.step % config.save_every == 0 or last:
                self._save()
        bar.close()
        return final or _last_evaluation(self.folder)

    def _train_step(self, batch: Any) -> dict[str, Any]:
        # A step's draws depend on its number alone, so a resumed run repeats an unbroken one.
        torch.manual_seed(_mix(self.config.seed, self.step, self.accelerator.process_index))
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.accelerator.autocast():
            loss, metrics = self.model(*_arguments(batch))
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.net.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.detach()} | metrics | {"grad_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        self.net.eval()
        torch.manual_seed(self.config.seed)
        gathered: dict[str, list[float]] = {}
        for _, batch in zip(range(self.config.evaluate_batches), self.heldout, strict=False):
            with self.accelerator.autocast():
                loss, metrics = self.net(*_arguments(batch))
            for name, value in self._numbers({"loss": loss} | metrics).items():
                gathered.setdefault(name, []).append(value)
        self.net.train()
        means = {name: sum(values) / len(values) for name, values in gathered.items()}
        self._log("heldout", means)
        return means

    def _loader(self, clips: Clips, sampler: "_StepSampler") -> DataLoader:
        return self.accelerator.prepare(
            DataLoader(clips, batch_sampler=sampler, num_workers=self.config.num_workers)
        )

    def _numbers(self, metrics: dict[str, Any]) -> dict[str, float]:
        return {
            name: value.float().mean().item() if isinstance(value, torch.Tensor) else float(value)
            for name, value in metrics.items()
        }

    def _check_finite(self, metrics: dict[str, float]) -> None:
        if not math.isfinite(metrics["loss"]):
            raise UserError(
                f"the loss became {metrics['loss']} at step {self.step}: lower --loop.learning-rate"
                f" and start over in a new run folder; the last good state is in {self.folder}"
            )

    def _log(self, split: str, metrics: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            line = {"step": self.step, "split": split}
            line |= {name: float(f"{value:.6g}") for name, value in metrics.items()}
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.folder / ".state.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "state.pt")
        if self.step == self.config.num_steps:
            save_weights(self.net, self.folder / "weights.safetensors")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        _drop_lines_after(self.folder / "metrics.jsonl", self.step)


class _StepSampler:
    """Rows of the batch of every step: a seeded shuffle per epoch, which can start anywhere."""

    def __init__(self, clips: Clips, config: LoopConfig, first_step: int) -> None:
        self.num_clips, self.first_step = len(clips), first_step
        self.batch_size = min(config.batch_size, len(clips))
        self.num_steps, self.seed = config.num_steps, config.seed

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.num_clips // self.batch_size
        epoch, order = -1, torch.empty(0)
        # Every process takes its share of the stream, so it must outlast num_steps batches.
        for index in range(self.first_step, sys.maxsize):
            if index // per_epoch != epoch:
                epoch = index // per_epoch
                generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
                order = torch.randperm(self.num_clips, generator=generator)
            start = index % per_epoch * self.batch_size
            yield order[start : start + self.batch_size].tolist()


def learning_rate(config: LoopConfig, step: int) -> float:
    """The schedule's rate at a step (0-based)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        fall = 0.5 + 0.5 * math.cos(math.pi * step / config.num_steps)
    else:
        left = (config.num_steps - step) / config.num_steps
        fall = min(1.0, left / max(1e-9, config.decay_share))
    span = config.learning_rate - config.final_learning_rate
    return warmup * (config.final_learning_rate + span * fall)


def is_finished(folder: Path) -> bool:
    """Whether a stage has reached its last step."""
    return (folder / "weights.safetensors").is_file()


def read_description(folder: Path) -> dict[str, Any]:
    """The config.json of a stage.

    Raises:
        UserError: if the stage was never started.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no training: run train/{folder.name}.py first")
    return json.loads(path.read_text())


def load_finished(net: nn.Module, folder: Path) -> nn.Module:
    """The net with a finished stage's weights, in evaluation mode.

    Raises:
        UserError: if the stage has not finished.
    """
    if not is_finished(folder):
        raise UserError(
            f"{folder} holds no finished training: run train/{folder.name}.py to its end first"
        )
    load_weights(net, folder / "weights.safetensors")
    return net.eval()


def has_fast_bf16() -> bool:
    """Whether this machine's matrix units compute in bf16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _mixed_precision(precision: str) -> str:
    if precision == "auto":
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        return launched if launched != "no" else "bf16" if has_fast_bf16() else "no"
    return "bf16" if precision == "bf16" else "no"


def _optimizer(net: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def _claim_folder(folder: Path, description: dict[str, Any]) -> None:
    """Write the description into a new run folder, or check that it is the run that is there."""
    path = folder / "config.json"
    wanted = json.loads(json.dumps(description, default=str))
    if path.is_file():
        found = json.loads(path.read_text())
        different = _first_difference(found, wanted)
        if different:
            raise UserError(
                f"{folder} holds a run with other settings ({different}): repeat its command to "
                "go on, or choose another --run folder"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def _first_difference(found: Any, wanted: Any, name: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            difference = _first_difference(found.get(key), wanted.get(key), f"{name}.{key}")
            if difference:
                return difference
        return ""
    return "" if found == wanted else f"{name.lstrip('.')}: {found} there, {wanted} now"


def _last_evaluation(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "heldout"][-1]


def _drop_lines_after(path: Path, step: int) -> None:
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines))


def _arguments(batch: Any) -> tuple[torch.Tensor, ...]:
    """Frames are stored in 0..255 and wanted in 0..1; tokens and actions go as they are."""
    return (video.to_float(batch),) if isinstance(batch, torch.Tensor) else tuple(batch)


def _brief(metrics: dict[str, float]) -> str:
    return " ".join(
        f"{name}={value:.3g}"
        for name, value in metrics.items()
        if name not in {"learning_rate", "grad_norm", "step", "split"}
    )


def _mix(*numbers: int) -> int:
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 12_345) % 2**63
    return mixed


def describe(**parts: Any) -> dict[str, Any]:
    """A run's description for its config.json: dataclasses become dictionaries."""
    return {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in parts.items()}
