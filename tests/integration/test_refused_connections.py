"""Answers of PostgreSQL before there is a connection: told by their code, whatever language the server speaks."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from config.database import DATABASE_TROUBLE, hurry, statement
from config.trouble import trouble_of
from handlers.queue.failures import NotNowError
from receiver.webhooks.storage import _OnTheLoop
from tests.chaos.stores import free_port
from tests.support import databases
from tests.support.operator import command
from tests.support.postgres import cluster
from tests.support.waiting import asking, wait_until

pytestmark = pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite refuses nobody")

_LANGUAGES = ("C", "de_DE", "ja_JP")
# Five are everybody's, and one is a superuser's.
_SMALL = "-c listen_addresses='' -c fsync=off -c max_connections=6 -c superuser_reserved_connections=1"
_RULES = ("local all known scram-sha-256", "local all unwanted reject", "local all all trust")
_MADE = (
    "CREATE ROLE known LOGIN PASSWORD 'x'",
    "CREATE ROLE unwanted LOGIN",
    "CREATE ROLE resting",
    "CREATE ROLE anybody LOGIN",
    "CREATE ROLE single LOGIN CONNECTION LIMIT 1",
    "CREATE DATABASE narrow CONNECTION LIMIT 1",
    "CREATE DATABASE resting ALLOW_CONNECTIONS false",
    "CREATE DATABASE closed",
    "REVOKE CONNECT ON DATABASE closed FROM public",
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server of a language."""

    administrator: str

    def url(self, who: str = "anybody", database: str = "postgres") -> str:
        """A role's way to a database."""
        return self.administrator.replace("postgres@/postgres", f"{who}@/{database}")

    @contextmanager
    def filled(self, url: str, connections: int) -> Iterator[None]:
        """Holds so many connections until the block ends."""
        with ExitStack() as stack:
            for _ in range(connections):
                stack.enter_context(psycopg.connect(url))
            yield


