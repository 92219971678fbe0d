"""Where a run comes from: command, versions and commit, one line for every start.

Out: `starts.jsonl` in a run folder, so that the folder still explains itself a year later.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from genie.machine import best_device

FILE_NAME = "starts.jsonl"
PACKAGES = ("genie-worlds", "torch", "accelerate", "datasets", "vector-quantize-pytorch", "numpy")


def note_start(folder: Path) -> None:
    """Append a line that says how this process was started.

    Raises:
        OSError: if it cannot be written.
    """
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command_line(),
        "commit": commit(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    with (folder / FILE_NAME).open("a") as file:
        file.write(json.dumps(line) + "\n")


def command_line() -> str:
    """The command that started this process, as one would type it."""
    return shlex.join([*_launcher(), *_module_or_file(), *sys.argv[1:]])


def python_name() -> str:
    """What to type in the current folder to start this Python."""
    path = Path(sys.executable)
    below = path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd())) if below else "python"


def commit(repository: Path) -> str | None:
    """The commit that is checked out, with "+" if files were changed; None outside of git."""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(repository), *words],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + "+" * bool(changed)


def _launcher() -> list[str]:
    num_processes = os.environ.get("WORLD_SIZE", "1")
    if num_processes == "1":
        return [python_name()]
    if best_device().type == "cpu":  # accelerate's launcher starts only one process there
        return [
            python_name(),
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            num_processes,
            "--",
        ]
    return ["accelerate", "launch", "--num_processes", num_processes]


def _module_or_file() -> list[str]:
    spec = sys.modules["__main__"].__spec__
    return ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
