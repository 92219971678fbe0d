"""--minutes: as many steps as fit, decided once."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from genie.errors import UserError
from train import __main__ as pipeline
from train import tokenizer
from train.loop import budget
from train.presets import PRESETS


def configure(prepared_folder: Path, run: Path, minutes: float) -> tokenizer.TokenizerStage:
    tiny = PRESETS["tiny"].tokenizer
    loop = replace(tiny.loop, precision="float32")
    return replace(tiny, data=str(prepared_folder), run=run, minutes=minutes, threads=1, loop=loop)


def num_steps(run: Path) -> int:
    return json.loads((run / "tokenizer" / "config.json").read_text())["loop"]["num_steps"]


def test_a_stage_takes_about_the_time_it_was_given(prepared_folder: Path, tmp_path: Path):
    """And the same command later finds everything done, whatever the clock says then."""
    began = time.perf_counter()
    tokenizer.main(configure(prepared_folder, tmp_path, 0.2))
    took = time.perf_counter() - began
    steps = num_steps(tmp_path)
    assert steps >= budget.FEWEST_STEPS
    assert 4 < took < 40, "twelve seconds were given; a busy machine may differ by much"
    weights = tmp_path / "tokenizer" / "weights.safetensors"
    stamp = weights.stat().st_mtime_ns
    tokenizer.main(configure(prepared_folder, tmp_path, 0.2))
    assert weights.stat().st_mtime_ns == stamp and num_steps(tmp_path) == steps


def test_the_trial_leaves_no_trace(prepared_folder: Path, tmp_path: Path, monkeypatch):
    """A run of so many minutes ends with the weights of one that was given its steps."""
    tried = budget._time_step
    monkeypatch.setattr(budget, "_time_step", lambda *args: tried(*args) and 1.0)
    tokenizer.main(configure(prepared_folder, tmp_path / "timed", 0.8))
    steps = num_steps(tmp_path / "timed")
    assert budget.FEWEST_STEPS <= steps <= int(budget.SHARE * 48)
    monkeypatch.undo()
    stage = configure(prepared_folder, tmp_path / "counted", 0)
    tokenizer.main(replace(stage, loop=replace(stage.loop, num_steps=steps)))
    weights = [(tmp_path / run / "tokenizer" / "weights.safetensors").read_bytes() for run in
               ("timed", "counted")]  # fmt: skip
    assert weights[0] == weights[1]


def test_too_few_minutes_are_refused(prepared_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"0\.001 minutes are too few: give more --minutes"):
        tokenizer.main(configure(prepared_folder, tmp_path, 0.001))
    assert not (tmp_path / "tokenizer").exists()


def test_more_minutes_may_be_given_to_what_has_not_begun(
    prepared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """As the advice is where they were too few; what has begun keeps its steps, and says so."""
    asked = []
    monkeypatch.setattr(
        pipeline, "_run_stages", lambda _, flags_of, **__: asked.append(flags_of("dynamics", 1))
    )
    # No stage runs, so that there is no world to add to.
    monkeypatch.setattr(pipeline, "_add_prior", lambda *_: None)
    config = pipeline.PipelineConfig(
        data=str(prepared_folder),
        out=tmp_path / "out",
        run=tmp_path / "run",
        preset="tiny",
        minutes=0.1,
    )
    pipeline.main(config)
    assert "keeps its" not in capsys.readouterr().out
    stage = tmp_path / "run" / "tokenizer"
    stage.mkdir()
    (stage / "config.json").write_text(json.dumps({"loop": {"num_steps": 1234}}))
    pipeline.main(replace(config, minutes=3))
    assert "tokenizer was begun before, and keeps its 1,234 steps" in capsys.readouterr().out
    given = [float(flags[flags.index("--minutes") + 1]) for flags in asked]
    assert given == pytest.approx([0.053, 0.053, 1.59, 1.59])


@pytest.mark.parametrize(
    "times",
    [
        *({name: x} for name in ("minutes", "until") for x in (-1, float("nan"), float("inf"))),
        {"minutes": 1, "until": 60},
    ],
)
def test_what_is_no_time_is_refused_before_anything(
    prepared_folder: Path, tmp_path: Path, times: dict[str, float]
):
    with pytest.raises(UserError, match=f"--{min(times)} "):
        tokenizer.main(replace(configure(prepared_folder, tmp_path / "run", 0), **times))
    config = pipeline.PipelineConfig(
        data=str(prepared_folder), out=tmp_path / "out", run=tmp_path / "run", **times
    )
    with pytest.raises(UserError, match=f"--{min(times)} "):
        pipeline.main(config)
    assert not (tmp_path / "run").exists()
