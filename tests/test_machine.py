"""What a machine is said to have, and that no more of it is taken than is of use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genie import machine
from genie.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def test_the_line_says_device_threads_and_number_format(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for is_fast, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(machine, "has_fast_bf16", lambda _, is_fast=is_fast: is_fast)
        assert machine.describe(CPU) == f"cpu, 3 threads, {dtype}"
        assert str(machine.quick_dtype(CPU)) == f"torch.{dtype}"
        with machine.autocast(CPU):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == machine.quick_dtype(CPU)


@pytest.mark.parametrize(
    ("cores", "variables", "wanted"),
    [(64, {}, machine.MOST_THREADS), (2, {}, 2), (64, {"OMP_NUM_THREADS": "64"}, 64)],
)
def test_threads_are_no_more_than_are_of_use(monkeypatch, cores, variables, wanted):
    taken = [cores]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken[-1])
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    machine.choose_threads()
    assert taken[-1] == wanted


def test_compiling_without_a_compiler_says_what_to_install(monkeypatch, tiny_world):
    monkeypatch.setenv("CXX", "no-such-compiler")
    prompts = torch.zeros(1, 1, 3, *tiny_world.size, dtype=torch.uint8)
    with pytest.raises(UserError, match="no-such-compiler: install one"):
        tiny_world.start_many(prompts, compile=True)


def test_the_benchmarks_run(tmp_path):
    """One short section as `make bench` runs it, and a wrong name."""
    command = [sys.executable, "-m", "tests.benchmarks", "--out", str(tmp_path / "out"), "--only"]
    result = subprocess.run([*command, "loading"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "\nloading (" in result.stdout and "frames/s" in result.stdout
    assert sorted(os.listdir(tmp_path / "out")) == ["bench.json", "bench.txt"]
    result = subprocess.run([*command, "lodaing"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2 and result.stderr.startswith("error: no section 'lodaing'")


@pytest.mark.parametrize("package", ["play", "train"])
@pytest.mark.parametrize("wish", [None, "ACTIVE"])
def test_threads_sleep_while_they_wait(package: str, wish: str | None):
    """OpenMP reads it when torch is loaded, so it must be there before."""
    script = (
        f"import os, sys, {package}; print('torch' in sys.modules, os.getenv('OMP_WAIT_POLICY'))"
    )
    own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env = own | ({"OMP_WAIT_POLICY": wish} if wish else {})
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", wish or "PASSIVE"]
