"""A hanging, flooded or frozen part keeps no other from its turn: real processes."""

import signal
import threading
from pathlib import Path

import pytest

from handlers.tables.models import ActionStatus
from tests.support import facts
from tests.support.processes import service
from tests.support.servers import Mailbox, mail_server
from tests.support.waiting import wait_until

PERSONS = 14


@pytest.mark.processes
@pytest.mark.parametrize(("variables", "at_once"), [({}, 8), ({"ACTION_THREADS": "11"}, 11)])
def test_half_of_a_workers_threads_or_as_many_as_are_set_may_wait_for_a_slow_mail_server(
    tmp_path: Path, database_url: str, variables: dict[str, str], at_once: int
) -> None:
    mailbox = Mailbox()
    mailbox.hangs = True
    with mail_server(mailbox) as port:
        variables = variables | {"SMTP_URL": f"smtp://127.0.0.1:{port}"}
        with service(tmp_path / "service", database_url, **variables) as running:
            running.start("web", "clock")
            running.start("worker", concurrency=16)
            for number in range(PERSONS):
                running.deliver(facts.payload("verified", session_id=f"vs_{number}", report=f"vr_{number}"))
            wait_until(lambda: mailbox.hanging >= at_once, running.logs)
            running.deliver(facts.payload("created", session_id="vs_later"))
            wait_until(lambda: any(one.processed_at for one in facts.event_rows("vs_later")), running.logs)
            assert mailbox.hanging == at_once
            running.kill("worker")


@pytest.mark.processes
def test_a_worker_that_was_frozen_before_it_gave_its_mails_away_gives_none_away(
    tmp_path: Path, database_url: str
) -> None:
    """Its lease is over and another worker has sent them: the look right before sending counts, not the claim's."""
    mailbox, go = Mailbox(), threading.Event()
    mailbox.at_recipient = lambda: len(mailbox.recipients) > 4 or go.wait(20)
    with mail_server(mailbox) as port, service(tmp_path, database_url, SMTP_URL=f"smtp://127.0.0.1:{port}") as running:
        running.start("web", "worker", "clock")
        for number in range(4):
            running.deliver(facts.payload("verified", session_id=f"vs_{number}", report=f"vr_{number}"))
        wait_until(lambda: len(mailbox.recipients) == 4, running.logs)
        frozen = running.release("worker")
        frozen.send_signal(signal.SIGSTOP)
        facts.end_all_leases()  # the minute is over
        running.start("worker")
        wait_until(lambda: all(facts.actions(f"vs_{n}")[0].status == ActionStatus.DONE for n in range(4)), running.logs)
        go.set()
        frozen.send_signal(signal.SIGCONT)
        wait_until(lambda: running.log("worker").count("action.claim_lost") == 4, running.logs)
        frozen.kill()
        frozen.wait()
    assert len(mailbox.mails) == 4
