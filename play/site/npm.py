"""Files of npm packages, for the pages that we write.

In: a package and its version. Out: the bytes of its files. npm downloads each package once; then
it is kept in the user's cache. Nothing of a package is run.
"""

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from genie.errors import UserError
from genie.files import writing


def read_files(package: str, version: str, names: Sequence[str]) -> list[bytes]:
    """The contents of files of a package. Args: names: relative to the package's folder.

    Raises:
        UserError: if npm is not installed or cannot download the package.
    """
    path = _archive(package, version)
    try:
        with tarfile.open(path) as archive:
            files = [archive.extractfile(f"package/{name}") for name in names]
            return [file.read() for file in files if file]
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise UserError(f"{path} is not {package} {version}: delete it and try again") from error


def _archive(package: str, version: str) -> Path:
    """The package's archive in the user's cache, downloaded if it is not there."""
    path = platformdirs.user_cache_path("genie") / "npm" / f"{package}-{version}.tgz"
    if path.is_file():
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm is needed once, to download {package}: install Node.js, which has it")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            command = [npm, "pack", f"{package}@{version}", "--pack-destination", folder]
            command += ["--ignore-scripts", "--fetch-retries", "1"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
            if done.returncode:
                raise UserError(f"npm cannot download {package} {version}: {_why(done.stderr)}")
            (archive,) = Path(folder).glob("*.tgz")
            os.replace(archive, path)
    return path


def _why(errors: str) -> str:
    """The first words of npm's errors."""
    words = re.sub("npm (error|ERR!)", "", errors).split()
    return " ".join(words)[:160] or "it gives no reason"
