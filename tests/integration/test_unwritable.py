"""A database that takes no writes: deliveries are left to Stripe, /readyz says it, and so does the list of findings."""

import json
import resource
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from handlers.operator.findings import findings
from tests.support import databases, facts
from tests.support.processes import Service, service
from tests.support.waiting import wait_until

Trouble = Callable[[Service, str], AbstractContextManager[object]]


def _read_only(_: Service, url: str) -> AbstractContextManager[None]:
    return databases.read_only(url)


@contextmanager
def _not_granted(_: Service, url: str) -> Iterator[None]:
    databases.execute(url, f"REVOKE INSERT ON inbox_event FROM {_role_of(url)}")
    yield
    databases.execute(url, f"GRANT INSERT ON inbox_event TO {_role_of(url)}")


@contextmanager
def _no_room_for_the_inbox(_: Service, url: str) -> Iterator[None]:
    """The server's answer where a tablespace is full, which a heartbeat does not need."""
    databases.execute(
        url,
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END$$",
    )
    databases.execute(url, "CREATE TRIGGER no_room BEFORE INSERT ON inbox_event EXECUTE FUNCTION no_room()")
    yield
    databases.execute(url, "DROP TRIGGER no_room ON inbox_event")


@contextmanager
def _no_schema(_: Service, url: str) -> Iterator[None]:
    databases.execute(url, "ALTER TABLE inbox_event RENAME TO gone")
    yield
    databases.execute(url, "ALTER TABLE gone RENAME TO inbox_event")


@contextmanager
def _no_room(running: Service, _: str) -> Iterator[None]:
    """Makes every write of a file by web fail, as on a full disk."""
    web = running.pid("web")
    before = resource.prlimit(web, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    yield
    resource.prlimit(web, resource.RLIMIT_FSIZE, before)


@contextmanager
def _damaged(_: Service, url: str) -> Iterator[None]:
    file = Path(str(make_url(url).database))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    yield


@contextmanager
def _gone(_: Service, url: str) -> Iterator[None]:
    file = Path(str(make_url(url).database))
    beside = file.with_suffix(".away")
    file.rename(beside)
    yield
    beside.rename(file)


@contextmanager
def _replaced(_: Service, url: str) -> Iterator[None]:
    file = Path(str(make_url(url).database))
    copy = file.with_suffix(".copy")
    with closing(sqlite3.connect(file)) as connection, closing(sqlite3.connect(copy)) as other:
        connection.backup(other)
    file.rename(file.with_suffix(".away"))
    copy.rename(file)
    yield
    file.with_suffix(".away").rename(file)


TROUBLES = (
    [
        (_read_only, "read-only"),
        (_not_granted, "not granted"),
        (_no_schema, "no schema"),
        (_no_room_for_the_inbox, "disk full"),
    ]
    if databases.SERVER_URL
    else [
        (_damaged, "damaged"),
        (_gone, "replaced"),
        (_replaced, "replaced"),
        (_no_room, "disk full"),
        (_no_schema, "no schema"),
    ]
)


@pytest.fixture
def as_plain_role(database_url: str, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """Gives this process a role that is no superuser on PostgreSQL; that role's URL."""
    if not databases.SERVER_URL:
        yield database_url
        return
    role = _role_of(database_url)
    databases.execute(database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    databases.execute(database_url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    plain = make_url(database_url).set(username=role, password="x").render_as_string(hide_password=False)
    environment.setenv("DATABASE_URL", plain)
    databases.forget_process_state()
    yield plain
    environment.setenv("DATABASE_URL", database_url)
    databases.forget_process_state()
    databases.end_connections(make_url(database_url).database)
    databases.execute(database_url, f"DROP OWNED BY {role}")
    databases.execute(database_url, f"DROP ROLE {role}")


@pytest.mark.processes
@pytest.mark.parametrize(("trouble", "word"), TROUBLES)
def test_what_cannot_be_stored_is_left_to_stripe_and_said_within_seconds(
    trouble: Trouble, word: str, tmp_path: Path, database_url: str, as_plain_role: str
) -> None:
    with service(tmp_path / "service", as_plain_role) as running:
        running.start("web")
        wait_until(lambda: _ready(running) == (200, "ok"), running.logs)
        with trouble(running, database_url):
            if trouble is not _no_room_for_the_inbox:  # of which a delivery is the first to know
                wait_until(lambda: _ready(running) == (503, word), lambda: f"{_ready(running)} {running.logs()}")
            assert _delivered(running) == 503
            wait_until(lambda: _ready(running) == (503, word), lambda: f"{_ready(running)} {running.logs()}")
            wait_until(lambda: _is_found(word), lambda: str(findings(None)))
            if word == "replaced":  # a new process sees the new file alone, and asks web
                assert "its file was deleted or replaced" in running.run("status", "--json").stdout
        if word != "damaged":  # a backup can be put back only when nobody has the file
            wait_until(lambda: _ready(running) == (200, "ok"), running.logs)
            # Though nothing is delivered.
            wait_until(lambda: "refusals" not in {one.what for one in findings(None)}, lambda: str(findings(None)))
            assert _delivered(running) == 200


def _is_found(word: str) -> bool:
    if word == "disk full" and not databases.SERVER_URL:  # web alone has a full disk, and cannot write that it lives
        return any("no web runs" in one.words for one in findings(None))
    return any(one.what in ("database", "refusals") or "no web runs" in one.words for one in findings(None))


def _ready(running: Service) -> tuple[int, str]:
    return _answer(urllib.request.Request(running.url.replace("/webhooks/stripe", "/readyz")), "database")


def _delivered(running: Service) -> int:
    try:
        return 200 if running.deliver(facts.payload("verified")) else 0
    except urllib.error.HTTPError as error:
        return error.code


def _answer(request: urllib.request.Request, name: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)[name]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)[name]


def _role_of(url: str) -> str:
    return f"plain_{make_url(url).database}"


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no roles")
@pytest.mark.usefixtures("as_plain_role")
@pytest.mark.parametrize(
    ("table", "rights"),
    [("outbox_action", "UPDATE"), ("verification_record", "INSERT, UPDATE"), ("identity_paused", "SELECT")],
)
def test_a_table_to_which_the_role_lacks_rights_is_named(database_url: str, table: str, rights: str) -> None:
    databases.execute(database_url, f"REVOKE {rights} ON {table} FROM {_role_of(database_url)}")
    told = [one.words for one in findings(None) if one.what == "database"]
    assert told == [f"its role lacks rights to {table} ({rights.lower()}): what is due waits"]


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite has no roles")
@pytest.mark.usefixtures("as_plain_role")
def test_rows_that_are_hidden_from_the_role_are_told_of(database_url: str) -> None:
    databases.execute(database_url, "ALTER TABLE outbox_action ENABLE ROW LEVEL SECURITY")
    told = [one.words for one in findings(None) if one.what == "database"]
    assert told == ["row-level security of outbox_action is none of ours, and may keep rows from being stored or found"]
