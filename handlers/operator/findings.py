"""The findings: one list of faults that `status`, `doctor`, web's health and metrics, the alerts and the console show.

A FAIL needs somebody now, a WARN may come to that. Only `doctor` makes checks that cost a call to another's server,
but for one: Stripe is asked about the endpoint by `status` and by the console, too.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from config.database import DATABASE_TROUBLE, hurry, statement, transaction
from config.defaults import lacks_webhook_secret
from config.settings import settings, slips
from config.trouble import trouble_of
from handlers.metrics import counting, heartbeats, outside, tallies
from handlers.operator.connections import full, locked
from handlers.operator.figures import Figures
from handlers.operator.pausing import OPERATORS, PAUSABLE
from handlers.operator.processes import ill_processes
from handlers.operator.queries import at_most, oldest_waiting
from handlers.operator.refusals import refusals
from handlers.operator.signings import signed_in_vain
from handlers.owed.kinds import TELLING
from handlers.queue.claims import QUEUES
from handlers.record.events import NOT_OURS, OTHER_MODE
from handlers.tables.models import VerifiedOutput
from handlers.tables.revisions import is_at_head

FAIL, WARN = "FAIL", "WARN"
FINDING_SECONDS = 3.0  # for each answer of the database's: a lock, or a server that stands still, is a finding itself
# The outputs that are tried, of the oldest and of the newest: a key may be gone too early, or be one from before.
_OUTERMOST = 3
_MOST_LINES = 20  # of one kind of finding
_WHOSE = {"events": "the events of", "sessions": "the sessions of", "listed": "the list of sessions of"}
_ASKED_FOR = {"no REVIEW_EMAIL": "REVIEW_EMAIL", "no STRIPE_API_KEY": "STRIPE_API_KEY"}
# The last two are for a secret that is wrong since a moment ago; the first minutes of a secret say little.
_SPANS = {
    tallies.HOUR: "an hour",
    tallies.DAY: "a day",
    tallies.TWENTY_MINUTES: "twenty minutes",
    tallies.TEN_MINUTES: "ten minutes",
}
# So many deliveries in vain are a finding, if none of the same span was accepted; anybody can send refused ones.
_REFUSED = 3
_UNADDRESSED = 3  # mails: one person without an address is nothing odd
_DROPPED = {tallies.HOUR: 3, tallies.DAY: 1}
_BURST, _MINUTE = 10.0, 60.0  # seconds
_MANY = 0.2  # of all deliveries of an hour

Told = tuple[str, str, str]  # a level, the fault, and what to do


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault that needs a hand."""

    level: str
    what: str  # a key of JUDGES
    words: str
    to_do: str
    alert: str  # the alert of docs/alerts.yml that calls somebody for it


@dataclass(frozen=True, slots=True)
class Judge:
    """A function that finds faults, their alert, and the words for doctor while there are none."""

    judge: Callable[[Figures], Iterator[Told]]
    alert: str
    well: str


def findings(broker_trouble: str | None) -> list[Finding]:
    """All findings, the worst first. Takes the broker's trouble, which nothing here can find."""
    return judged(Figures(broker_trouble))


def judged(figures: Figures) -> list[Finding]:
    """All findings from figures that are shown as well, the worst first."""
    found: list[Finding] = []
    for what, one in JUDGES.items():
        try:
            with hurry(answer=FINDING_SECONDS):
                for level, words, to_do in one.judge(figures):
                    found.append(Finding(level, what, words, to_do, one.alert))  # also before an error
        except (SQLAlchemyError, *DATABASE_TROUBLE) as error:  # the other judges need its tables, too
            if not any(one.what == DATABASE and one.level == FAIL for one in found):
                words = f"it cannot be used: {trouble_of(error).sentence}"
                found = [one for one in found if one.what != DATABASE]
                found.append(Finding(FAIL, DATABASE, words, "see python -m worker doctor", JUDGES[DATABASE].alert))
            break
    return sorted(found, key=lambda one: one.level)


