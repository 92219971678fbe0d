"""The one training loop: prepare, step, log, evaluate on held-out clips, save, resume.

In: a net whose forward gives (loss, metrics), and clips. Out: a finished run folder. Knows no
particular net.
"""

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from genie import video
from genie.data import Clips
from genie.errors import UserError
from genie.machine import best_device, has_fast_bf16
from genie.st_transformer import compile_blocks, recompute_blocks
from train.batches import StepSampler, mix
from train.config import LoopConfig
from train.run_folder import RunFolder
from train.schedule import learning_rate, make_optimizer
from train.speed import Speedometer


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
        """Args: folder: of this stage. description: everything that makes this run what it is.

        Raises:
            UserError: see `RunFolder`; or if several processes were launched.
        """
        self.config, self.net = config, net
        self.accelerator = Accelerator(mixed_precision=_mixed_precision(config.precision))
        if self.accelerator.num_processes > 1:
            raise UserError("training runs in one process: accelerate launch --num_processes 1")
        self.folder = RunFolder(folder, description)
        self.optimizer = make_optimizer(net, config)
        self.step = self.folder.load(net, self.optimizer)
        self.speed = Speedometer(net, self.accelerator, train_clips, config.batch_size, _arguments)
        if config.recompute:
            recompute_blocks(net)
        if config.compile:
            compile_blocks(net)
        self.model, self.optimizer = self.accelerator.prepare(net, self.optimizer)
        self.batches = self._loader(train_clips, self.step)
        self.heldout = self._loader(heldout_clips, 0)

    def run(self) -> dict[str, float]:
        """Train to the end; gives the held-out metrics of the last evaluation."""
        config, name = self.config, self.folder.path.name
        bar = tqdm(
            total=config.num_steps,
            initial=self.step,
            desc=name,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
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
            saves = self.step % config.save_every == 0 or last
            if saves:
                self._check_finite(metrics)
            if self.step % config.log_every == 0 or last:
                self._check_finite(metrics)
                shown = _numbers(metrics)
                # Reading the metrics has waited for the device, so the clock tells the whole step.
                seconds = {"step_s": time.perf_counter() - started, "wait_s": loaded - started}
                speed = self.speed.figures(seconds["step_s"])
                self.folder.log(self.step, "train", shown | seconds | speed)
                bar.set_postfix_str(_brief(shown | speed), refresh=False)
            if self.step % config.evaluate_every == 0 or last:
                bar.write(f"{name} step {self.step} held-out: {_brief(self._evaluate())}")
            if saves:
                self.folder.save(self.step, self.net, self.optimizer)
        bar.close()
        return self.folder.last_evaluation()

    def finish(self) -> None:
        """Accept the result: from here on the next stage may read the weights."""
        self.folder.finish(self.net)

    def _train_step(self, batch: Any) -> dict[str, Any]:
        # A step's draws depend on its number alone, so a resumed run repeats an unbroken one.
        torch.manual_seed(mix(self.config.seed, self.step, self.accelerator.process_index))
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
            for name, value in _numbers({"loss": loss} | metrics).items():
                gathered.setdefault(name, []).append(value)
        self.net.train()
        means = {name: sum(values) / len(values) for name, values in gathered.items()}
        self.folder.log(self.step, "heldout", means)
        return means

    def _loader(self, clips: Clips, first_step: int) -> DataLoader:
        sampler = StepSampler(len(clips), self.config, first_step)
        return self.accelerator.prepare(
            DataLoader(clips, batch_sampler=sampler, num_workers=self.config.num_workers)
        )

    def _check_finite(self, metrics: dict[str, Any]) -> None:
        loss = metrics["loss"].item()
        if not math.isfinite(loss):
            raise UserError(
                f"the loss became {loss} at step {self.step}: lower --loop.learning-rate"
                f" and start over in a new run folder; {self.folder.path} has the last good state"
            )


def _mixed_precision(precision: str) -> str:
    if precision != "auto":
        return "bf16" if precision == "bf16" else "no"
    # `accelerate launch` says "no" also where nobody chose, so only another answer is a wish.
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return launched if launched != "no" else "bf16" if has_fast_bf16(best_device()) else "no"


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {
        name: value.float().mean().item() if isinstance(value, torch.Tensor) else float(value)
        for name, value in metrics.items()
    }


def _arguments(batch: Any) -> tuple[torch.Tensor, ...]:
    """Frames are stored in 0..255 and wanted in 0..1; tokens and actions go as they are."""
    return (video.to_float(batch),) if isinstance(batch, torch.Tensor) else tuple(batch)


def _brief(metrics: dict[str, float]) -> str:
    return " ".join(
        f"{name}={value:.3g}"
        for name, value in metrics.items()
        if name not in {"learning_rate", "grad_norm"}
    )
