"""Paths with signs that mean something else in a URL or a format, and the rights on their files."""

import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from config.database import engine
from handlers.inbox.receive import receive
from handlers.tables import schema
from tests.support import databases
from tests.support.facts import event
from tests.support.processes import ROOT


@pytest.mark.parametrize("name", ["50% %(here)s", "%41", "a?b=c", "a#b", "a b", "é", "a:b@c"])
def test_the_embedded_file_is_where_var_dir_says_and_its_owners_alone(
    environment: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    environment.setenv("VAR_DIR", str(tmp_path / name))
    databases.forget_process_state()
    schema.migrate()
    receive([event("created")])
    files = sorted((tmp_path / name).iterdir())
    assert [file.name for file in files] == ["identity.db", "identity.db-shm", "identity.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert [path.name for path in tmp_path.iterdir() if path.name != "var"] == [name]
    engine().dispose()
    with sqlite3.connect(tmp_path / name / "identity.db") as connection:
        assert connection.execute("SELECT count(*) FROM inbox_event").fetchone() == (1,)
    connection.close()


def test_a_checkout_may_have_a_percent_sign_in_its_path(tmp_path: Path) -> None:
    here = tmp_path / "50% %(x)s %d"
    for package in ("config", "handlers", "worker"):
        shutil.copytree(ROOT / package, here / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Procfile"):
        shutil.copy(ROOT / name, here)
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "migrate"],
        cwd=here,
        env={"PATH": "/usr/bin:/bin", "VAR_DIR": str(here / "var")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "The schema is up to date."), ended.stderr
