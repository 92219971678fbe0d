"""What pip installs plays by itself, in a folder without anything."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"scikit-learn": "sklearn", "vector-quantize-pytorch": "vector_quantize_pytorch"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of an environment that has the wheel, and this one's libraries."""
    folder = tmp_path_factory.mktemp("installed")
    for part in ("genie", "play", "train", "checkpoints", "examples"):
        shutil.copytree(ROOT / part, folder / "clone" / part)
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, folder / "clone" / part)
    build = [sys.executable, "-m", "pip", "wheel", folder / "clone", "--no-deps"]
    build += ["--no-build-isolation"]  # which would download setuptools
    run([*build, "--no-index", "--wheel-dir", folder])
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    run([*pip, wheel])
    (libraries,) = (folder / "venv").glob("lib/python*/site-packages")
    # At the end of the path, so that the wheel is found before the clone.
    (libraries / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(command: list, **options) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DISPLAY")}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment, **options
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def refuse(command: list, cwd: Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def test_a_wheel_plays_the_shipped_world_anywhere(installed: Path, tmp_path: Path):
    played = run([installed / "genie-play", "--headless", "--actions", "right*2"], cwd=tmp_path)
    assert "coinrun on" in played.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["rollout.gif"]
    where = "import genie.places as p, play; print(p.__file__, p.find_world('ninja'))"
    found = run([installed / "python", "-c", where], cwd=tmp_path).stdout.split()
    assert all(Path(place).is_relative_to(installed.parent) for place in found), found


def test_a_wheel_trains(installed: Path, tmp_path: Path):
    assert "--preset" in run([installed / "genie-train", "--help"], cwd=tmp_path).stdout


@pytest.fixture(scope="module")
def player(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> list:
    """A command that plays where the packages of the extra `train` are missing."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [re.split(r"[>=<]", wanted)[0] for wanted in extra["train"]]
    modules = [MODULES.get(name, name) for name in names]
    assert {"torch", "datasets"} <= set(modules)
    script = tmp_path_factory.mktemp("player") / "play_alone.py"
    script.write_text(f"""
import sys
class Missing:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {modules}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *of: None if name in {modules} else found(name, *of)
from play.__main__ import main
sys.exit(main(sys.argv[1:]))
""")
    return [installed / "python", script]


def test_who_plays_needs_nothing_that_only_trains(player: list, tmp_path: Path):
    run([*player, "--headless", "--actions", "0", "--export", "film.mp4"], cwd=tmp_path)
    assert (tmp_path / "film.mp4").exists()


def test_what_needs_more_says_in_one_line_how_to_install_it(player: list, tmp_path: Path):
    run([*player, "--headless", "--actions", "0*4", "--export", "film.mp4"], cwd=tmp_path)
    shutil.copytree(ROOT / "checkpoints" / "coinrun", tmp_path / "bare")
    (tmp_path / "bare" / "graphs.json").unlink()
    for options in (["--prompt", "film.mp4"], ["--world", "bare"]):
        told = refuse([*player, "--headless", "--actions", "0", *options], cwd=tmp_path)
        assert told.startswith("error: ") and "PyTorch" in told and told.count("\n") == 1


def test_a_world_in_pytorch_cannot_be_had_without_it():
    code = "import sys; sys.modules['torch'] = None; import genie; genie.load"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ") and "PyTorch" in last and "install" in last
