"""Holds the direction of the house: who may import whom, read from the source, not run."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("genie", "train", "play")
# What prepares videos and what reads them again.
DATA = ("genie.data.rows", "genie.data.shards", "genie.data.clips")
NETS = ("genie.tokenizer", "genie.latent_action", "genie.dynamics")
# What play needs of `genie` while a world runs knows no PyTorch: only its engine does.
RUNNING = ("genie.session", "genie.sampling", "genie.ring", "genie.noise", "genie.legend")
# What several of the leaves are given or give.
RECORDS = ("genie.errors", "genie.sampling", "genie.ring")
# These know nothing else of ours.
LEAVES = (
    "genie.errors",
    "genie.ring",
    "genie.configs",
    "genie.orphans",
    "genie.sampling",
    "genie.fitting",
    "genie.data.scenes",
    "genie.codebook",
    "genie.st_transformer",
    "genie.maskgit",
    "genie.noise",
    "genie.machine",
    "genie.metrics",
)
# Each may know those before it.
FILES = ("genie.files", "genie.fitting", "genie.decoding", "genie.video")
FORBIDDEN_NAMES = ("utils.py", "common.py", "helpers.py")
# Written in two halves, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:wor" + r"k|roo" + r"t)/")


def read_modules(root: Path) -> dict[str, ast.Module]:
    """Parse every module of our packages below `root`, by its dotted name."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {module_name(file.relative_to(root)): ast.parse(file.read_text()) for file in files}


