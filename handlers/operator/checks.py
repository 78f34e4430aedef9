"""Checks of the whole set-up, for `doctor` and the console: each says OK, WARN or FAIL, and what to do."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, cast

import psycopg

from config import postgres
from config.database import DATABASE_TROUBLE, engine, hurry, measure_clock, true_now
from config.defaults import lacks_webhook_secret, link_keys, webhook_secrets
from config.redis_server import Condition
from config.settings import SettingsError, settings
from handlers.catalogue.check import faults, unsaid
from handlers.metrics import heartbeats
from handlers.operator import endpoints, findings
from handlers.outbox.mails import email_lookup
from handlers.outbox.smtp import check_smtp
from handlers.queue.failures import NotAllowedError, NotNowError, PermanentError, RefusedError, describe
from handlers.stripe_api import account, sessions

_WAITS_SECONDS = 1.5  # for a connection, by each check that asks for one; without any there is a finding
_ANSWER_SECONDS = 2.0  # for each answer of the database's: a server that stands still is a finding, too
# A signature is good for 300 s either way: a clock this wrong takes half of that.
_SKEW_FAILS = 150.0


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One line of a check."""

    level: str  # OK, WARN or FAIL
    what: str
    words: str


Check = Callable[[], Iterator[tuple[str, str]]]


def checks(ask_broker: Callable[[], Condition]) -> dict[str, Check]:
    """All checks by name, in the order in which they are made."""
    return {
        "settings": _settings,
        "webhook secret": _secrets,
        "links": _links,
        "stripe": _stripe,
        "permissions": _permissions,
        "endpoint": _endpoint,
        "database": _database,
        "clocks": _clocks,
        "redis": partial(_redis, ask_broker),
        "mail": _mail,
        "words": _words,
        "addresses": _lookup,
    }


def examine(asked: Mapping[str, Check]) -> Iterator[CheckLine]:
    """Yields the lines of each check at once, then the findings; with settings that cannot be read, only those faults.

    Until the last one, this thread waits no longer than a moment for a connection; it holds none between two.
    """
    with hurry(_WAITS_SECONDS, answer=_ANSWER_SECONDS):
        yield from _lines(asked)


def _lines(asked: Mapping[str, Check]) -> Iterator[CheckLine]:
    try:
        settings()
    except SettingsError as error:
        yield from (CheckLine("FAIL", "settings", line) for line in str(error).splitlines())
        return
    for what, check in asked.items():
        try:
            yield from (CheckLine(level, what, words) for level, words in check())
        except SettingsError as error:
            yield CheckLine("FAIL", what, str(error))
        except DATABASE_TROUBLE:  # there is a finding for it
            pass
        except Exception as error:  # the next check may still say something
            yield CheckLine("FAIL", what, f"could not be checked: {describe(error)}")
    found = findings.findings(None)  # the broker has been asked above
    yield from (CheckLine(one.level, one.what, f"{one.words}: {one.to_do}") for one in found)
    if findings.DATABASE not in {one.what for one in found}:
        said = {"redis", *(one.what for one in found)}
        yield from (CheckLine("OK", what, one.well) for what, one in findings.JUDGES.items() if what not in said)


def _settings() -> Iterator[tuple[str, str]]:
    yield "OK", "all of them can be read"
    if settings().embedded_database:
        yield "WARN", "no DATABASE_URL: SQLite under VAR_DIR, good for one machine whose disk stays"
    if not settings().public_url:
        yield "WARN", "no PUBLIC_URL: the endpoint at Stripe cannot be checked"


def _secrets() -> Iterator[tuple[str, str]]:
    if lacks_webhook_secret(settings()):
        return  # there is a finding for it
    count = len(webhook_secrets(settings()))
    if settings().stripe_webhook_secret:
        yield "OK", f"{count} in STRIPE_WEBHOOK_SECRET"
    else:
        yield "WARN", "a generated one, which only replays are signed with: set STRIPE_WEBHOOK_SECRET"


def _links() -> Iterator[tuple[str, str]]:
    """Checks whether people can be sent to pages of ours."""
    if why := settings().why_no_links:
        # A team with LINK_KEYS wants links, and so does one for which a key would be generated.
        level = "FAIL" if settings().link_keys or (settings().livemode and settings().embedded_database) else "WARN"
        yield level, f"none are made, and there are no pages: {why}"
        return
    count = len(link_keys(settings()))
    signed = f"the first of {count} in LINK_KEYS" if settings().link_keys else "a generated key"
    yield "OK", f"they lead to {settings().base_url}, signed with {signed}"
    if not settings().public_url:
        yield "WARN", "no PUBLIC_URL: links lead to this machine, and nobody else can open them"
    if settings().livemode and not settings().alternative_url:
        yield "WARN", "no ALTERNATIVE_URL: a person who declines biometrics is shown no other way, as many laws ask"


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
    level = "FAIL" if skew > _SKEW_FAILS else "WARN" if skew > heartbeats.WRONG else "OK"
    advice = "" if level == "OK" else ": set the database's by NTP, or signatures will be refused"
    yield level, f"its clock and the database's are {skew:.0f} s apart{advice}"


