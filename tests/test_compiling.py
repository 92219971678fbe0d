"""What is compiled ahead is what the stages need, and evaluations compile nothing more."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from genie import machine
from genie.errors import UserError
from train import __main__ as pipeline
from train import stage, warm_up
from train.loop.compile_cache import load_compiled, save_compiled
from train.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]

# What would be compiled is only noted: each graph, and the layouts of what goes into it.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from train import dynamics, latent_action, tokenizer
from train.presets import PRESETS
from train.warm_up import warm_up

data, run = sys.argv[1:]
noted, real_compile = [], torch.compile

def note(graph, inputs):
    layouts = [(tuple(x.shape), x.stride(), str(x.dtype), x.requires_grad) for x in inputs]
    noted.append(repr((graph.code, layouts)))
    return graph.forward

torch.compile = lambda function, **options: real_compile(function, backend=note, **options)
loop = dict(num_steps=4, warmup_steps=1, batch_size=4, compile=True, precision="float32",
            evaluate_every=2, evaluate_batches=2, average=0.9)
stages = [
    replace(tiny, data=data, run=Path(run), threads=1, loop=replace(tiny.loop, **loop))
    for tiny in vars(PRESETS["tiny"]).values()
]
warm_up(*stages, (32, 48))
ahead, noted[:] = set(noted), []
torch._dynamo.reset()
for stage, config in zip((tokenizer, latent_action, dynamics), stages):
    stage.advise = lambda _: ""  # four steps teach nothing
    stage.main(config)
other = sorted(set(noted) - ahead)
print(json.dumps({"ahead": len(ahead), "training": len(noted), "other": other}))
"""


@pytest.mark.soak
def test_stages_compile_what_was_compiled_ahead_and_evaluations_nothing(
    prepared_folder: Path, tmp_path: Path
):
    said = in_a_process(SCRIPT, prepared_folder, tmp_path / "run")
    found = json.loads(said.splitlines()[-1])
    assert found["ahead"] >= found["training"] > 6, "three nets have more parts than that"
    assert not found["other"], "a step or an evaluation compiles something else"


FAILING = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from test_train import open_stores, small_trainer, to_its_end

data, folder = map(Path, sys.argv[1:])
real_compile = torch.compile

def fail(*_):
    raise ValueError("no kernel for this device")

torch.compile = lambda function, **_: real_compile(function, backend=fail)
stores, weights = open_stores(data), []
for compiles in (False, True):
    run = folder / str(compiles)
    print("compiled:", compiles)
    to_its_end(small_trainer(stores, run, "dynamics", compile=compiles))
    weights.append(load_file(run / "weights.safetensors"))
assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
"""


def in_a_process(script: str, *words: Path) -> str:
    """What a script prints; apart from the shape checks of the tests, which cannot be traced."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_compiler_that_fails_costs_no_run(prepared_folder: Path, tmp_path: Path):
    """The run says so, and learns what it would have learnt."""
    said = in_a_process(FAILING, prepared_folder, tmp_path)
    plain, compiled = said.split("compiled: True")
    assert "no kernel for this device" in compiled and "warning" not in plain


def test_a_torn_cache_is_said_and_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "torn.bin").write_bytes(b"no cache at all")
    load_compiled(tmp_path / "torn.bin")
    assert "torn.bin is torn" in capsys.readouterr().out
    load_compiled(tmp_path / "not-there.bin")
    load_compiled(None)
    assert capsys.readouterr().out == ""


def test_a_cache_that_cannot_be_written_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"made", None))
    (tmp_path / "file").write_text("in the way")
    save_compiled(tmp_path / "file" / "cache.bin")
    assert "warning: cannot write" in capsys.readouterr().out
    save_compiled(tmp_path / "deep" / "cache.bin")
    assert (tmp_path / "deep" / "cache.bin").read_bytes() == b"made"


def test_all_that_compiles_for_a_gpu_has_the_same_settings(monkeypatch: pytest.MonkeyPatch):
    """Or torch.compile's cache would not know what was made ahead."""
    found = {}
    with monkeypatch.context() as patched:
        patched.setattr(machine, "best_device", lambda: torch.device("cuda"))
        try:
            for precision, wanted in (("float32", "highest"), ("auto", "high")):
                for name in ("stage", "ahead"):
                    torch.set_float32_matmul_precision("highest")
                    found[name] = set_for(name, precision, patched)
                assert found == {"stage": wanted, "ahead": wanted}
        finally:
            torch.set_float32_matmul_precision("highest")


def set_for(name: str, precision: str, patched: pytest.MonkeyPatch) -> str:
    """The setting after a stage's set-up on a GPU, or where a net is compiled ahead."""
    loop = replace(PRESETS["tiny"].tokenizer.loop, precision=precision)
    if name == "stage":
        patched.setattr(stage, "best_device", lambda: torch.device("cuda"))
        stage.set_up(replace(PRESETS["tiny"].tokenizer, loop=loop))
    else:
        patched.setattr(warm_up, "best_device", lambda: torch.device("cuda"))
        net = torch.nn.Identity()
        with pytest.raises((AssertionError, RuntimeError)):  # there is no such device
            warm_up._take_step(net, lambda device: (torch.zeros(1, device=device),), loop)
    return torch.get_float32_matmul_precision()


def test_an_unknown_preset_is_named():
    with pytest.raises(UserError, match="no preset 'huge'"):
        warm_up.main(warm_up.WarmUpConfig(preset="huge"))


@pytest.mark.parametrize("preset", ["quarter", "tiny"])
def test_a_gpu_compiles_while_frames_are_prepared(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where the preset compiles at all, and there is something to prepare."""
    started, waited = [], []

    def start(words: list[str], **_: object) -> SimpleNamespace:
        started.append(words)
        return SimpleNamespace(wait=lambda: waited.append(1), terminate=lambda: None)

    monkeypatch.setattr(pipeline.subprocess, "Popen", start)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = pipeline.PipelineConfig(data="videos", out=tmp_path / "out", preset=preset)
    config = replace(config, frames=replace(config.frames, size=(32, 48)))
    with pipeline._warming_up(config, preset, tmp_path):
        assert len(started) == (preset == "quarter") and not waited
    assert all(words[-5:] == ["--preset", "quarter", "--size", "32", "48"] for words in started)
    assert bool(waited) == bool(started), "training must not start beside the compiler"
    started.clear()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "card.json").write_text("{}")
    with pipeline._warming_up(config, preset, tmp_path):
        assert not started, "nothing is prepared"
