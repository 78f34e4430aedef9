"""A SQLite file that cannot be opened: the sentence says which of its kinds of trouble it is."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.database import DATABASE_TROUBLE, statement
from config.trouble import trouble_of
from handlers.tables.schema import migrate
from tests.support import databases
from tests.support.operator import command


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may enter, and write into."""
    with tempfile.TemporaryDirectory(prefix="sqlite-", dir="/tmp") as made:
        os.chmod(made, 0o777)  # noqa: S103  # for another user
        yield Path(made)


@contextmanager
def _somebody() -> Iterator[None]:
    """Until the block ends, this process is not root, who may write everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    mount = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        databases.forget_process_state()
        subprocess.run(["umount", str(folder)], check=True)


def _made(environment: pytest.MonkeyPatch, file: Path) -> None:
    """Makes the file, with our tables, and leads DATABASE_URL to it."""
    _lead_to(environment, file)
    migrate()
    databases.forget_process_state()


def _lead_to(environment: pytest.MonkeyPatch, file: Path) -> None:
    environment.setenv("DATABASE_URL", f"sqlite:///{file}")
    databases.forget_process_state()


def _word() -> str:
    with pytest.raises(DATABASE_TROUBLE) as raised, statement() as connection:
        connection.exec_driver_sql("UPDATE inbox_event SET attempts = attempts")
    return trouble_of(raised.value).word


def test_a_mount_that_is_read_only(folder: Path, environment: pytest.MonkeyPatch) -> None:
    with _mounted(folder):
        _made(environment, folder / "x.db")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert _word() == "read-only"
        for none in ("none.db", "none/none.db"):
            _lead_to(environment, folder / none)
            assert _word() == "read-only"


def test_a_file_or_a_file_beside_it_or_a_folder_of_another_user(folder: Path, environment: pytest.MonkeyPatch) -> None:
    file = folder / "x.db"
    _made(environment, file)
    os.chmod(file, 0o400)
    with _somebody():
        assert _word() == "not permitted"
        databases.forget_process_state()
    os.chmod(file, 0o666)  # noqa: S103  # for another user
    for suffix in ("-wal", "-shm"):
        beside = Path(f"{file}{suffix}")
        beside.touch(0o400)
        with _somebody():
            assert _word() == "not permitted"
            databases.forget_process_state()
        beside.unlink()
    for mode in (0o555, 0o000):
        os.chmod(folder, mode)
        with _somebody():
            assert _word() == "not permitted"
            databases.forget_process_state()


def test_a_folder_in_the_place_of_the_file_and_a_file_in_that_of_its_folder(
    folder: Path, environment: pytest.MonkeyPatch
) -> None:
    (folder / "x").touch()
    for wrong in (folder, folder / "x" / "x.db"):
        _lead_to(environment, wrong)
        assert _word() == "no file"
        said = command("sessions")
        assert (said.code, "names no file" in said.err) == (2, True)


def test_a_disk_that_is_full_when_the_file_is_made(folder: Path, environment: pytest.MonkeyPatch) -> None:
    with _mounted(folder):
        subprocess.run(["mount", "-o", "remount,size=8k", str(folder)], check=True)
        (folder / "filler").write_bytes(b"x" * 8192)
        _lead_to(environment, folder / "x.db")
        assert _word() == "disk full"
