"""The code before runs on the schema of today, beside the code of today: a release never stops the one it replaces."""

import subprocess
from pathlib import Path

import pytest

from handlers.tables.models import ActionStatus
from tests.support import facts
from tests.support.processes import ROOT, Service, service
from tests.support.waiting import wait_until

VERSIONS = "handlers/tables/migrations/versions"


def test_the_code_before_and_the_code_of_today_run_on_one_schema(tmp_path: Path, database_url: str) -> None:
    code_before = _unpacked(_commit_before(), tmp_path / "before")
    with service(tmp_path / "old", database_url, code=code_before) as old:
        old.start("web", "worker", "clock")
        new = Service(tmp_path / "new", database_url, old.redis)
        try:
            new.start("web", "worker")
            for number, side in enumerate((old, new) * 3):
                side.deliver(facts.payload("verified", session_id=f"vs_{number}", report=f"vr_{number}"))
            wait_until(lambda: all(_is_done(f"vs_{number}") for number in range(6)), lambda: old.logs() + new.logs())
            for command in ("migrate", "status"):
                ended = old.run(command)
                assert ended.returncode == 0, ended.stdout + ended.stderr
        finally:
            new.stop()


def _is_done(session_id: str) -> bool:
    owed = facts.actions(session_id)
    return bool(owed) and all(action.status == ActionStatus.DONE for action in owed)


def _commit_before() -> str:
    """The parent of the commit that added the last migration; where one was rewritten since, the code that did so."""
    if not (ROOT / ".git").exists():
        pytest.skip("there is no history here: a copy without .git")
    if _git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("there is no history here: a shallow clone (git fetch --unshallow)")
    last, *changes = _git("log", "-1", "--format=%H", "--name-status", "--", f"{VERSIONS}/*.py").split("\n")
    only_added = all(change.startswith("A") for change in changes if change)
    return f"{last}^" if only_added else last


def _unpacked(commit: str, folder: Path) -> Path:
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
