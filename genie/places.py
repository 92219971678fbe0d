"""Where worlds lie: a folder, what came with the program, or a repository of the Hugging Face Hub.

In: what somebody calls a world. Out: its folder. Opens no world.
"""

import re
import sysconfig
from pathlib import Path

from genie.errors import UserError, in_one_line

CLONE = Path(__file__).resolve().parents[1]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ("*.json", "*.safetensors", "*.onnx", "legend.png", "prompts/*")
"""Of a repository, what makes a world."""


def shipped(folder: str) -> Path:
    """A folder that came with the program: of the clone, or of what pip has installed."""
    installed = Path(sysconfig.get_path("data")) / "share" / "genie"
    return (CLONE if (CLONE / "pyproject.toml").is_file() else installed) / folder


def worlds_in(folder: Path) -> list[Path]:
    """Checkpoint folders in a folder, by name."""
    return sorted(path.parent for path in folder.glob("*/config.json"))


def find_world(name: str | Path) -> Path:
    """The folder of a world.

    Args:
        name: a checkpoint folder; the name of one in `checkpoints` here or among those that came
            with the program, such as coinrun; or owner/name of a repository of the Hub, which is
            fetched once and then kept.

    Raises:
        UserError: if it is none of them, or cannot be fetched.
    """
    path, places = Path(name), (Path("checkpoints"), shipped("checkpoints"))
    found = [place for place in (path, *(place / path for place in places)) if is_world(place)]
    if found:
        return found[0]
    # What lies in a folder that is there is a slip of the keyboard, not the Hub's.
    if (path.parent.is_dir() and path.parent != Path()) or not HUB_ID.fullmatch(str(name)):
        names = sorted({world.name for place in places for world in worlds_in(place)})
        raise UserError(
            f"{name} is not a world: name a folder with a config.json"
            + (f", or one of {', '.join(names)}" if names else "")
        )
    return _fetch(str(name))


def is_world(folder: Path) -> bool:
    """Whether a folder holds a finished world."""
    return (folder / "config.json").is_file()


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download  # slow to load, and seldom wanted

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # the library, and the network below it, raise whatever they meet
        raise UserError(
            f"{name} is no folder, and no repository of the Hugging Face Hub that could be fetched "
            f"({in_one_line(error)[:200]}): check the name"
        ) from error
