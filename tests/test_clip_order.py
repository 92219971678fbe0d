"""The order of clips: a function of seed and step, however many processes and parts share it."""

import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train import loop_config, on_one_core, open_stores, small_trainer  # noqa: F401
from torch import nn

from genie.data.clips import Clips
from genie.errors import UserError
from train.loop import shared_memory
from train.loop.clip_order import BLOCKS_AT_ONCE, Pool, StepSampler, fit_pools, mix
from train.loop.trainer import Replay


@st.composite
def pools_of_all_kinds(draw: st.DrawFn) -> list[Pool]:
    pools = []
    for _ in range(draw(st.integers(1, 3))):
        blocks = draw(st.lists(st.integers(1, 15), min_size=1, max_size=6))
        per_step = draw(st.integers(1, min(12, sum(blocks))))
        pools.append(Pool(sum(blocks), per_step, tuple(blocks) * draw(st.booleans())))
    return pools


POOLS = pools_of_all_kinds()


def steps(pools: list[Pool], count: int, first: int = 0, seed: int = 0) -> list[list[int]]:
    """Rows of the first steps of one process."""
    return list(islice(StepSampler(pools, loop_config(seed=seed), first), count))


@given(POOLS, st.integers(0, 5))
def test_an_epoch_shows_every_clip_of_a_pool_at_most_once_and_all_that_fill_a_step(pools, seed):
    offset = 0
    for number, pool in enumerate(pools):
        per_epoch = pool.num_clips // pool.per_step
        before = sum(pool.per_step for pool in pools[:number])
        rows = steps(pools, 2 * per_epoch, seed=seed)
        for epoch in (rows[:per_epoch], rows[per_epoch:]):
            seen = [row for step in epoch for row in step[before : before + pool.per_step]]
            assert len(set(seen)) == len(seen) == per_epoch * pool.per_step
            assert set(seen) <= set(range(offset, offset + pool.num_clips)), "another pool's rows"
        offset += pool.num_clips


@given(POOLS, st.integers(0, 40), st.integers(0, 5))
def test_a_sampler_that_starts_late_gives_the_tail(pools, first, seed):
    assert steps(pools, 5, first, seed) == steps(pools, first + 5, 0, seed)[first:]


@given(POOLS, st.integers(1, 4), st.integers(1, 3), st.integers(0, 7))
def test_parts_of_all_processes_make_the_step_of_one(pools, num_processes, accumulation, first):
    whole = steps(pools, 4, first)
    config = loop_config(accumulation=accumulation)
    shares = [
        list(islice(StepSampler(pools, config, first, p, num_processes), 4 * accumulation))
        for p in range(num_processes)
    ]
    for number, step in enumerate(whole):
        parts = [
            row
            for share in shares
            for part in share[number * accumulation : (number + 1) * accumulation]
            for row in part
        ]
        assert Counter(parts) == Counter(step)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_parts_are_equally_large(num_processes, accumulation, per_part):
    size = num_processes * accumulation * per_part
    pools = fit_pools([Pool(100, size)], num_processes * accumulation)
    config = loop_config(accumulation=accumulation)
    for process in range(num_processes):
        sampler = StepSampler(pools, config, 0, process, num_processes)
        assert {len(part) for part in islice(sampler, 2 * accumulation)} == {per_part}


def test_the_new_game_is_seen_in_the_same_order_with_and_without_replay():
    alone, both = steps([Pool(50, 6)], 20), steps([Pool(50, 6), Pool(30, 2)], 20)
    assert [step[:6] for step in both] == alone
    assert all(len(step) == 8 and min(step[6:]) >= 50 for step in both)


