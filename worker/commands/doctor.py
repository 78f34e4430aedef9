"""Checks the whole set-up: each thing one line, OK, WARN or FAIL, and what to do."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any, cast

import psycopg

from config import broker, postgres
from config.database import DATABASE_TROUBLE, engine, measure_clock, true_now
from config.defaults import link_keys, webhook_secrets
from config.logs import configure_logging
from config.settings import SettingsError, settings
from handlers.catalogue.check import faults, unsaid
from handlers.metrics import clocks
from handlers.operator.queries import backlog_of, not_redacted
from handlers.outbox.mails import email_lookup
from handlers.outbox.smtp import check_smtp
from handlers.queue.failures import NotAllowedError, NotNowError, PermanentError, RefusedError, describe
from handlers.queue.pauses import paused
from handlers.stripe_api import account, sessions
from handlers.tables.models import InboxEvent, OutboxAction
from handlers.tables.schema import is_at_head
from handlers.upkeep import unanswered
from handlers.upkeep.purge import MOST_APART
from worker.commands import endpoint
from worker.commands.printing import print_json, print_rows

# A signature is good for 300 s either way: half of that is eaten up by a clock this wrong.
_SKEW_FAILS = 150.0
_MOST_UNANSWERED = 20  # lines
_WORDS = {"events": "the events of", "sessions": "the sessions of", "listed": "the list of sessions of"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    level: str  # OK, WARN or FAIL
    what: str
    words: str


Check = Callable[[], Iterator[tuple[str, str]]]


def diagnose(arguments: argparse.Namespace) -> int:
    """0 unless something fails."""
    with suppress(SettingsError):  # the first finding
        configure_logging()
    findings = list(examine())
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_rows([asdict(finding) for finding in findings], ("level", "what", "words"))
    return 1 if any(finding.level == "FAIL" for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """All findings, in the order of CHECKS; with settings that cannot be read, only those."""
    try:
        settings()
    except SettingsError as error:
        yield from (Finding("FAIL", "settings", line) for line in str(error).splitlines())
        return
    for what, check in CHECKS.items():
        try:
            yield from (Finding(level, what, words) for level, words in check())
        except SettingsError as error:
            yield Finding("FAIL", what, str(error))
        except Exception as error:  # the next check may still say something
            yield Finding("FAIL", what, f"could not be checked: {describe(error)}")


def _settings() -> Iterator[tuple[str, str]]:
    yield "OK", "all of them can be read"
    if settings().embedded_database:
        yield "WARN", "no DATABASE_URL: SQLite under VAR_DIR, good for one machine whose disk stays"
    if not settings().public_url:
        yield "WARN", "no PUBLIC_URL: the endpoint at Stripe cannot be checked"


def _secrets() -> Iterator[tuple[str, str]]:
    count = len(webhook_secrets(settings()))
    if settings().stripe_webhook_secret:
        yield "OK", f"{count} in STRIPE_WEBHOOK_SECRET"
    else:
        yield "WARN", "a generated one, which only replays are signed with: set STRIPE_WEBHOOK_SECRET"


def _links() -> Iterator[tuple[str, str]]:
    """Whether people can be sent to pages of ours."""
    if why := settings().why_no_links:
        level = "FAIL" if settings().link_keys else "WARN"  # who sets them wants links
        yield level, f"none are made, and there are no pages: {why}"
        return
    count = len(link_keys(settings()))
    signed = f"the first of {count} in LINK_KEYS" if settings().link_keys else "a generated key"
    yield "OK", f"they lead to {settings().base_url}, signed with {signed}"
    if not settings().public_url:
        yield "WARN", "no PUBLIC_URL: links lead to this machine, and nobody else can open them"


def _stripe() -> Iterator[tuple[str, str]]:
    if not settings().stripe_api_key:
        yield "WARN", "no STRIPE_API_KEY: no reconcile, no addresses from Stripe, thin events are ignored"
        return
    mode = "live" if settings().livemode else "test"
    try:
        with suppress(*DATABASE_TROUBLE):
            measure_clock()
        skew = abs((account.stripe_now() - true_now()).total_seconds())
    except (NotNowError, PermanentError) as error:
        yield "FAIL", f"{error}: is STRIPE_API_KEY ({mode} mode) right and not revoked, and the network open?"
        return
    yield "OK", f"answers to the key, {mode} mode"
    level = "FAIL" if skew > _SKEW_FAILS else "WARN" if skew > clocks.WRONG else "OK"
    advice = "" if level == "OK" else ": set the database's by NTP, or signatures will be refused"
    yield level, f"its clock and the database's are {skew:.0f} s apart{advice}"


def _permissions() -> Iterator[tuple[str, str]]:
    """Each thing that is asked of Stripe, tried: what is refused here would wait for ever."""
    if not settings().stripe_api_key:
        yield "WARN", "not checked: needs STRIPE_API_KEY"
        return
    span = true_now() - timedelta(hours=1), true_now(), None
    yield _tried("STRIPE_API_KEY", "read sessions", "identity_product_read", partial(sessions.list_sessions, *span))
    yield _tried("STRIPE_API_KEY", "read events", "event_read", partial(sessions.list_events, *span))
    # Of none: whether it may is said before whether there is one.
    yield _tried(
        "STRIPE_API_KEY", "cancel sessions", "identity_product_write", partial(sessions.cancel, "vs_none", None)
    )
    names, key = settings().verified_outputs, settings().stripe_restricted_key.get_secret_value()
    if not names:
        return
    if key.startswith("rk_live_") != settings().livemode:
        yield "FAIL", "STRIPE_RESTRICTED_KEY is of the other mode than STRIPE_API_KEY"
        return
    permission = "identity_product_read, with rak_identity_verification_results_sensitive_read"
    level, words = _tried("STRIPE_RESTRICTED_KEY", "read outputs", permission, partial(sessions.shows_outputs, names))
    yield level, words
    if level == "OK" and not sessions.shows_outputs(names):
        yield "WARN", "no session is verified yet, so no output could be read: ask again then"


def _tried(key: str, what: str, permission: str, attempt: Callable[[], object]) -> tuple[str, str]:
    try:
        attempt()
    except NotAllowedError as error:
        return "FAIL", f"{error}: {key} may not {what}: give it the permission rak_{permission}"
    except (NotNowError, PermanentError) as error:
        return "FAIL", f"{error}: whether {key} may {what} could not be tried"
    return "OK", f"{key} may {what}"


def _unanswered() -> Iterator[tuple[str, str]]:
    rows = unanswered.known()
    for row in rows[:_MOST_UNANSWERED]:
        whose = f"{_WORDS.get(row.what, row.what)} {row.name or 'our own account'}"
        times = f"{row.failures} times since {row.since:%Y-%m-%d %H:%M} UTC"
        yield "WARN" if row.name else "FAIL", f"{whose}: {row.reason}, {times}"
    if len(rows) > _MOST_UNANSWERED:
        yield "WARN", f"and {len(rows) - _MOST_UNANSWERED} more, all of them counted by python -m worker status"
    if not rows:
        yield "OK", "reconcile got its answers about each account and session"


def _redactions() -> Iterator[tuple[str, str]]:
    late = not_redacted()
    for record in late[:_MOST_UNANSWERED]:
        asked = f"{record.redaction_asked_at:%Y-%m-%d %H:%M} UTC"
        yield "FAIL", f"{record.session_id} is not redacted, as was asked at {asked}: python -m worker session"
    if len(late) > _MOST_UNANSWERED:
        yield "FAIL", f"and {len(late) - _MOST_UNANSWERED} more, all of them shown by python -m worker status"
    if not late:
        yield "OK", "whoever was to be forgotten five days ago is redacted at Stripe"


def _paused() -> Iterator[tuple[str, str]]:
    for one in paused():
        yield "FAIL", f"{one.what} wait since {one.since:%Y-%m-%d %H:%M} UTC: {one.reason}"
    if not paused():
        yield "OK", "nothing"


def _endpoint() -> Iterator[tuple[str, str]]:
    if not settings().stripe_api_key or not settings().public_url:
        yield "WARN", "not checked: needs STRIPE_API_KEY and PUBLIC_URL"
        return
    try:
        found = endpoint.ours(account.list_endpoints())
    except NotAllowedError as error:
        yield "WARN", f"not checked: {error}; give the key the permission to read webhook endpoints"
        return
    if not found:
        yield "FAIL", f"none at Stripe leads to {endpoint.url()}: python -m worker endpoint create"
    for one in found:
        problems = endpoint.faults(one)
        yield ("FAIL", f"{one['id']}: {'; '.join(problems)}") if problems else ("OK", f"{one['id']} has all six types")


def _database() -> Iterator[tuple[str, str]]:
    try:
        at_head = is_at_head()
    except DATABASE_TROUBLE as error:
        yield "FAIL", f"cannot be used ({describe(error)}): see DATABASE_URL"
        return
    if not at_head:
        yield "FAIL", "migrations are missing: python -m worker migrate"
        return
    yield "OK", "all migrations are applied"
    if settings().on_postgres:
        yield from _postgres()
    for name, found in {"event": backlog_of(InboxEvent), "action": backlog_of(OutboxAction)}.items():
        late = found.oldest_seconds > settings().backlog_seconds
        advice = ": does a worker run? python -m worker status" if late else ""
        yield "FAIL" if late else "OK", f"the oldest waiting {name} is {found.oldest_seconds:.0f} s old{advice}"
        if found.overdue:
            yield "FAIL", f"{found.overdue} {name}s have waited for more than a day: python -m worker status"
        if found.dead:
            yield "WARN", f"{found.dead} {name}s are dead: python -m worker dead"


def _postgres() -> Iterator[tuple[str, str]]:
    with engine().connect() as connection:
        rows = connection.exec_driver_sql(postgres.reading()).all()
        standbys = connection.exec_driver_sql("SHOW synchronous_standby_names").scalar_one()
        our_pid = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection).info.backend_pid
    if standbys:
        yield "OK", f"a commit waits for a standby ({standbys}): a failover loses nothing that was answered"
    else:
        yield (
            "OK",
            "a commit waits for this server's disk, and for no standby: what a failover loses, reconcile fetches",
        )
    if postgres.is_pooled(rows, our_pid) and (left := postgres.left_by_pooler(rows)):
        yield "WARN", f"behind the pooler these are not set: {postgres.asked_of_role(left)}"


def _clocks() -> Iterator[tuple[str, str]]:
    """The database's decides; the others sign, log and purge."""
    for process, ahead in [("here", measure_clock()), *((name, lead) for name, _, lead in clocks.measured())]:
        level = "FAIL" if abs(ahead) > MOST_APART else "WARN" if abs(ahead) > clocks.WRONG else "OK"
        advice = "" if level == "OK" else ": set this machine's by NTP; what decides is the database's"
        yield level, f"{process}: {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's{advice}"


