"""The code of the version before, from git: at a deployment it runs for a while beside the code of today."""

import subprocess
from pathlib import Path

from tests.support.processes import ROOT

_VERSIONS = "handlers/tables/migrations/versions"


def why_none() -> str:
    """The reason why this machine has no code before, or ""."""
    if not (ROOT / ".git").exists():
        return "there is no history here: a copy without .git"
    if _git("rev-parse", "--is-shallow-repository") == "true":
        return "there is no history here: a shallow clone (git fetch --unshallow)"
    return ""


def commit_before() -> str:
    """The parent of the commit that added the last migration; today's code if that commit changed another one."""
    last, *changes = _git("log", "-1", "--format=%H", "--name-status", "--", f"{_VERSIONS}/*.py").split("\n")
    only_added = all(change.startswith("A") for change in changes if change)
    return _git("rev-parse", f"{last}^" if only_added else "HEAD")


def unpacked(commit: str, folder: Path) -> Path:
    """A new folder with the files of a commit."""
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
