"""The one training loop: prepare, step, log, evaluate on held-out clips, save, resume.

In: a net whose forward returns (loss, metrics), and clips. Out: a finished run folder. The steps
are the same in one process or several, on one host or several, with the net replicated or sharded.
Does not depend on any particular net.

Source: for the optimisers and the learning rate see `schedule.py`; sharding is FSDP (Zhao et al.
2023, arXiv:2304.11277).
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.data import ConcatDataset, DataLoader
from tqdm import tqdm

from genie.compiling import compile_parts, failed_to_compile, give_up_compiling, uncompiled
from genie.data.clips import Clips
from genie.errors import UserError
from genie.frames import to_float
from genie.machine import best_device, has_fast_bf16
from genie.st_transformer import STBlock, recompute_blocks
from train.loop.clip_order import Pool, StepSampler, fit_pools, mix
from train.loop.config import LoopConfig
from train.loop.ema import WeightAverage
from train.loop.progress import ByClock, BySteps, Progress
from train.loop.resident import ResidentBatches, ResidentClips, fit_on_device
from train.loop.run_folder import RunFolder, is_finished
from train.loop.schedule import learning_rate, make_optimizers
from train.loop.shared_memory import check_shared_memory
from train.loop.speed import Speedometer, Stopwatch
from train.loop.stopping import Stopper
from train.loop.trackers import check_trackers, show_pictures, start_trackers

MOST_STRIKES = 3  # a run ends when the net has collapsed at so many evaluations in a row
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)

Judge = Callable[[Any, Path | None], dict[str, float]]  # each for one kind of net
"""Draws pictures into a folder, if one is given, and returns further held-out figures."""


@dataclass(frozen=True)
class Replay:
    """Clips of an older game, mixed into those of the new one."""

    clips: Clips
    """The older game's."""
    share: float
    """Share of every step's clips that are the older game's, 0..1."""