def in_order(found: Iterable[str]) -> dict[str, str]:
    """The words for each of ASKED_ABOUT without a finding; none while the database keeps anybody from judging."""
    said = {*found}
    return {} if DATABASE in said else {what: JUDGES[what].well for what in ASKED_ABOUT if what not in said}


def _settings(_: Figures) -> Iterator[Told]:
    if lacks_webhook_secret(settings()):
        yield (
            FAIL,
            "STRIPE_WEBHOOK_SECRET is not set: every delivery gets 503",
            "python -m worker endpoint create prints it once",
        )
    if not settings().mails_go_out:
        yield FAIL, "no SMTP_URL: every mail waits", "set it; file: writes them to files under VAR_DIR/mail"
    elif not settings().mails_are_files and settings().mail_from.mailbox == "identity@localhost":
        yield FAIL, "mails go out as identity@localhost, and nobody takes them", "set MAIL_FROM to an address of yours"
    if settings().api_tokens and not settings().stripe_api_key:
        yield FAIL, "no STRIPE_API_KEY beside API_TOKENS: nobody can be sent to a verification", "set it, or neither"
    for given, meant in slips().items():
        # The one word for the many may be another program's.
        level = WARN if f"{given}S" == meant else FAIL
        yield (
            level,
            f"{given} is set and read by nobody, and {meant} is not set",
            f"rename it to {meant}, or take it out",
        )


def of_the_broker(trouble: str | None) -> Iterator[Told]:
    """The finding for the broker's trouble, if there is any."""
    if trouble:
        level = FAIL if settings().redis_url else WARN
        to_do = "see REDIS_URL" if settings().redis_url else "set REDIS_URL: only make run has a Redis of its own"
        yield level, f"{trouble}: nothing is lost, but nothing is done until this is mended", to_do


def _broker(figures: Figures) -> Iterator[Told]:
    return of_the_broker(figures.broker_trouble)


def _database(figures: Figures) -> Iterator[Told]:
    with statement() as connection:
        held = locked(connection)
    for what, pid, whose in held:
        yield FAIL, f"{what} locked by connection {pid} ({whose})", f"end it: SELECT pg_terminate_backend({pid})"
    if not is_at_head():
        yield FAIL, "migrations are missing", "python -m worker migrate"
        return
    if gone := figures.tables.gone:
        words = f"{', '.join(gone)} {'are' if len(gone) > 1 else 'is'} missing, which migrations have made"
        yield FAIL, words, "put a backup back, and before anything else is started: python -m worker restored"
        return
    for name in figures.tables.demanded:
        words = f"{name}, which is none of ours, wants a value in each row, and so its table takes none"
        yield FAIL, words, f"drop it, or: ALTER TABLE … ALTER {name.partition('.')[2]} DROP NOT NULL"
    for name in figures.tables.twofold:
        words = f"{name} is not unique any more, as migrations have made it: what is there already may be stored again"
        yield FAIL, words, "delete what is there twice, and make the key again, as the migrations have it"
    for name, ends_it in figures.tables.hinders.items():
        yield FAIL, f"{name} is none of ours, and may keep rows from being stored or found", f"end it: {ends_it}"
    for name, makes_it in figures.tables.slow.items():
        words = f"the index {name} is gone, or not valid: what needs it reads the whole table"
        yield FAIL, words, f"drop what is left of it, then: {makes_it}"
    if figures.hindrance:
        yield FAIL, f"nothing can be stored: {figures.hindrance.sentence}", "deliveries are answered 503 meanwhile"
    elif closed := figures.tables.closed:
        words = "; ".join(f"{name} ({may})" for name, may in closed.items())
        yield FAIL, f"its role lacks rights to {words}: what is due waits", "grant it all on our tables"
    if figures.commits.is_old:
        oldest, age = figures.commits.oldest, figures.commits.age
        words = f"the database {oldest} was not vacuumed for {age:,} transactions: near 2,147,000,000 it stops"
        yield FAIL, words, "end old transactions, prepared ones and replication slots, and there: VACUUM (FREEZE)"
    if taken := full():
        names = ", ".join(f"{name} {count}" for name, count in taken.holders.items())
        words = f"all {taken.most} connections are taken of {taken.limit}: {names}"
        yield FAIL if taken.by_others else WARN, words, "end what needs none, raise the limit, or lower DATABASE_POOL"


