"""The share of the mails beside a load that wants everything: a flood of events, an application that never answers."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.bench import load, store
from tests.bench.flow import parts, procfile_running
from tests.bench.report import Report
from tests.bench.servers import House
from tests.support.servers import Mailbox, mail_server

_CONNECTIONS = 64
_PERSONS = 100
_SOON = 30.0  # seconds: nobody waits at the screen for a mail any longer
_CALLBACK = "whsec_" + "YmVuY2g" * 8


def share(report: Report, house: House, database: str, *, seconds: float) -> None:
    """Measures, while a hundred persons are verified, how many owed mails are sent by the end, and how soon."""
    store.empty(database)
    with _mailing() as smtp, procfile_running(house, database, variables=smtp) as (port, _):
        requests = load.write(house.folder / "requests", "Fx", int(8_000 * seconds), story=("created",))
        flood = threading.Thread(target=load.post, args=(port, requests, _CONNECTIONS, seconds))
        began = time.monotonic()
        flood.start()
        _verify(port, "V", seconds)
        flood.join()
        events = store.count(database, "inbox_event", "status = 'processed'") / (time.monotonic() - began)
        _add(report, database, f"while {events:,.0f} events/s that owe nothing are applied")
    store.empty(database)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as application, _mailing() as smtp:
        url = f"http://127.0.0.1:{application.getsockname()[1]}/"
        hanging = {"APP_CALLBACK_URL": url, "APP_CALLBACK_SECRET": _CALLBACK}
        with procfile_running(house, database, variables=smtp | hanging) as (port, _):
            _verify(port, "H", 0.0)
            time.sleep(seconds)
            _add(report, database, "beside an application that never answers")


@contextmanager
def _mailing() -> Iterator[dict[str, str]]:
    with mail_server(Mailbox()) as port:
        yield {"SMTP_URL": f"smtp://127.0.0.1:{port}", "EMAIL_LOOKUP": "tests.support.lookups:everybody"}


def _verify(port: int, tag: str, seconds: float) -> None:
    """Verifies persons one after the other, over so many seconds."""
    client = http.client.HTTPConnection("127.0.0.1", port)
    for _, body, headers in parts(tag, _PERSONS, ("verified",)):
        client.request("POST", load.PATH, body, headers)
        client.getresponse().read()
        time.sleep(seconds * 0.8 / _PERSONS)


def _add(report: Report, database: str, what: str) -> None:
    query = """SELECT done_at IS NOT NULL, extract(epoch FROM coalesce(done_at, now()) - created_at)::float
      FROM outbox_action WHERE name LIKE 'email%'"""
    with psycopg.connect(database) as connection:
        owed = connection.execute(query).fetchall()
    mailed, longest = sum(is_done for is_done, _ in owed), max(waited for _, waited in owed)
    report.keep(what, owed)
    words = f"{mailed} of {len(owed)} owed mailed; the longest wait {longest:.1f} s"
    report.add("share", what, words, target="none above 30 s", met=longest < _SOON)
