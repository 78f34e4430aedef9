"""A capture of the Stripe CLI's, replayed into a service without any Stripe: the application knows the addresses."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.payloads.expected import DELIVERIES, SESSIONS, Outcome
from tests.support.service import ROOT, Service
from worker.commands.replay import read, replay

CAPTURE = ROOT / "tests" / "payloads" / "capture.txt"
PAUSE_SECONDS = 3600  # events of the capture that lie further apart were made on different days
PREFIX = "vs_1Demo"


def test_a_replayed_capture_comes_to_the_records_and_mails_of_its_stories(tmp_path: Path) -> None:
    events = read(CAPTURE.read_text())
    with Service(tmp_path, EMAIL_LOOKUP="tests.payloads.addresses:lookup") as service:
        service.wait_ready()
        secret = (tmp_path / "var" / "webhook_secret").read_text().strip()
        said: Counter[str] = Counter()
        for part in _parts(events):
            said += replay(part, service.url, secret)
            service.wait_until(service.is_quiet)
        said += replay(events[:1], service.url, "whsec_somebody_else")
        assert said == DELIVERIES
        assert _outcomes(service) == SESSIONS
        done = [action for outcome in SESSIONS.values() for action in outcome.actions if action.endswith(" done")]
        assert len(service.mails()) == len(done)
        assert service.mails("mia@example.com") == []
        files = [service.log, *(tmp_path / "var").glob("identity.db*")]
        assert not any(
            b"c4nary" in file.read_bytes() for file in files
        )  # what the capture's client_secret and url hold


def _parts(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut where a day begins, and before what arrived late: whether a prompt was sent must not depend on speed."""
    starts = [0]
    for place, (before, after) in enumerate(pairwise(events), start=1):
        if not 0 <= after["created"] - before["created"] <= PAUSE_SECONDS:
            starts.append(place)
    for start, end in pairwise([*starts, len(events)]):
        yield events[start:end]


def _outcomes(service: Service) -> dict[str, Outcome]:
    return {
        record["session_id"].removeprefix(PREFIX): Outcome(
            record["status"],
            record["submissions"],
            record["last_error_code"],
            tuple(service.actions(record["session_id"])),
            record["redacted_at"] is not None,
        )
        for record in service.rows("SELECT * FROM verification_record")
    }