def _processes(figures: Figures) -> Iterator[Told]:
    if figures.hindrance or figures.tables.takes_no("identity_heartbeat"):
        return  # nobody can say that it lives
    found = ill_processes(figures.processes, figures.at, hears_clocks=not figures.broker_trouble)
    yield from ((FAIL if is_urgent else WARN, words, to_do) for is_urgent, words, to_do in found)


def _clocks(figures: Figures) -> Iterator[Told]:
    for process, ahead in figures.clocks:
        if abs(ahead) > heartbeats.WRONG:
            which = "ahead of" if ahead > 0 else "behind"
            words = f"{process.name}: {abs(ahead):.1f} s {which} the database's clock, which decides"
            yield FAIL if abs(ahead) > heartbeats.MOST_APART else WARN, words, "set this machine's by NTP"


def _deliveries(figures: Figures) -> Iterator[Told]:
    for span, within in _SPANS.items():
        counts = figures.lately.deliveries(span)
        refused, dropped = counts["refused", counting.UNSIGNED], counts["ignored", OTHER_MODE]
        stripped = counts["refused", counting.STRIPPED]
        is_any_signed = any(count and outcome != "refused" for (outcome, _), count in counts.items())
        if refused >= _REFUSED and not is_any_signed:
            words = f"{refused:.0f} refused for their signature, none accepted in {within}"
            yield (
                FAIL,
                words,
                "is STRIPE_WEBHOOK_SECRET the endpoint's secret, as Stripe shows it? Does a proxy change bodies?",
            )
            return
        if stripped >= _REFUSED and not is_any_signed:
            words = f"{stripped:.0f} refused as Stripe's signature is missing, none accepted in {within}"
            yield FAIL, words, "what stands before web has to hand on the header Stripe-Signature"
            return
        if dropped >= _DROPPED.get(span, math.inf) and not counts["accepted", ""] + counts["duplicate", ""]:
            mode = "live" if settings().livemode else "test"
            words = f"{dropped:.0f} dropped as of the other mode than STRIPE_API_KEY, {mode}, none accepted in {within}"
            yield FAIL, words, "set the key of the mode whose endpoint leads here"
            return
    counts = figures.lately.deliveries(tallies.DAY)
    others = counts["ignored", NOT_OURS]
    if others >= _REFUSED and not counts["accepted", ""] + counts["duplicate", ""]:
        words = f"{others:.0f} were about sessions that are not ours, none about ours in a day"
        yield WARN, words, "does OUR_SESSIONS name ours? python -m worker events --error 'not ours'"
    counts = figures.lately.deliveries(tallies.HOUR)
    reasons = {why: count for (outcome, why), count in counts.items() if outcome == "refused"}
    refused, taken = sum(reasons.values()), sum(counts.values())
    if refused >= _REFUSED and refused > _MANY * taken:
        why = max(reasons, key=lambda one: reasons[one])
        words = f"{refused:.0f} of {taken:.0f} were refused in an hour, most for: {why}"
        is_unsigned = why == counting.UNSIGNED
        yield WARN, words, f"{'is STRIPE_WEBHOOK_SECRET right? ' * is_unsigned}python -m worker status has all reasons"


def _tokens(figures: Figures) -> Iterator[Told]:
    for span, within in _SPANS.items():
        counts = figures.lately.requests(span)
        if counts["refused"] >= _REFUSED and not counts["accepted"]:
            words = f"{counts['refused']:.0f} requests refused for their token, none accepted in {within}"
            yield FAIL, words, "is the application's token one of API_TOKENS, without its name and colon?"
            return


def _refusals(figures: Figures) -> Iterator[Told]:
    for of, words, to_do in refusals([*figures.processes, *figures.ourselves], figures.at):
        yield WARN if of == outside.LOGO else FAIL, words, to_do


