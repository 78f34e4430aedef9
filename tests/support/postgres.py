"""Runs the tests that need a database on PostgreSQL: at DATABASE_URL, or on a cluster that lives as long as they do."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDERS = ("tests/integration", "tests/property")
# These use no database, or always the embedded one, or do the same on each.
ELSEWHERE = (
    "tests/integration/test_broker.py",
    "tests/integration/test_calls.py",
    "tests/integration/test_clock.py",
    "tests/integration/test_demo.py",
    "tests/integration/test_dialog.py",
    "tests/integration/test_embedded.py",
    "tests/integration/test_extend.py",
    "tests/integration/test_floods.py",
    "tests/integration/test_integrate.py",
    "tests/integration/test_languages.py",
    "tests/integration/test_lookups.py",
    "tests/integration/test_paths.py",
    "tests/integration/test_reconnect.py",
    "tests/integration/test_redis_server.py",
    "tests/integration/test_replay.py",
    "tests/integration/test_run.py",
    "tests/integration/test_simulator.py",
    "tests/integration/test_smtp.py",
    "tests/integration/test_sqlite_file.py",
    "tests/integration/test_way.py",
    "tests/property/test_mutants.py",
    "tests/property/test_mutations.py",
    "tests/property/test_orders.py",
)
AT_ONCE = ("-n", "4", "--dist", "worksteal")  # tests wait as much as they work; each has a database of its own
# No data here outlives the run.
FAST = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=200"


def main(arguments: list[str]) -> int:
    """Returns pytest's exit code; 2 if there is no PostgreSQL."""
    folders = [folder for folder in FOLDERS if Path(folder).is_dir()]
    with _server() as url:
        chosen = arguments or [*folders, *(f"--ignore={path}" for path in ELSEWHERE), *AT_ONCE]
        # Tests that start processes are a suite of their own, unless a file of them is named.
        which = "not e2e and not browser" if arguments else "not e2e and not browser and not processes"
        command = [sys.executable, "-m", "pytest", "-m", which, *chosen]
        return subprocess.call(command, env={**os.environ, "DATABASE_URL": url})


@contextmanager
def _server() -> Iterator[str]:
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith("postgres"):
        yield given
        return
    with cluster(FAST) as url:
        yield url


@contextmanager
def cluster(options: str, *, first_number: int | None = None) -> Iterator[str]:
    """Starts a server of its own on a unix socket, until the block ends; the URL of its superuser.

    `first_number` is that of its first transaction: the lowest of a segment of 1,048,576.
    """
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:  # short: a unix socket's path is limited
        _give_away(folder)
        control = [*_as_postgres(), str(_binary("pg_ctl")), "--pgdata", f"{folder}/data", "--silent"]
        initdb = "--auth=trust --username=postgres --no-sync --encoding=UTF8 --locale=C.UTF-8"
        _call([*control, "initdb", "--options", initdb])
        if first_number:
            _call(
                [
                    *_as_postgres(),
                    str(_binary("pg_resetwal")),
                    f"--next-transaction-id={first_number}",
                    f"{folder}/data",
                ]
            )
            segment = Path(folder, f"data/pg_xact/{first_number >> 20:04X}")
            segment.write_bytes(bytes(256 * 1024))
            _give_away(str(segment))
        _call([*control, "-w", "-l", f"{folder}/log", "-o", f"{options} -c unix_socket_directories={folder}", "start"])
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            _call([*control, "-m", "immediate", "-w", "stop"])


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _binary(name: str) -> Path:
    # The newest version first, and by its path: Debian's PATH has a wrapper instead.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which(name)
    if not found and not on_path:
        sys.exit("No PostgreSQL: set DATABASE_URL, or install its server (Debian: apt-get install postgresql)")
    return found[-1] if found else Path(on_path or "")


def _as_postgres() -> list[str]:
    """The words that run a command as the user postgres: PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []


def _give_away(folder: str) -> None:
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
