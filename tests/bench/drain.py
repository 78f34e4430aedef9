"""How fast what is owed is done: mails whose address Stripe is asked for, and calls of the application."""

from statistics import median

import psycopg

from tests.bench import store
from tests.bench.flow import UNDONE, noop_rate, procfile_running, wait_for_none
from tests.bench.report import Report, judged, ratio
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
FROM unnest(%s::text[]) AS id, unnest(ARRAY['email_verified', 'notify_app']) AS name"""
_PACE = """
SELECT count(*) / extract(epoch FROM max(done_at) - min(done_at))::float, count(*) FILTER (WHERE status <> 'done')
FROM outbox_action"""


def drain(report: Report, house: House, database: str, *, persons: int, rounds: int, tasks: int) -> None:
    """For each person a mail and a call wait when the worker starts; beside Celery's tasks that do nothing."""
    rates, noops = [], []
    for _ in range(rounds):
        noops.append(noop_rate(house, tasks))
        rates.append(_drained(house, database, persons))
    report.keep("drain", {"actions a second": rates, "no-op tasks a second": noops})
    report.add(
        "drain",
        f"{2 * persons:,} waiting: mails by SMTP, addresses from Stripe, calls of the application",
        f"{median(rates):,.0f} actions/s",
        beside=f"{median(noops):,.0f} no-op tasks/s",
        ratio=ratio(rates, noops),
        target="≥ 300/s",
        met=judged(rates, least=300),
    )


def _drained(house: House, database: str, persons: int) -> float:
    store.empty(database)
    house.broker.flushall()
    application = Application()
    try:
        with Simulator.start() as stripe, mail_server(Mailbox()) as port, psycopg.connect(database) as connection:
            sessions = stripe.run(persons, session={"provided_details": {"email": "person{n}@example.com"}})
            for statement in (_RECORDS, _ACTIONS):
                connection.execute(statement, (sessions,))
            connection.commit()
            variables = {
                "SMTP_URL": f"smtp://127.0.0.1:{port}",
                "STRIPE_API_KEY": stripe.api_key,
                "STRIPE_API_BASE": stripe.base,
                "APP_CALLBACK_URL": application.url,
                "APP_CALLBACK_SECRET": "whsec_" + "YmVuY2g" * 8,
            }
            with procfile_running(house, database, variables=variables):
                wait_for_none(database, *UNDONE)
            pace, others = connection.execute(_PACE).fetchone() or (0.0, 0)
            if others:
                raise AssertionError(f"{others} actions were not done")
            return float(pace)
    finally:
        application.stop()