def _waiting(name: str) -> Callable[[Figures], Iterator[Told]]:
    table = QUEUES[name]

    def judge(figures: Figures) -> Iterator[Told]:
        backlog, most = figures.backlogs[name], settings().backlog_seconds
        if backlog.oldest_seconds > most:
            words = f"the oldest waiting {table.NOUN} is {backlog.oldest_seconds:.0f} s old"
            oldest = oldest_waiting(table)
            if oldest is None or oldest.due_at <= figures.at:
                yield FAIL, words, "does a worker run, and get on?"
            else:
                why = f"{oldest.id} waits until {oldest.due_at:%F %T} UTC: {oldest.last_error or 'a worker has it'}"
                yield FAIL, f"{words}: {why}", f"python -m worker session {oldest.session_id}; retry has it tried now"
        elif backlog.due and backlog.oldest_seconds > _BURST:
            # The counts of the last seconds are not written down yet; with too high a pace the finding comes later.
            ended = figures.ended_lately[f"{name}_ended"]
            pace = ended / min(_MINUTE, backlog.oldest_seconds - counting.FLUSH_SECONDS)
            if ended and backlog.due / pace > most:
                words = f"{at_most(backlog.due)} {name} are due, and {pace:.1f} a second are done"
                yield FAIL, f"{words}: the last waits for {backlog.due / pace:.0f} s", "is the worker slow? Start more"

    return judge


def _overdue(figures: Figures) -> Iterator[Told]:
    for name, backlog in figures.backlogs.items():
        if count := backlog.overdue:
            words = f"{at_most(count)} {name} have waited for more than a day"
            yield FAIL, words, "python -m worker status says for what; retry or discard"


def _dead(figures: Figures) -> Iterator[Told]:
    for name, backlog in figures.backlogs.items():
        if count := backlog.dead:
            yield FAIL, f"{at_most(count)} {name} are dead", "python -m worker dead, then retry or discard"


def _skipped(figures: Figures) -> Iterator[Told]:
    skipped = defaultdict[str, float](float)
    for (_, reason), count in figures.lately.skipped(tallies.DAY).items():
        skipped[reason] += count
    for reason, setting in _ASKED_FOR.items():
        if skipped[reason] >= 1:
            often = f", {skipped[reason]:.0f} times" if skipped[reason] > 1 else ""
            words = f"something owed was skipped within a day{often}: {reason}"
            is_set = bool(getattr(settings(), setting.lower()))
            to_do = "what still is comes back by retry --skipped, and this ends a day after the last"
            yield WARN, words, to_do if is_set else "set it, and what was skipped comes back by retry --skipped"
    if skipped["no address"] >= _UNADDRESSED and figures.lately.done(tallies.DAY).isdisjoint(TELLING):
        words = f"all {skipped['no address']:.0f} mails within a day were skipped: no address"
        yield WARN, words, "does EMAIL_LOOKUP find persons, or have sessions an email? Then retry --skipped"


def _outputs(_: Figures) -> Iterator[Told]:
    if not settings().verified_outputs:
        return
    some, at = select(col(VerifiedOutput.ciphertext)).limit(_OUTERMOST), col(VerifiedOutput.fetched_at)
    with transaction() as session:
        kept = [*session.scalars(some.order_by(at)), *session.scalars(some.order_by(at.desc()))]
    # A module that no setting switches on is not imported.
    if kept and not all(map(import_module("handlers.outbox.outputs").is_readable, kept)):
        words = "verified outputs are kept that none of VERIFIED_OUTPUTS_KEY can read"
        yield FAIL, words, "put the key that is gone back behind the newest, then python -m worker reencrypt"


def _links(_: Figures) -> Iterator[Told]:
    if until := signed_in_vain():
        why = settings().why_no_links or "their key is gone from LINK_KEYS, or PUBLIC_URL is another one"
        yield (
            FAIL,
            f"links that were sent until {until:%F %R} UTC open no page: {why}",
            "set it as it was, an older key behind the newest; if that is gone on purpose: python -m worker end-links",
        )


