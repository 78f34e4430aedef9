"""A worker's threads follow its concurrency, or what the settings say."""

from pathlib import Path

import pytest

from tests.support import facts
from tests.support.processes import service
from tests.support.servers import Mailbox, mail_server
from tests.support.waiting import wait_until

PERSONS = 14


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