def _redis() -> Iterator[tuple[str, str]]:
    found, trouble = broker.server_info(), broker.trouble()
    if settings().redis_url:
        yield "OK" if broker.server().is_trusted else "WARN", f"to be reached {broker.server().trust}"
    if found.get("cluster_enabled"):
        yield "FAIL", "it is a node of a cluster, which splits our keys: set REDIS_URL to a server that is none"
    if found.get("role") == "slave":
        yield "FAIL", "it is a replica: set REDIS_URL to its master, or to their Sentinels"
    if trouble:
        level = "FAIL" if settings().redis_url else "WARN"
        yield level, f"{trouble}: nothing is lost, but nothing is done until this is mended"
    if not found:
        return
    policy = found.get("maxmemory_policy", "unknown")
    if policy == "noeviction" or not found.get("maxmemory"):
        yield "OK", f"reached; evicts nothing (maxmemory-policy {policy}, maxmemory {found.get('maxmemory', 0)})"
    else:
        yield "WARN", f"maxmemory-policy {policy} throws messages away when full: set it to noeviction"
    kept = found.get("aof_enabled")
    yield "OK", "it keeps an append-only file" if kept else "it keeps no append-only file: the sweep sends anew"


def _mail() -> Iterator[tuple[str, str]]:
    if not settings().smtp_url:
        yield "WARN", "no SMTP_URL: mails are written to files under VAR_DIR/mail"
        return
    try:
        check_smtp()
    except (NotNowError, RefusedError, PermanentError) as error:
        yield "FAIL", f"{error}: see SMTP_URL and MAIL_FROM"
    else:
        yield "OK", "the SMTP server takes us and our sender"