def _senders(figures: Figures) -> Iterator[Told]:
    # Anybody can add a proxy's headers to a request, but only a person with a link is counted.
    if count := figures.lately.unknown_senders(tallies.HOUR):
        often = f", {count:.0f} times" if count > 1 else ""
        words = f"a person came through other proxies than TRUSTED_PROXIES={settings().trusted_proxies} says{often}"
        to_do = "set it to the number of your proxies that add to X-Forwarded-For; this ends an hour after the last"
        yield WARN, f"{words}: all strangers' tries are counted as one sender's", to_do


def _unanswered(figures: Figures) -> Iterator[Told]:
    rows = figures.unanswered
    for row in rows[:_MOST_LINES]:
        whose = f"{_WHOSE.get(row.what, row.what)} {row.name or 'our own account'}"
        often = "once" if row.failures == 1 else f"{row.failures} times"
        words = f"Stripe does not answer about {whose}: {row.reason}, {often} since {row.since:%F %R} UTC"
        yield WARN if row.name else FAIL, words, "is it a key, a permission, an account? python -m worker doctor"
    if len(rows) > _MOST_LINES:
        yield WARN, f"and about {len(rows) - _MOST_LINES} more", "all of them are counted by python -m worker status"


def _redactions(figures: Figures) -> Iterator[Told]:
    late = figures.not_redacted
    for record in late[:_MOST_LINES]:
        words = f"{record.session_id} is not redacted, as was asked at {record.redaction_asked_at:%F %R} UTC"
        yield FAIL, words, f"python -m worker session {record.session_id}"
    if len(late) > _MOST_LINES:
        yield FAIL, f"{at_most(len(late))} sessions in all are not redacted", "python -m worker status shows them"


_WAITING = {"application": "calls to the application", "mail": "mails", "stripe": "requests to Stripe"}


def _paused(figures: Figures) -> Iterator[Told]:
    for one in figures.paused:
        theirs = [what for what, name in PAUSABLE.items() if name == one.what and one.reason.startswith(OPERATORS)]
        waiting = theirs[0] if theirs else _WAITING.get(one.what, one.what)
        words = f"{waiting} wait since {one.since:%F %R} UTC: {one.reason}"
        yield FAIL, words, f"python -m worker resume {theirs[0]}" if theirs else "they go on once that is over"


DATABASE = "database"
# Did the deploy work, and is anything refused? No finding about these is an answer.
ASKED_ABOUT = (DATABASE, "processes", "refusals")
JUDGES: dict[str, Judge] = {
    "settings": Judge(_settings, "IdentitySettings", "they fit together"),
    "redis": Judge(_broker, "IdentityBroker", "it can be reached"),
    DATABASE: Judge(_database, "IdentityDatabase", "all migrations are applied"),
    "processes": Judge(_processes, "IdentityProcesses", "web, worker and clock are at work"),
    "clocks": Judge(_clocks, "IdentityClockWrong", "those of all processes agree with the database's"),
    "deliveries": Judge(_deliveries, "IdentityDeliveriesRefused", "none is refused or dropped while none is accepted"),
    "tokens": Judge(_tokens, "IdentityTokens", "the application's are accepted, or nobody asks"),
    "refusals": Judge(_refusals, "IdentityRefused", "no process was refused by whom it asked last"),
    "events": Judge(_waiting("events"), "IdentityEventsWait", "none waits for long"),
    "actions": Judge(_waiting("actions"), "IdentityActionsWait", "none waits for long"),
    "overdue": Judge(_overdue, "IdentityOverdue", "nothing has waited for a day"),
    "dead": Judge(_dead, "IdentityDead", "nothing was given up"),
    "skipped": Judge(_skipped, "IdentitySkipped", "no setting was missing for what was owed"),
    "outputs": Judge(_outputs, "IdentityOutputs", "what is kept can be read"),
    "links": Judge(_links, "IdentityLinks", "those that may be open lead to their pages"),
    "senders": Judge(_senders, "IdentitySenders", "each visit in the last hour had a sender's address"),
    "unanswered": Judge(_unanswered, "IdentityUnanswered", "reconcile got its answers about each account and session"),
    "redactions": Judge(
        _redactions, "IdentityNotRedacted", "whoever was to be forgotten five days ago is redacted at Stripe"
    ),
    "paused": Judge(_paused, "IdentityPaused", "nothing"),
}
