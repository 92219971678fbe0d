"""Where worlds are found: in a folder, among those shipped, or on the Hugging Face Hub.

In: a world's name or path. Out: its folder. Opens no world.
"""

import re
import sysconfig
from pathlib import Path

from genie.errors import UserError, in_one_line

CLONE = Path(__file__).resolve().parents[1]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ("*.json", "*.safetensors", "*.onnx", "legend.png", "prompts/*")
"""The files of a repository that belong to a world."""


def shipped(folder: str) -> Path:
    """A folder that came with the program: in the clone, or where pip installed it."""
    installed = Path(sysconfig.get_path("data")) / "share" / "genie"
    return (CLONE if (CLONE / "pyproject.toml").is_file() else installed) / folder


def worlds_in(folder: Path) -> list[Path]:
    """Checkpoint folders in a folder, by name."""
    return sorted(path.parent for path in folder.glob("*/config.json"))


def find_world(name: str | Path) -> Path:
    """The folder of a world.

    Args:
        name: a checkpoint folder; the name of one in ./checkpoints or among those that came with
            the program, such as coinrun; or owner/name of a repository of the Hub, which is
            downloaded once and then cached.

    Raises:
        UserError: if it is none of them, or cannot be downloaded.
    """
    path, places = Path(name), (Path("checkpoints"), shipped("checkpoints"))
    found = [place for place in (path, *(place / path for place in places)) if is_world(place)]
    if found:
        return found[0]
    # A wrong name in a folder that exists is a typing error, not a repository of the Hub.
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
    from huggingface_hub import snapshot_download  # slow to import, rarely needed
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except LocalEntryNotFoundError as error:
        reason = "the Hugging Face Hub, where it may be, cannot be reached: check the connection"
        raise UserError(f"{name} is no folder, and {reason}, or the name") from error
    except RepositoryNotFoundError as error:
        reason = "the Hugging Face Hub has no such repository, or a private one: check the name"
        raise UserError(f"{name} is no folder, and {reason}") from error
    except Exception as error:  # the library and its network layer raise many kinds
        raise UserError(
            f"{name} cannot be downloaded from the Hugging Face Hub ({in_one_line(error)[:200]}): "
            "try again"
        ) from error