@given(st.lists(st.integers(1, 15), min_size=4, max_size=12))
def test_only_few_blocks_are_read_at_a_time(sizes: list[int]):
    rows = steps([Pool(sum(sizes), 1, tuple(sizes))], sum(sizes))
    block_of = [number for number, size in enumerate(sizes) for _ in range(size)]
    read = [block_of[row] for (row,) in rows]
    opened = list(dict.fromkeys(read))
    for index, block in enumerate(opened):
        last = len(read) - 1 - read[::-1].index(block)
        later = opened[(index // BLOCKS_AT_ONCE + 1) * BLOCKS_AT_ONCE :]
        assert not later or last < read.index(later[0]), "a block is read again later"


def test_seeds_and_epochs_have_orders_of_their_own():
    first, second = steps([Pool(40, 40)], 2)
    assert sorted(first) == sorted(second) and first != second
    assert steps([Pool(40, 40)], 1, seed=1)[0] != first


def test_mixed_seeds_differ():
    mixed = {
        mix(seed, step, process) for seed in range(5) for step in range(20) for process in (0, 1)
    }
    assert len(mixed) == 200


def test_no_more_clips_are_wanted_than_there_are():
    assert fit_pools([Pool(5, 8), Pool(3, 2)], 1) == [Pool(5, 5), Pool(3, 2)]
    assert fit_pools([Pool(5, 4), Pool(3, 0)], 2) == [Pool(5, 4)], "an empty share is left out"


@pytest.mark.parametrize(("size", "parts"), [(3, 2), (8, 3), (2, 4)])
def test_clips_that_cannot_be_divided_are_refused(size: int, parts: int):
    with pytest.raises(UserError, match=f"{size} clips.*{parts} equal parts.*--loop.batch-size"):
        fit_pools([Pool(100, size)], parts)


# In training


class Guess(nn.Module):
    """The last frame of a clip, guessed from the first ones: no draws, no batch statistics."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(12, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 3, 3, padding=1)
        )

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict]:
        error = self.layers(frames[:, :-1].flatten(1, 2)) - frames[:, -1]
        return error.square().mean(), {"absolute": error.detach().abs().mean()}


def test_steps_in_parts_are_the_same_steps(prepared_folder: Path, tmp_path: Path):
    stores, nets = open_stores(prepared_folder), {}
    for parts in (1, 2, 4):
        nets[parts] = Guess()
        values = {"batch_size": 8, "num_steps": 6, "accumulation": parts, "log_every": 1}
        small_trainer(stores, tmp_path / str(parts), "tokenizer", made=nets[parts], **values).run()
    for parts in (2, 4):
        for (name, whole), summed in zip(
            nets[1].named_parameters(), nets[parts].parameters(), strict=True
        ):
            # Sums in another order: should be within 1e-5 apart, of weights of about 0.1.
            assert torch.allclose(summed, whole, atol=1e-5), f"{name}, {parts} parts"


def test_what_is_logged_of_a_step_in_parts_is_of_all_parts(prepared_folder: Path, tmp_path: Path):
    stores, logged = open_stores(prepared_folder), []
    for parts in (1, 2):
        values = {"batch_size": 8, "num_steps": 1, "accumulation": parts, "log_every": 1}
        trainer = small_trainer(stores, tmp_path / str(parts), "tokenizer", made=Guess(), **values)
        trainer.run()
        lines = trainer.folder._lines()
        logged.append(next(line for line in lines if line["split"] == "train"))
    assert logged[1]["loss"] == pytest.approx(logged[0]["loss"], rel=1e-4)
    assert logged[1]["absolute"] == pytest.approx(logged[0]["absolute"], rel=1e-4)


def test_a_batch_that_parts_do_not_divide_is_refused(prepared_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"3 clips.*2 equal parts"):
        small_trainer(open_stores(prepared_folder), tmp_path / "run", "dynamics", accumulation=2)
    assert not (tmp_path / "run").exists(), "a folder was made for nothing"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_that_shared_memory_cannot_hold_are_refused(
    prepared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stores = open_stores(prepared_folder)
    clip = Clips(stores["tokenizer"][0], 5)[0]
    wanted = 2 * 2 * 3 * 8 * clip.nbytes  # two loaders, two batches of each worker, eight clips

    def train(num_workers: int, free: int) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda _: usage)
        options = {"batch_size": 8, "num_workers": num_workers}
        small_trainer(stores, tmp_path / f"run-{num_workers}-{free}", "tokenizer", **options)

    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    with pytest.raises(UserError, match=r"--shm-size.*--loop.num-workers 0"):
        train(num_workers=3, free=wanted - 1)
    assert not list(tmp_path.iterdir()), "a folder was made for nothing"
    train(num_workers=3, free=wanted)
    train(num_workers=0, free=0)
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path / "none")
    train(num_workers=3, free=0)


def test_replayed_clips_come_from_the_old_game(prepared_folder: Path, tmp_path: Path):
    stores = open_stores(prepared_folder)
    old = Clips(stores["tokenizer"][1], 5)
    trainer = small_trainer(
        stores,
        tmp_path / "run",
        "tokenizer",
        batch_size=8,
        options={"replay": Replay(old, 0.25)},
    )
    num_new = len(Clips(stores["tokenizer"][0], 5))
    counts = [(pool.num_clips, pool.per_step) for pool in trainer.pools]
    assert counts == [(num_new, 6), (len(old), 2)]
    batch = next(iter(trainer.batches))
    rows = next(iter(trainer.batches.batch_sampler))
    for frames, row in zip(batch, rows, strict=True):
        if row >= num_new:
            assert torch.equal(frames, old[row - num_new])
    assert sum(row >= num_new for row in rows) == 2