def module_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, modules: dict[str, ast.Module]) -> set[str]:
    """All modules that module `name` imports, at the top or inside a function.

    `from genie import video` is `genie.video`; `from genie import World` is `genie` itself.
    """
    found: set[str] = set()
    for node in ast.walk(modules[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(node, name, modules)
            for alias in node.names:
                full_name = f"{base}.{alias.name}"
                found.add(full_name if full_name in modules else base)
        elif isinstance(node, ast.Call) and called_name(node) in {"import_module", "__import__"}:
            found |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def absolute_base(node: ast.ImportFrom, name: str, modules: dict[str, ast.Module]) -> str:
    if node.level == 0:
        return node.module or ""
    is_package = any(other.startswith(f"{name}.") for other in modules)
    parents = name.split(".")
    parents = parents[: len(parents) - node.level + is_package]
    return ".".join([*parents, node.module] if node.module else parents)


def called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def broken_rules(root: Path) -> list[str]:
    """Say, one line each, which import or call below `root` goes against the direction."""
    modules = read_modules(root)
    found = []
    for name, tree in modules.items():
        for imported in sorted(imports(name, modules)):
            reason = why_forbidden(name, imported)
            if reason:
                found.append(f"{name} imports {imported}: {reason}")
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if is_within(name, "genie") and any(called_name(call) == "print" for call in calls):
            found.append(f"{name} calls print: genie is silent")
    return found


def why_forbidden(name: str, imported: str) -> str | None:
    """The rule that forbids module `name` to import module `imported`, if there is one."""
    package, other = name.split(".")[0], imported.split(".")[0]
    rules = {
        "genie must know neither train nor play": package == "genie" and other in {"train", "play"},
        "train and play must not know each other": {package, other} == {"train", "play"},
        "play gives an int and gets a picture, so it needs no torch": (
            package == "play" and other == "torch"
        ),
        "it belongs to train and play": (
            package == "genie" and other in {"accelerate", "tyro", "pygame", "tqdm"}
        ),
        "only what prepares and reads data knows datasets": (
            other == "datasets" and name not in DATA
        ),
        "the nets meet in genie.world only": (
            name in NETS and imported in {*NETS, "genie.world"} and imported != name
        ),
        f"of genie it may know {', '.join(RECORDS)} only": (
            name in LEAVES and other == "genie" and imported not in RECORDS
        ),
        "a session needs no torch: its engine may": name in RUNNING and other == "torch",
        "files know nothing of what they are read for": (
            name in FILES
            and other == "genie"
            and imported not in {"genie.errors", *FILES[: FILES.index(name)]}
        ),
        "inside genie, import the module that holds the name, not the package": (
            package == "genie" and imported == "genie"
        ),
    }
    return next((reason for reason, is_broken in rules.items() if is_broken), None)


def tracked_files() -> list[Path]:
    """Files that git holds or would add; none where there is no git checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]


def lines_with_machine_paths(file: Path) -> list[str]:
    content = file.read_bytes()
    if b"\0" in content[:8192]:
        return []
    lines = content.decode(errors="replace").splitlines()
    return [
        f"{file.name}:{number}: {line.strip()[:100]}"
        for number, line in enumerate(lines, 1)
        if MACHINE_PATH.search(line)
    ]


def test_every_package_is_read():
    names = read_modules(ROOT)
    for package in PACKAGES:
        assert any(is_within(name, package) for name in names), f"no module of {package} was read"
    missing = [name for name in (*NETS, *LEAVES, *FILES, *DATA, *RUNNING) if name not in names]
    assert not missing, f"renamed or gone, so their rules hold nothing: {missing}"


def test_imports_follow_the_direction():
    found = broken_rules(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("command", ["play.__main__", "train.prepare", "record_game"])
def test_what_only_touches_files_loads_no_torch(command: str):
    """It takes seconds, also of every process that decodes or records."""
    probe = f"import sys, {command}; sys.exit('torch' in sys.modules)"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    done = subprocess.run([sys.executable, "-c", probe], env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0


def test_no_file_is_a_drawer_for_anything():
    names = [file for file in tracked_files() if file.name in FORBIDDEN_NAMES]
    assert not names, f"a helper lives with its only user or becomes a noun: {names}"


def test_no_machine_path_is_written_down():
    found = [line for file in tracked_files() for line in lines_with_machine_paths(file)]
    assert not found, "\n".join(found)


BAD_MODULES = {
    "genie/__init__.py": "from genie.world import World\n",
    "genie/world.py": "import genie.dynamics\n",
    "genie/tokenizer.py": "import torch\n",
    "genie/latent_action.py": "from . import tokenizer\n",
    "genie/dynamics.py": "from genie import World\n",
    "genie/maskgit.py": "from genie.errors import UserError\nfrom .video import read\n",
    "genie/video.py": "def read():\n    import tqdm\n    print('reading')\n",
    "genie/metrics.py": "import train.loop.trainer\nimport datasets as hub\n",
    "train/loop/trainer.py": "from genie.dynamics import Dynamics\nimport accelerate\n",
    "play/game.py": "from importlib import import_module\nimport_module('torch.nn')\n",
    "play/window/window.py": "from train.loop import trainer\n",
}
BROKEN = {
    ("genie.latent_action", "genie.tokenizer"),
    ("genie.dynamics", "genie"),
    ("genie.maskgit", "genie.video"),
    ("genie.video", "tqdm"),
    ("genie.metrics", "train.loop.trainer"),
    ("genie.metrics", "datasets"),
    ("play.game", "torch.nn"),
    ("play.window.window", "train.loop.trainer"),
}


def test_the_checker_finds_each_break_and_nothing_else(tmp_path: Path):
    for path, source in BAD_MODULES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    found = broken_rules(tmp_path)
    pairs = {tuple(line.split(":")[0].split(" imports ")) for line in found if " imports " in line}
    assert pairs == BROKEN
    assert [line for line in found if "print" in line] == [
        "genie.video calls print: genie is silent"
    ]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("see /wor" + "k/main/x.py", True),
        ('"/roo' + 't/.cache"', True),
        ("a link https://example.org/wor" + "k/x", False),
        ("runs/roo" + "t/here", False),
    ],
)
def test_the_checker_knows_a_machine_path(tmp_path: Path, text: str, is_found: bool):
    file = tmp_path / "note.md"
    file.write_text(f"first line\n{text}\n")
    assert bool(lines_with_machine_paths(file)) == is_found