def _permissions() -> Iterator[tuple[str, str]]:
    """Tries each kind of request to Stripe: the work for one that is refused here would wait for ever."""
    if not settings().stripe_api_key:
        yield "WARN", "not checked: needs STRIPE_API_KEY"
        return
    span = true_now() - timedelta(hours=1), true_now(), None
    yield _tried("STRIPE_API_KEY", "read sessions", "identity_product_read", partial(sessions.list_sessions, *span))
    yield _tried("STRIPE_API_KEY", "read events", "event_read", partial(sessions.list_events, *span))
    # Of a session that does not exist: Stripe checks the permission before the id.
    yield _tried(
        "STRIPE_API_KEY",
        "cancel sessions",
        "identity_product_write",
        partial(sessions.cancel_at_stripe, "vs_none", None),
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


def _endpoint() -> Iterator[tuple[str, str]]:
    if not settings().stripe_api_key or not settings().public_url:
        yield "WARN", "not checked: needs STRIPE_API_KEY and PUBLIC_URL"
        return
    try:
        found = endpoints.ours(account.list_endpoints())
    except NotAllowedError as error:
        yield "WARN", f"not checked: {error}; give the key the permission to read webhook endpoints"
        return
    if not found:
        yield "FAIL", f"none at Stripe leads to {endpoints.url()}: python -m worker endpoint create"
    for one in found:
        problems = endpoints.endpoint_faults(one)
        yield ("FAIL", f"{one['id']}: {'; '.join(problems)}") if problems else ("OK", f"{one['id']} has all six types")
        if words := endpoints.remark(one):
            yield "WARN", f"{one['id']}: {words}"


def _database() -> Iterator[tuple[str, str]]:
    if settings().on_postgres:
        with suppress(*DATABASE_TROUBLE):  # there is a finding for it
            yield from _postgres()


def _postgres() -> Iterator[tuple[str, str]]:
    with engine().connect() as connection:
        rows = connection.exec_driver_sql(postgres.settings_query()).all()
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
    """Checks this machine's clock. The database's decides; the others sign, log and purge."""
    ahead = measure_clock()
    level = "FAIL" if abs(ahead) > heartbeats.MOST_APART else "WARN" if abs(ahead) > heartbeats.WRONG else "OK"
    advice = "" if level == "OK" else ": set this machine's by NTP; what decides is the database's"
    yield level, f"here: {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's{advice}"


def _redis(ask_broker: Callable[[], Condition]) -> Iterator[tuple[str, str]]:
    condition = ask_broker()
    found = condition.info
    if settings().redis_url:
        yield "OK" if condition.server.is_trusted else "WARN", f"to be reached {condition.server.trust}"
    if found.get("cluster_enabled"):
        yield "FAIL", "it is a node of a cluster, which splits our keys: set REDIS_URL to a server that is none"
    if found.get("role") == "slave":
        yield "FAIL", "it is a replica: set REDIS_URL to its master, or to their Sentinels"
    yield from ((level, f"{words}: {to_do}") for level, words, to_do in findings.of_the_broker(condition.trouble))
    if not found:
        if not condition.trouble:
            yield "WARN", "reached; its user may not ask how it is kept, and whether it throws messages away (INFO)"
        return
    policy = found.get("maxmemory_policy", "unknown")
    if policy == "noeviction" or not found.get("maxmemory"):
        yield "OK", f"reached; evicts nothing (maxmemory-policy {policy}, maxmemory {found.get('maxmemory', 0)})"
    else:
        yield "WARN", f"maxmemory-policy {policy} throws messages away when full: set it to noeviction"
    yield "OK", _kept(found)


def _kept(found: dict[str, Any]) -> str:
    if found.get("aof_enabled"):
        return "it keeps an append-only file"
    if found.get("save"):
        return "it keeps snapshots on disk; what came after the last, the sweep sends anew"
    return "it keeps nothing on disk, or does not say so: after its restart the sweep sends everything anew"


def _mail() -> Iterator[tuple[str, str]]:
    if settings().mails_are_files:
        yield "WARN", "mails are written to files under VAR_DIR/mail: set SMTP_URL"
    if settings().mails_are_files or not settings().smtp_url:
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
    except (Exception, SystemExit) as error:  # the team's module may raise anything at its import
        yield "FAIL", f"EMAIL_LOOKUP cannot be imported: {type(error).__name__}"
        return
    yield ("OK", "EMAIL_LOOKUP is found") if found else ("FAIL", "EMAIL_LOOKUP names something that cannot be called")
