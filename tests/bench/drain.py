"""The speed of owed actions: mails to files; and mails whose addresses Stripe is asked for, with calls."""

from collections.abc import Mapping, Sequence

import psycopg

from tests.bench import store
from tests.bench.flow import MAILING, UNDONE, noop_rate, procfile_running, wait_for_none
from tests.bench.report import Report, beside_noops, judged, ratios
from tests.bench.servers import House
from tests.chaos.outside import Application
from tests.simulator.client import Simulator
from tests.support.servers import Mailbox, mail_server

_RECORDS = """
INSERT INTO verification_record (session_id, status, livemode, submissions, client_reference_trusted, change_number,
  told_count, applied_at, applied_rank, applied_answer, created_at, updated_at, last_report_id)
SELECT id, 'verified', false, 1, false, 1, 0, now(), 3, false, now(), now(), 'vr_' || id
FROM unnest(%s::text[]) AS id"""
_ACTIONS = """
INSERT INTO outbox_action (session_id, name, cause, payload, status, attempts, waits, due_at, created_at)
SELECT id, name, CASE name WHEN 'notify_app' THEN '1' ELSE 'verified:' || ':vr_' || id END, '{"status": "verified"}',
  'pending', 0, 0, now(), now()
FROM unnest(%s::text[]) AS id, unnest(%s::text[]) AS name"""
_PACE = """
SELECT count(*) / extract(epoch FROM max(done_at) - min(done_at))::float, count(*) FILTER (WHERE status <> 'done')
FROM outbox_action"""


def drain(report: Report, house: House, database: str, *, persons: int, rounds: int, tasks: int) -> None:
    """Measures a worker that starts with so many mails, and then with a mail and a call for each person; beside Celery
    tasks that do nothing.
    """
    rates, alone, noops = [], [], []
    for _ in range(rounds):
        noops.append(noop_rate(house, tasks))
        sessions = [f"vs_1Alone{number}" for number in range(2 * persons)]
        alone.append(_drained(house, database, sessions, ["email_verified"], MAILING))
        rates.append(_drained_outside(house, database, persons))
    report.keep("drain", {"mails to files": alone, "actions a second": rates, "no-op tasks a second": noops})
    report.add(
        "drain",
        f"{2 * persons:,} waiting: mails to files",
        **beside_noops(alone, "actions", noops),
        target="≥ 2.0",
        met=judged(ratios(alone, noops), least=2.0),
    )
    report.add(
        "drain",
        f"{2 * persons:,} waiting: mails by SMTP, addresses from Stripe, calls of the application",
        **beside_noops(rates, "actions", noops),
        target="≥ 300/s",
        met=judged(rates, least=300),
    )


def _drained_outside(house: House, database: str, persons: int) -> float:
    application = Application()
    try:
        with Simulator.start() as stripe, mail_server(Mailbox()) as port:
            sessions = stripe.run(persons, session={"provided_details": {"email": "person{n}@example.com"}})
            variables = {
                "SMTP_URL": f"smtp://127.0.0.1:{port}",
                "STRIPE_API_KEY": stripe.api_key,
                "STRIPE_API_BASE": stripe.base,
                "APP_CALLBACK_URL": application.url,
                "APP_CALLBACK_SECRET": "whsec_" + "YmVuY2g" * 8,
            }
            return _drained(house, database, sessions, ["email_verified", "notify_app"], variables)
    finally:
        application.stop()


def _drained(
    house: House, database: str, sessions: Sequence[str], kinds: list[str], variables: Mapping[str, str]
) -> float:
    """Actions a second, from the first end to the last."""
    store.empty(database)
    house.broker.flushall()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(_RECORDS, (sessions,))
        connection.execute(_ACTIONS, (sessions, kinds))
        with procfile_running(house, database, variables=variables):
            wait_for_none(database, *UNDONE)
        pace, others = connection.execute(_PACE).fetchone() or (0.0, 0)
    if others:
        raise AssertionError(f"{others} actions were not done")
    return float(pace)