def _words() -> Iterator[tuple[str, str]]:
    found = faults()
    yield from (("FAIL", fault) for fault in found)
    if not found:
        yield "OK", f"every mail and page can be written in {', '.join(settings().locales)}"
        yield from (("WARN", f"words for what no template says: {one}") for one in unsaid())
    if not settings().brand_name:
        yield "WARN", f"no BRAND_NAME: mails speak of {settings().company}, as MAIL_FROM does"
    if not settings().support_email:
        yield "WARN", "no SUPPORT_EMAIL: mails name no address to write to"


def _lookup() -> Iterator[tuple[str, str]]:
    if not settings().email_lookup:
        if settings().stripe_api_key:
            yield "OK", "addresses come from Stripe"
        else:
            yield "WARN", "nobody gets a mail, as no address is known: set STRIPE_API_KEY or EMAIL_LOOKUP"
        return
    try:
        found = callable(email_lookup())
    except Exception as error:  # whatever the module does when it is imported
        yield "FAIL", f"EMAIL_LOOKUP cannot be imported: {type(error).__name__}"
        return
    yield ("OK", "EMAIL_LOOKUP is found") if found else ("FAIL", "EMAIL_LOOKUP names something that cannot be called")


CHECKS: dict[str, Check] = {
    "settings": _settings,
    "webhook secret": _secrets,
    "links": _links,
    "stripe": _stripe,
    "permissions": _permissions,
    "unanswered": _unanswered,
    "redactions": _redactions,
    "paused": _paused,
    "endpoint": _endpoint,
    "database": _database,
    "clocks": _clocks,
    "redis": _redis,
    "mail": _mail,
    "words": _words,
    "addresses": _lookup,
}