@pytest.fixture(params=_LANGUAGES, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that speaks one of the languages."""
    with _speaking(request.param) as speaking:
        yield speaking


@contextmanager
def _speaking(language: str, *, first_number: int | None = None) -> Iterator[Server]:
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=True).stdout.split()
    if f"{language}.utf8" not in known:
        pytest.skip(f"not on this machine: localedef --inputfile={language} --charmap=UTF-8 {language}.UTF-8")
    with cluster(f"{_SMALL} -c lc_messages={language}.UTF-8", first_number=first_number) as administrator:
        with pytest.raises(psycopg.OperationalError) as refused, psycopg.connect(f"{administrator}&dbname=gone"):
            pass
        if language != "C" and "does not exist" in str(refused.value):
            pytest.skip("this machine's PostgreSQL has no translations")
        if first_number:
            yield Server(administrator)
            return
        with psycopg.connect(administrator, autocommit=True) as connection:
            for made in _MADE:
                connection.execute(made.encode())
            (rules,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            with open(rules, "w") as file:
                file.write("\n".join((*_RULES, "")))
            connection.execute("SELECT pg_reload_conf()")
        yield Server(administrator)


def _by_asyncpg() -> BaseException | None:
    async def ask() -> None:
        async with asyncio.timeout(2):
            await _OnTheLoop()._ids("SELECT %s", "")

    try:
        asyncio.run(ask())
    except NotNowError as error:
        return error.__context__
    return None


def _words(environment: pytest.MonkeyPatch, url: str) -> list[str]:
    """The words for the trouble of both drivers."""
    environment.setenv("DATABASE_URL", url)
    databases.forget_process_state()
    with pytest.raises(DATABASE_TROUBLE) as raised, hurry(0.1), statement():
        pass
    refused = _by_asyncpg()
    assert refused
    return [trouble_of(raised.value).word, trouble_of(refused).word]


@pytest.mark.parametrize(
    ("who", "database", "word"),
    [
        ("known:y", "postgres", "refused"),
        ("known", "postgres", "refused"),
        ("nobody", "postgres", "refused"),
        ("resting", "postgres", "refused"),
        ("unwanted", "postgres", "refused"),
        ("anybody", "closed", "refused"),
        ("anybody", "resting", "refused"),
        ("anybody", "gone", "no database"),
    ],
)
def test_a_refusal_is_told_in_its_word(
    server: Server, environment: pytest.MonkeyPatch, who: str, database: str, word: str
) -> None:
    assert _words(environment, server.url(who, database)) == [word, word]


@pytest.mark.parametrize(
    ("who", "database", "holders", "word"),
    [
        ("anybody", "postgres", 5, "no connection free"),
        ("single", "postgres", 1, "the role's connections"),
        ("anybody", "narrow", 1, "the database's connections"),
    ],
)
def test_a_limit_is_told_in_its_word_and_waited_for(
    server: Server, environment: pytest.MonkeyPatch, who: str, database: str, holders: int, word: str
) -> None:
    url = server.url(who, database)
    environment.setenv("DATABASE_URL", url)
    databases.forget_process_state()
    asked: list[object] = []

    def ask() -> None:
        with statement() as connection:
            asked.append(connection.exec_driver_sql("SELECT 1").scalar())

    async def ask_too() -> None:
        inbox = _OnTheLoop()
        asked.extend(await inbox._ids("SELECT %s", "1"))
        await inbox.close()

    with server.filled(url, holders):
        with pytest.raises(DATABASE_TROUBLE) as raised, hurry(0.1), statement():
            pass
        assert trouble_of(raised.value).word == word
        threads = asking(ask, lambda: asyncio.run(ask_too()))
        assert asked == []
    for thread in threads:
        thread.join()
    assert sorted(map(str, asked)) == ["1", "1"]


def test_a_release_waits_for_a_server_that_is_full(server: Server) -> None:
    with server.filled(server.url(), 3), psycopg.connect(server.url("single")) as last:
        ended: list[int] = []
        with psycopg.connect(server.administrator, autocommit=True) as administrator:
            administrator.execute("CREATE DATABASE released OWNER anybody")
            release = threading.Thread(
                target=lambda: ended.append(command("migrate", DATABASE_URL=server.url("anybody", "released")).code)
            )
            release.start()
            time.sleep(2)  # as above
            assert ended == []
            last.close()
            release.join()
            administrator.execute("DROP DATABASE released")
    assert ended == [0]


@pytest.mark.parametrize("language", _LANGUAGES)
def test_a_server_that_stops_is_said_to(environment: pytest.MonkeyPatch, language: str) -> None:
    with _speaking(language) as server:
        holder = psycopg.connect(server.administrator)
        (folder,) = holder.execute("SHOW data_directory").fetchone() or ("",)
        os.kill(int(Path(folder, "postmaster.pid").read_text().split()[0]), signal.SIGTERM)  # waits for the holder
        wait_until(lambda: _is_refused(server.url()))
        assert _words(environment, server.url()) == ["not ready", "not ready"]
    holder.close()


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("sslmode=require", "not trusted"),
        ("target_session_attrs=standby", "read-only"),  # as a primary that is asked for where all are standbys
    ],
)
def test_both_drivers_tell_alike_of_a_server_by_tcp(
    environment: pytest.MonkeyPatch, tmp_path: Path, words: str, word: str
) -> None:
    (tmp_path / "key").touch()
    port = free_port()
    with cluster(f"-c listen_addresses=localhost -c fsync=off -c port={port}"):
        url = f"postgres://postgres@localhost:{port}/postgres?{words.format(key=tmp_path / 'key')}"
        assert _words(environment, url) == [word, word]


@pytest.mark.parametrize("language", _LANGUAGES)
def test_a_server_without_numbers_for_transactions_is_trouble_and_no_data(
    environment: pytest.MonkeyPatch, language: str
) -> None:
    asked = "SELECT pg_current_xact_id()::text"
    with _speaking(language, first_number=2046 << 20) as server:  # in sight of the 2,147,483,648th
        environment.setenv("DATABASE_URL", server.url("postgres"))
        databases.forget_process_state()
        with pytest.raises(DATABASE_TROUBLE) as raised, statement() as connection:
            connection.exec_driver_sql(asked)
        with pytest.raises(NotNowError) as refused:
            asyncio.run(_OnTheLoop()._ids(f"{asked} WHERE %s = ''", ""))
        assert refused.value.__context__
        assert [trouble_of(one).word for one in (raised.value, refused.value.__context__)] == ["no numbers"] * 2
        databases.forget_process_state()


def _is_refused(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url):
        return False
    return True
