"""The code before, from git, as it runs for a while beside the code of today when that is deployed."""

import subprocess
from pathlib import Path

from tests.support.processes import ROOT

_VERSIONS = "handlers/tables/migrations/versions"


def why_none() -> str:
    """Why there is no code before on this machine, or ""."""
    if not (ROOT / ".git").exists():
        return "there is no history here: a copy without .git"
    if _git("rev-parse", "--is-shallow-repository") == "true":
        return "there is no history here: a shallow clone (git fetch --unshallow)"
    return ""


def commit_before() -> str:
    """The parent of the commit that added the last migration; where one was rewritten since, the code of today."""
    last, *changes = _git("log", "-1", "--format=%H", "--name-status", "--", f"{_VERSIONS}/*.py").split("\n")
    only_added = all(change.startswith("A") for change in changes if change)
    return _git("rev-parse", f"{last}^" if only_added else "HEAD")


def unpacked(commit: str, folder: Path) -> Path:
    """A new folder with its files."""
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
