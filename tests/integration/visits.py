"""Short words for tests of the person's pages: a browser without scripts, and the traces of its visits."""

import http.client
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from starlette.testclient import TestClient

from handlers.sessions.links import link_to
from tests.integration.stories import Stories
from tests.support import databases

HERE = "https://verify.example"
SCRIPT = {"Accept": "application/json"}
OURS = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}  # as Chromium sends a form of ours
KEYS = {
    "STRIPE_WEBHOOK_SECRET": "whsec_0123456789",
    "STRIPE_PUBLISHABLE_KEY": "pk_test_simulator0000",
    "RETURN_ORIGINS": "https://app.example,shop:",
    "LINK_KEYS": "n" * 32,
    "PUBLIC_URL": HERE,
}
# Processes write these every few seconds, with or without visits.
_OF_PROCESSES = ("identity_metric", "identity_tally", "identity_process_clock", "identity_heartbeat")


def path_to(subject: str, below: str = "") -> str:
    """The path of a link that is made now."""
    return urlsplit(link_to(subject).url).path + below


def enter(client: TestClient, subject: str, headers: Mapping[str, str] = OURS) -> str:
    """Presses the button; the address that it leads to."""
    answer = client.post(path_to(subject), headers=headers)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def choose(url: str, outcome: str) -> str:
    """Picks an outcome on Stripe's page; the address to which it sends the person then."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc)) as connection:
        connection.request("POST", parts.path, f"outcome={outcome}")
        return connection.getresponse().headers["Location"]


@contextmanager
def untouched(stripe: Stories, database_url: str) -> Iterator[None]:
    """Checks that the block asks Stripe nothing, and changes nothing there or in the tables."""
    stripe.simulator.clear_faults()
    stripe.simulator.fault(count=None)  # it only counts
    before, there = _rows(database_url), stripe.simulator.truth()
    yield
    assert stripe.simulator.faults()[0]["hits"] == 0
    changed = sorted({*before} ^ {*_rows(database_url)})
    assert not changed, changed
    assert stripe.simulator.truth() == there
    stripe.simulator.clear_faults()


def _rows(database_url: str) -> list[str]:
    """All rows but those of each process about itself: its heartbeats and figures, and the keys that it has met."""
    rows = databases.dump(database_url, without=_OF_PROCESSES).splitlines()
    return [row for row in rows if not row.startswith(("('link key ", "('API token "))]
