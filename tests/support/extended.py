"""Copies of this repository, and one with docs/extend.md followed to the letter."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_to(folder: Path) -> Path:
    """Copies the repository there; returns the folder."""
    left_out = shutil.ignore_patterns(".git", ".venv", "var", "node_modules", "__pycache__", ".*_cache", ".hypothesis")
    return shutil.copytree(ROOT, folder, ignore=left_out, dirs_exist_ok=True)


def extend(folder: Path) -> None:
    """Copies the repository there, and types the commands of the page."""
    copy_to(folder)
    (command,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/extend.md").read_text(), re.MULTILINE | re.DOTALL)
    # Without a repository above: git would take the paths as its own.
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(["bash", "-eo", "pipefail", "-c", command], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    extend(Path(sys.argv[1]))
