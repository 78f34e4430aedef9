"""Behind PgBouncer, in its session and its transaction mode: all is stored and applied, or refused with advice."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from config import broker
from config.database import DATABASE_TROUBLE
from config.settings import SettingsError
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.operator.checks import checks, examine
from handlers.queue.failures import NotNowError
from handlers.tables.models import InboxStatus
from receiver.webhooks.storage import _OnTheLoop
from tests.support import databases, facts, postgres
from tests.support.facts import event
from tests.support.waiting import wait_until

_PGBOUNCER = shutil.which("pgbouncer")
pytestmark = [
    pytest.mark.skipif(not databases.SERVER_URL, reason="PgBouncer is PostgreSQL's"),
    pytest.mark.skipif(not _PGBOUNCER, reason="PgBouncer is not on this machine (Debian: apt-get install pgbouncer)"),
]

_CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
auth_type = any
pool_mode = {mode}
default_pool_size = 5
"""


@pytest.fixture(params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch, database_url: str) -> Iterator[str]:
    """Leads DATABASE_URL to a PgBouncer before the test's database; the direct URL."""
    real = make_url(database_url)
    with tempfile.TemporaryDirectory(prefix="pgb-", dir="/tmp") as folder:
        postgres._give_away(folder)
        words = {"host": real.query.get("host", real.host), "port": real.port or 5432}
        words |= {"user": real.username, "password": real.password or "x", "folder": folder, "mode": request.param}
        configuration = Path(folder, "ini")
        configuration.write_text(_CONFIGURATION.format(**words))
        os.chmod(folder, 0o755)  # noqa: S103  # other users reach its socket
        bouncer = subprocess.Popen(
            [*postgres._as_postgres(), str(_PGBOUNCER), "--quiet", str(configuration)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(Path(folder, ".s.PGSQL.6432").exists)
            pooled = real.set(host=None, port=None, query={"host": folder, "port": "6432"})
            environment.setenv("DATABASE_URL", pooled.render_as_string(hide_password=False))
            databases.forget_process_state()
            yield database_url
        finally:
            environment.setenv("DATABASE_URL", database_url)
            databases.forget_process_state()
            bouncer.terminate()
            bouncer.wait()


@pytest.mark.usefixtures("pooler")
def test_many_at_once_are_stored_and_applied() -> None:
    def work(number: int) -> None:
        said = event("verified", session_id=f"vs_{number}", report=f"vr_{number}")
        receive([said])
        process([said.id])

    async def store() -> list[int]:
        boxes = [_OnTheLoop() for _ in range(4)]
        stored = list(await asyncio.gather(*(_store(box, number) for number, box in enumerate(boxes))))
        for box in boxes:
            await box.close()
        return stored

    with ThreadPoolExecutor(4) as pool:
        web = pool.submit(asyncio.run, store())
        list(pool.map(work, range(40)))
        assert web.result() == [20] * 4
    for number in range(40):
        assert [row.status for row in facts.event_rows(f"vs_{number}")] == [InboxStatus.PROCESSED]


async def _store(inbox: _OnTheLoop, box: int) -> int:
    """The number of new events of twenty, stored one after the other."""
    receipts = [await inbox.receive([event("created", session_id=f"vs_{box}_{number}")]) for number in range(20)]
    return sum(len(receipt.accepted) for receipt in receipts)


def test_a_role_whose_commits_do_not_wait_is_refused_with_what_to_do(pooler: str) -> None:
    name = make_url(pooler).database
    databases.administer(f"ALTER DATABASE {name} SET synchronous_commit = off")
    databases.end_connections(name)
    databases.forget_process_state()
    with pytest.raises(SettingsError, match="ALTER ROLE CURRENT_USER SET synchronous_commit = 'on';"):
        receive([event("created")])

    async def store() -> None:
        await _OnTheLoop().receive([event("created")])

    with pytest.raises(NotNowError, match="ALTER ROLE CURRENT_USER SET synchronous_commit = 'on';"):
        asyncio.run(store())
    assert [found.level for found in examine(checks(broker.condition)) if "synchronous_commit" in found.words][:1] == [
        "FAIL"
    ]


def test_a_search_path_that_the_role_does_not_have_is_refused(pooler: str, environment: pytest.MonkeyPatch) -> None:
    pooled = os.environ["DATABASE_URL"]
    environment.setenv("DATABASE_URL", f"{pooled}&options=-csearch_path%3Dpublic")
    databases.forget_process_state()
    with pytest.raises(SettingsError, match="SET search_path = 'public';"):
        receive([event("created")])
    databases.administer(f"ALTER DATABASE {make_url(pooler).database} SET search_path = public")
    databases.end_connections(make_url(pooler).database)  # else the pooler's connections keep their first settings
    databases.forget_process_state()

    def is_accepted() -> bool:
        with suppress(*DATABASE_TROUBLE):  # the pooler may hand out a connection that has just ended
            return bool(receive([event("created")]).accepted)
        return False

    wait_until(is_accepted)


@pytest.mark.usefixtures("pooler")
def test_the_doctor_tells_what_a_pooler_leaves_out() -> None:
    found = [(one.level, one.words) for one in examine(checks(broker.condition)) if one.what == "database"]
    assert ["SET statement_timeout = '15s';" in words for level, words in found if level == "WARN"] == [True], found