class Trainer:
    """Trains one net to its last step, starting from the newest state in the run folder."""

    def __init__(
        self,
        net: nn.Module,
        train_clips: Clips,
        heldout_clips: Clips,
        config: LoopConfig,
        folder: Path,
        description: dict[str, Any],
        *,
        replay: Replay | None = None,
        judge: Judge | None = None,
        advise: Callable[[dict[str, float]], str] | None = None,
        then: Sequence[str] = (),
        until: float = 0,
    ) -> None:
        """Open the folder, read the newest state, and divide the clips among the processes.

        Args:
            folder: of this stage.
            description: all that determines the result, for `RunFolder`.
            replay: clips of an older game, so that the net does not forget it.
            judge: called at every evaluation.
            advise: from held-out metrics, what is wrong and what to do, or "".
            then: commands that use the result, for `RunFolder`.
            until: seconds after which the run ends; 0 takes `config.num_steps` instead.

        Raises:
            UserError: see `RunFolder`; or if a tracker cannot be started, or the batch cannot be
                divided among the processes or does not fit into the shared memory.
        """
        self.config, self.net, self.judge, self.advise = config, net, judge, advise
        check_trackers(config.trackers)
        self.accelerator = Accelerator(
            cpu=best_device().type == "cpu",
            mixed_precision=mixed_precision(config.precision),
            log_with=[*config.trackers] or None,
            project_dir=folder,
        )
        pools = [_pool(train_clips, config.batch_size)]
        clips = [train_clips]
        if replay:
            old = round(replay.share * config.batch_size)
            pools = [_pool(train_clips, config.batch_size - old), _pool(replay.clips, old)]
            clips = [train_clips, replay.clips]
        num_processes = self.accelerator.num_processes
        num_parts = num_processes * config.accumulation
        self.pools = fit_pools(pools, num_parts)
        num_clips = sum(pool.per_step for pool in self.pools)
        self.is_resident = config.resident == "yes" or (
            config.resident == "auto"
            and fit_on_device([*clips, heldout_clips], self.accelerator.device)
        )
        if not self.is_resident:
            check_shared_memory(train_clips, num_clips // num_parts, config.num_workers)
        self.is_main = self.accelerator.is_main_process
        self.evaluation: dict[str, float] = {}
        self.path, self.name = folder, folder.name
        self.is_sharded = config.shard and self.accelerator.num_processes > 1
        keep = config.keep_states
        self.folder = RunFolder(folder, description, keep, then=then) if self.is_main else None
        state = self.folder.resume() if self.folder else None
        strikes = self._count_strikes()
        # With a single process, this returns the list as it is.
        state, self.strikes = broadcast_object_list([state, strikes])
        self.step = state["step"] if state else 0
        self.progress = _progress(config, until, state)
        # A finished run stays finished, even if its states are gone.
        self.is_over = is_finished(folder) or self.progress.is_over(self.step)
        if state:
            net.load_state_dict(state["net"])
        self.speed = Speedometer(net, self.accelerator, train_clips, num_clips, _arguments)
        self._wrap(state)
        start_trackers(self.accelerator, description)
        here = self.accelerator.process_index, num_processes
        self.batches = self._batches(clips, StepSampler(self.pools, config, self.step, *here))
        # Every process evaluates all clips: the forward pass of a sharded net needs all processes.
        pools = [_pool(heldout_clips, min(num_clips, len(heldout_clips)))]
        in_one_part = replace(config, accumulation=1)
        self.heldout = self._batches([heldout_clips], StepSampler(pools, in_one_part, 0))

    def run(self) -> dict[str, float]:
        """Train to the end and return the held-out metrics of the last evaluation.

        Raises:
            UserError: if the loss is not finite, the net has collapsed, or the disk is full.
            KeyboardInterrupt: after Ctrl-C, once the state is saved.
            SystemExit: after a TERM, once the state is saved.
        """
        config, stopper, watch = self.config, Stopper(), Stopwatch()
        # Shapes stay the same from here on, so that it pays to time cuDNN's kernels.
        torch.backends.cudnn.benchmark = self.accelerator.device.type == "cuda"
        batches = iter(self.batches)
        with self._bar() as bar, stopper.listening():
            if self._lacks_evaluation():
                self._judge(bar, self.is_over)
            watch.start()
            compiled = not config.compile
            while not self.is_over:
                with watch.waiting():
                    parts = [next(batches) for _ in range(config.accumulation)]
                metrics = self._train_step(parts) if compiled else self._first_step(parts, bar)
                compiled = True
                self.step += 1
                self.average.update(self.step)
                watch.num_steps += 1
                bar.update()
                self.is_over = last = self.progress.is_over(self.step)
                stops = self._stops(stopper)
                saves = self._saves() or last or stops
                if saves or self.step % config.log_every == 0:
                    shown = self._checked(metrics)
                if self.step % config.log_every == 0 or last:
                    # Reading the metrics has waited for the device: the time includes its work.
                    seconds = watch.figures()
                    speed = self.speed.figures(seconds["step_s"])
                    self._log("train", shown | seconds | speed)
                    bar.set_postfix_str(_brief(shown | speed), refresh=False)
                if saves:  # before the evaluation, which takes long
                    self._save()
                if self.step % config.evaluate_every == 0 or last:
                    self._judge(bar, last)
                if stops and not last:
                    stopper.leave()
                if saves or self.step % config.log_every == 0:
                    watch.start()
        return self._outcome()

    def finish(self) -> None:
        """Accept the result: from here on the next stage may read the weights."""
        with self.average.in_place():  # written inside: the tensors may be the net's own
            weights = get_model_state_dict(self.net, options=WHOLE)
            if self.folder:
                self.folder.finish(cast(dict[str, torch.Tensor], weights), self.step)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()

    def _wrap(self, state: dict[str, Any] | None) -> None:
        """Prepare the net for all processes; make its optimisers and its weight average."""
        config, net = self.config, self.net
        if config.recompute:
            recompute_blocks(net)
        if config.compile:
            compile_parts(net)
        if self.is_sharded:
            self.model = _shard(net, self.accelerator)
        else:
            self.model = self.accelerator.prepare(net)
        self.raw_optimizers = make_optimizers(net, config)
        self.average = WeightAverage(net, config.average)
        if state:
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(net, self.raw_optimizers, state["optimizer"], options=options)
            self.average.load(state["average"])
        self.optimizers = [self.accelerator.prepare(one) for one in self.raw_optimizers]

    def _count_strikes(self) -> int:
        """Count the latest evaluations in a row at which the net had collapsed."""
        if not (self.folder and self.advise):
            return 0
        return sum(1 for _ in takewhile(self.advise, reversed(self.folder.evaluations())))

    def _first_step(self, parts: list[Any], bar: tqdm) -> dict[str, Any]:
        """Take the step that compiles the net; if the compiler fails, warn and do without."""
        try:
            return self._train_step(parts)
        except RuntimeError as error:
            if not failed_to_compile(error):
                raise
            why = " ".join(str(error).split())[:200]
            bar.write(f"warning: {self.name} is not compiled, since the compiler failed: {why}")
        give_up_compiling()
        self._forget_gradients()
        return self._train_step(parts)

    def _train_step(self, parts: list[Any]) -> dict[str, Any]:
        rate = learning_rate(self.config, self.step, self.progress.share(self.step))
        for optimizer in self.raw_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        seen: list[dict[str, Any]] = []
        for number, part in enumerate(parts):
            # Random draws depend on these numbers only, so that a resumed run repeats them.
            _seed(self.config.seed, self.step, self.accelerator.process_index, number)
            with self._syncing(number == len(parts) - 1), self.accelerator.autocast():
                loss, metrics = self.model(*_arguments(part, self.accelerator.device))
            self.accelerator.backward(loss / len(parts))
            seen.append({"loss": loss.detach()} | metrics)
        norm = self.accelerator.clip_grad_norm_(self.net.parameters(), self.config.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self._forget_gradients()
        means = {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
        return means | {"grad_norm": norm, "learning_rate": rate}

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _lacks_evaluation(self) -> bool:
        """Whether an earlier process was killed after saving this state and before evaluating."""
        due = self.step % self.config.evaluate_every == 0 or self.is_over
        if not self.step or not due or is_finished(self.path):
            return False
        past = self.folder.evaluations() if self.folder else []
        lacks = self.step not in [figures["step"] for figures in past]
        return broadcast_object_list([lacks])[0]

    def _outcome(self) -> dict[str, float]:
        """Return the last evaluation, even an earlier process's; refuse a collapsed net again."""
        if not self.evaluation and self.folder:
            self.evaluation = self.folder.evaluations()[-1]
            advice = self.advise(self.evaluation) if self.advise else ""
            if advice:
                raise UserError(advice)
        return self.evaluation

    def _syncing(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Exchange gradients between processes only once a step, after its last part."""
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model)

    def _stops(self, stopper: Stopper) -> bool:
        """Whether any process was asked to stop; several processes compare when they log."""
        stops = stopper.signal is not None
        if self.accelerator.num_processes == 1:
            return stops
        if self.step % self.config.log_every:
            return False  # comparing makes all devices wait
        requests = torch.tensor(int(stops), device=self.accelerator.device)
        return bool(self.accelerator.reduce(requests, "sum").item())

    def _saves(self) -> bool:
        # A longer run starts from the state before the rate falls.
        return self.progress.saves(self.step) or self.step == self._milestone

    @property
    def _milestone(self) -> int:
        """Steps before the rate falls: they are the same however long the run will be."""
        return self.config.last_stable_step if isinstance(self.progress, BySteps) else 0

    def _save(self) -> None:
        """Write everything needed to resume; all processes take part, the main one writes."""
        optimizer = get_optimizer_state_dict(self.net, self.raw_optimizers, options=WHOLE)
        state = {
            "step": self.step,
            "net": get_model_state_dict(self.net, options=WHOLE),
            "optimizer": optimizer,
            "average": self.average.state(),
        }
        if isinstance(self.progress, ByClock):
            state["passed_s"] = self.progress.passed_s
        if not self.folder:
            return
        self.folder.states.save(self.step, state, milestone=self._milestone)
        if isinstance(self.progress, ByClock):
            with self.average.in_place():
                self.folder.show(self.net)

    def _checked(self, metrics: dict[str, Any]) -> dict[str, float]:
        """Average a step's metrics over the processes.

        Raises:
            UserError: if the loss or the gradient norm is not finite.
        """
        numbers = _numbers(metrics)
        if self.accelerator.num_processes > 1:
            mine = torch.tensor(list(numbers.values()), device=self.accelerator.device)
            means = self.accelerator.reduce(mine, "mean").tolist()
            numbers = dict(zip(numbers, means, strict=True))
        broken = [name for name in ("loss", "grad_norm") if not math.isfinite(numbers[name])]
        if broken:
            raise UserError(
                f"the {broken[0].replace('_', ' ')} became {numbers[broken[0]]} at step "
                f"{self.step}: lower --loop.learning-rate and start over in a new run folder; "
                "earlier states are kept"
            )
        return numbers

    def _log(self, split: str, figures: dict[str, float]) -> None:
        if self.folder:
            self.folder.log(self.step, split, figures)
        self.accelerator.log({f"{split}/{name}": x for name, x in figures.items()}, step=self.step)

    def _judge(self, bar: tqdm, last: bool) -> None:
        """Evaluate the averaged net on held-out clips, and end the run if it has collapsed.

        Raises:
            UserError: if it has collapsed, with what to do about it.
        """
        eager = uncompiled() if self.config.compile else contextlib.nullcontext()
        with self.average.in_place(), eager:
            figures = self._evaluate()
            if self.judge and self.is_main and not self.is_sharded:
                samples = self.path / "samples" / f"step-{self.step:07d}"
                figures |= self.judge(self.net, samples if self.config.pictures else None)
                show_pictures(self.accelerator, samples, self.step)
        self.accelerator.wait_for_everyone()
        self.net.train()
        self.evaluation = figures
        self._log("heldout", figures)
        if self.is_main:
            bar.write(f"{bar.desc} step {self.step} held-out: {_brief(figures)}")
        advice = self.advise(figures) if self.advise else ""
        self.strikes = self.strikes + 1 if advice else 0
        if advice and (last or self.strikes >= MOST_STRIKES):
            raise UserError(advice)
        if advice and self.is_main:
            bar.write(f"warning: {advice} ({self.strikes} of {MOST_STRIKES} times in a row)")

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Average the metrics over held-out batches, in every process over the same ones."""
        self.net.eval()
        set_seed(self.config.seed)
        gathered: dict[str, list[float]] = {}
        for _, batch in zip(range(self.config.evaluate_batches), self.heldout, strict=False):
            with self.accelerator.autocast():
                loss, metrics = self.net(*_arguments(batch, self.accelerator.device))
            for name, value in _numbers({"loss": loss} | metrics).items():
                gathered.setdefault(name, []).append(value)
        for module in self.net.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # otherwise the backward pass does it
        return {name: sum(values) / len(values) for name, values in gathered.items()}

    def _batches(self, clips: Sequence[Clips], sampler: StepSampler) -> Iterable[Any]:
        """Batches of the rows that the sampler gives, counted through all clips in order."""
        if self.is_resident:
            return ResidentBatches(ResidentClips(clips, self.accelerator.device), sampler)
        for part in clips:
            part.store.hold()
        return DataLoader(
            ConcatDataset(clips),
            batch_sampler=sampler,
            num_workers=self.config.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.config.num_steps if isinstance(self.progress, BySteps) else None,
            initial=self.step,
            desc=self.name,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
            disable=not self.is_main,
        )


def _progress(config: LoopConfig, until: float, state: dict[str, Any] | None) -> Progress:
    if until:
        return ByClock(until, state["passed_s"] if state else 0.0)
    return BySteps(config.num_steps, config.save_every)


def _pool(clips: Clips, per_step: int) -> Pool:
    return Pool(len(clips), per_step, clips.block_sizes)


def _shard(net: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Shard weights, gradients and moments of the net over the processes, block by block."""
    net.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in (module for module in net.modules() if isinstance(module, STBlock)):
        fully_shard(block, mesh=mesh)
        for half in ("within_frame", "across_frames"):  # called instead of the block's forward
            register_fsdp_forward_method(block, half)
    fully_shard(net, mesh=mesh)
    return net


def mixed_precision(precision: str) -> str:
    """Translate `LoopConfig.precision` for `Accelerator`: bf16, no, or what its launcher chose."""
    if precision != "auto":
        return "bf16" if precision == "bf16" else "no"
    # `accelerate launch` sets "no" even if nobody chose it, so only other values are a choice.
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return launched if launched != "no" else "bf16" if has_fast_bf16(best_device()) else "no"


def _seed(*numbers: int) -> None:
    """Side effect: seeds all random generators from these numbers."""
    set_seed(mix(*numbers) % 2**32)


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {
        name: _whole(value).float().mean().item() if isinstance(value, torch.Tensor) else value
        for name, value in metrics.items()
    }


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _arguments(batch: Any, device: torch.device | str = "cpu") -> tuple[torch.Tensor, ...]:
    """A batch as arguments of a net: frames from 0..255 to 0..1, tokens and actions unchanged."""
    if isinstance(batch, torch.Tensor):
        return (to_float(batch.to(device, non_blocking=True)),)
    return tuple(part.to(device, non_blocking=True) for part in batch)


def _brief(metrics: dict[str, float]) -> str:
    return " ".join(
        f"{name}={value:.3g}"
        for name, value in metrics.items()
        if name not in {"learning_rate", "grad_norm"}
    )
