"""Compares every record, mail and call with the simulator's truth, and gives each double mail its cause."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from handlers.outbox.mails import digest
from handlers.owed.kinds import TELLING
from handlers.record.error_codes import OWED, classify
from handlers.tables.models import (
    ActionStatus,
    InboxEvent,
    InboxStatus,
    OutboxAction,
    Verification,
    VerificationRecord,
)
from tests.chaos.outside import Accepted, Application, MailServer
from tests.chaos.services import Death
from tests.chaos.shop import OTHERS
from tests.chaos.stores import Loss
from tests.support import databases

REVIEWER = "reviewer@example.com"
LIMIT = 3  # SUBMISSION_LIMIT's default
_A_THIRD = 30  # of ACTION_ATTEMPTS' default: only an unknown outcome adds so many tries at once
_UNDER_WAY_FOR = 10.0  # seconds, of a mail to the slow server
_MOST_MAILS = 12  # to one person, in a run of the simulator's scenarios
Key = tuple[str, str, str]


@dataclass(slots=True)
class Verdict:
    """The figures of a run, and its problems, each a sentence."""

    figures: dict[str, int | str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def must_be_none(self, name: str, found: Iterable[str]) -> None:
        """Adds a figure that must be zero; anything found is a problem."""
        listed = list(found)
        self.figures[name] = len(listed)
        self.problems += [f"{name}: {one}" for one in listed]


@dataclass(slots=True)
class Tables:
    """The rows of the database."""

    events: dict[str, InboxEvent]
    records: dict[str, VerificationRecord]
    actions: list[OutboxAction]
    verifications: dict[str, Verification]

    @property
    def unmentioned(self) -> set[str]:
        """The sessions whose end is told to nobody: replaced, ended quietly, or of a person to be forgotten."""
        return {
            session_id
            for session_id, record in self.records.items()
            if record.replaced_at or record.replacing_at or record.redaction_asked_at or record.ends_quietly
        }

    @property
    def unfinished(self) -> list[str]:
        """The rows that still wait, and why."""
        waiting: list[InboxEvent | OutboxAction] = [
            *(event for event in self.events.values() if event.status == InboxStatus.RECEIVED),
            *(action for action in self.actions if action.status == ActionStatus.PENDING),
        ]
        return [
            f"{row.id} of {row.session_id}, attempts {row.attempts}, waits {row.waits}, {row.due_at}: {row.last_error}"
            for row in waiting
        ]


class Rest:
    """The end of all work, looked for at little cost to a busy machine; hours that some rows wait for are skipped."""

    _SECONDS = 15.0  # longer than any work takes once all faults are over

    def __init__(self, url: str) -> None:
        self._engine = databases.opened(url)
        self._seen: dict[tuple[int | None, int], float] = {}
        self.passed = 0

    def has_come(self) -> bool:
        """Whether no row waits. Rows that wait for their mail's unknown outcome are made due."""
        with self._engine.begin() as connection:
            events = select(InboxEvent.id).where(InboxEvent.status == InboxStatus.RECEIVED).limit(1)
            actions = select(OutboxAction.id, OutboxAction.attempts, OutboxAction.waits)
            open_actions = connection.execute(actions.where(OutboxAction.status == ActionStatus.PENDING)).all()
            now = time.monotonic()
            unknown = [(row.id, row.attempts) for row in open_actions if row.attempts - row.waits > _A_THIRD]
            self._seen = {one: self._seen.get(one, now) for one in unknown}
            late = [action_id for (action_id, _), since in self._seen.items() if now - since > self._SECONDS]
            if late:
                due_now = update(OutboxAction).values(due_at=datetime.now(UTC))
                connection.execute(due_now.where(col(OutboxAction.id).in_(late)))
                self._seen, self.passed = {}, self.passed + len(late)
            return not open_actions and connection.execute(events).first() is None


def read_tables(url: str) -> Tables:
    """Reads all rows."""
    engine = databases.opened(url)
    with Session(engine) as session:
        tables = Tables(
            {event.id: event for event in session.exec(select(InboxEvent))},
            {record.session_id: record for record in session.exec(select(VerificationRecord))},
            list(session.exec(select(OutboxAction))),
            {one.id: one for one in session.exec(select(Verification))},
        )
    engine.dispose()
    return tables


def judge(
    truth: dict[str, Any],
    tables: Tables,
    mail: MailServer,
    application: Application,
    deaths: list[Death],
    logs: Mapping[Path, float],
    losses: list[Loss],
    *,
    lossy: bool,
) -> Verdict:
    """Judges a service that has come to rest; `logs` give the seconds by which their hosts' clocks were ahead."""
    verdict = Verdict()
    _judge_events(verdict, truth, tables, lossy=lossy)
    others = _others(truth)
    verdict.figures["sessions of another environment"] = len(others)
    verdict.must_be_none("said of another environment's sessions", _said_of(others, tables))
    truth = without_others(truth)
    verdict.must_be_none("wrong records", _wrong_records(truth, tables))
    _judge_mails(verdict, truth, tables, mail)
    if not lossy:  # a number that died with the primary is given again
        verdict.must_be_none("calls of the application missing", _missing_calls(tables, application))
    verdict.must_be_none("rows unfinished", tables.unfinished)
    verdict.must_be_none("dead rows unexplained", _unexplained_dead(tables, mail))
    verdict.figures["dead rows explained (550 to this recipient)"] = sum(
        action.status == ActionStatus.DEAD for action in tables.actions
    ) - sum("outbox" in one for one in _unexplained_dead(tables, mail))
    verdict.figures["slowest event, from receipt to its end"] = _slowest(
        (event.received_at, event.processed_at) for event in tables.events.values()
    )
    verdict.figures["slowest action, from owed to its end"] = _slowest(
        (action.created_at, action.done_at) for action in tables.actions
    )
    causes = _causes_of_second_mails(tables, mail.accepted, deaths, list(_lines(logs)), losses)
    verdict.figures["mails sent twice"] = sum(map(len, causes.values()))
    for cause, mails in sorted(causes.items()):
        verdict.figures[f"  {cause}"] = len(mails)
    verdict.must_be_none("mails sent twice without a cause", causes["unexplained"])
    return verdict


def without_others(truth: dict[str, Any]) -> dict[str, Any]:
    """The truth about the sessions that are ours."""
    others = _others(truth)
    return truth | {
        "sessions": [session for session in truth["sessions"] if session["id"] not in others],
        "events": [one for one in truth["events"] if one["thin"] or one["body"]["data"]["object"]["id"] not in others],
    }


def _others(truth: dict[str, Any]) -> set[str]:
    shown = [event["body"]["data"]["object"] for event in truth["events"] if not event["thin"]]
    return {session["id"] for session in shown if OTHERS.items() <= session["metadata"].items()}


def _said_of(others: set[str], tables: Tables) -> Iterator[str]:
    """The rows about another environment's sessions that say more than that an event was ignored."""
    yield from (f"{one} has a record" for one in others & tables.records.keys())
    yield from (f"{one.session_id} owes {one.name}" for one in tables.actions if one.session_id in others)
    for event in tables.events.values():
        if event.session_id in others:
            told = {event.client_reference_id, event.user_id, event.error_reason}
            # Of one whose metadata was wiped nobody can tell whose it is.
            told |= {event.session_status, event.report_id} if event.is_ours is False else set()
            if event.outcome != "ignored" or event.last_error != "not ours" or told != {None}:
                yield f"{event.id} is {event.outcome}, and holds {told}"


def _slowest(spans: Iterable[tuple[datetime, datetime | None]]) -> str:
    return f"{max((end - start).total_seconds() for start, end in spans if end):.0f} s"


def _judge_events(verdict: Verdict, truth: dict[str, Any], tables: Tables, *, lossy: bool) -> None:
    deliveries = truth["deliveries"]
    answers = Counter(attempt["code"] or "no answer" for one in deliveries for attempt in one["attempts"])
    accepted = {one["event"] for one in deliveries if any(attempt["code"] == 200 for attempt in one["attempts"])}
    verdict.figures["deliveries"] = sum(answers.values())
    verdict.figures["  answered"] = ", ".join(f"{code}: {count}" for code, count in sorted(answers.items(), key=str))
    verdict.figures["events accepted"] = len(accepted)
    # Stripe lists no thin notifications: the snapshots of the session show the same changes.
    listed = {event["id"] for event in truth["events"] if not (lossy and event["thin"])}
    verdict.must_be_none("lost", sorted((accepted & listed) - tables.events.keys()))
    verdict.must_be_none("never accepted", sorted({event["id"] for event in truth["events"]} - accepted))
    verdict.must_be_none(
        "events nobody sent",
        sorted(
            event_id
            for event_id in tables.events.keys() - {event["id"] for event in truth["events"]}
            if not event_id.startswith("reconcile_")  # a difference that reconcile found is an event of our own
        ),
    )


def _wrong_records(truth: dict[str, Any], tables: Tables) -> Iterator[str]:
    submissions = Counter(report["session"] for report in truth["reports"])
    for session in truth["sessions"]:
        record = tables.records.get(session["id"])
        if record is None:
            yield f"{session['id']} has no record"
            continue
        redacted = session["redaction"] is not None
        true = [
            session["status"],
            (session["last_error"] or {}).get("code"),
            session["last_verification_report"],
            submissions[session["id"]],
            redacted,
            None if redacted else session["client_reference_id"],
            None if redacted else session["metadata"].get("user_id"),
        ]
        held = [
            record.status,
            record.last_error_code,
            record.last_report_id,
            record.submissions,
            record.redacted_at is not None,
            record.client_reference_id,
            record.user_id,
        ]
        if held != true:
            yield f"{session['id']} holds {held} instead of {true}"


def _judge_mails(verdict: Verdict, truth: dict[str, Any], tables: Tables, mail: MailServer) -> None:
    sent = Counter(one.message_id for one in mail.accepted)
    unmentioned = tables.unmentioned
    owed = {key: to for key, to in _owed_at_the_end(truth) if not (key[0] in unmentioned and key[1] in TELLING)}
    allowed = {message_id: key for key in _ever_owed(truth) for message_id in message_ids(key)}
    last = {allowed[one.message_id][0]: allowed[one.message_id] for one in mail.accepted if _is_told(one, allowed)}
    dead = {_key(action) for action in tables.actions if action.status == ActionStatus.DEAD}
    verdict.figures["mails sent"] = len(sent)
    verdict.must_be_none(
        "mails missing",
        (
            f"{key} to {to}"
            for key, to in owed.items()
            if not any(sent[message_id] for message_id in message_ids(key)) and key not in dead
        ),
    )
    verdict.must_be_none(
        "last mails that say something else",
        (
            f"{last[key[0]]} instead of {key}"
            for key in owed
            if key[1] in TELLING and key not in dead and last.get(key[0], key) != key
        ),
    )
    verdict.must_be_none("mails nobody owed", sorted(sent.keys() - allowed.keys()))
    recipients = {session["id"]: (session["provided_details"] or {}).get("email") for session in truth["sessions"]}
    verdict.must_be_none(
        "mails to somebody else",
        (
            one.message_id
            for one in mail.accepted
            if one.message_id in allowed
            and one.recipient not in (recipients[allowed[one.message_id][0]], REVIEWER)
            and recipients[allowed[one.message_id][0]] != "[redacted]"
        ),
    )


def _owed_at_the_end(truth: dict[str, Any]) -> Iterator[tuple[Key, str]]:
    """The mails that must have been sent, as no later change could have made them needless, and their recipients."""
    submissions = Counter(report["session"] for report in truth["reports"])
    for session in truth["sessions"]:
        code = (session["last_error"] or {}).get("code")
        status, report = session["status"], session["last_verification_report"] or ""
        if session["redaction"] is not None:
            continue
        if submissions[session["id"]] >= LIMIT:
            yield (session["id"], "alert_review", "submission_limit"), REVIEWER
        email = session["provided_details"]["email"]
        if status == "verified":
            yield (session["id"], "email_verified", f"verified::{report}"), email
        elif status == "canceled":
            yield (session["id"], "email_canceled", "canceled"), email
        elif status == "requires_input" and code and submissions[session["id"]] < LIMIT:
            name = OWED[classify(code)]
            yield (
                (session["id"], name, f"requires_input:{code}:{report}"),
                REVIEWER if name == "alert_review" else email,
            )


def _ever_owed(truth: dict[str, Any]) -> set[Key]:
    """The keys of all mails that any state of a session may have caused."""
    keys: set[Key] = set()
    for event in truth["events"]:
        if event["thin"]:
            continue
        session = event["body"]["data"]["object"]
        code, report = (session["last_error"] or {}).get("code"), session["last_verification_report"] or ""
        kind = event["type"].rpartition(".")[2]
        if kind == "verified":
            keys.add((session["id"], "email_verified", f"verified::{report}"))
        elif kind == "canceled":
            keys.add((session["id"], "email_canceled", "canceled"))
        elif kind == "requires_input":
            keys.add((session["id"], OWED[classify(code)], f"requires_input:{code}:{report}"))
        keys.add((session["id"], "alert_review", "submission_limit"))
    return keys


def _missing_calls(tables: Tables, application: Application) -> Iterator[str]:
    last: dict[str, int] = {}
    numbers: dict[str, set[int]] = {}
    for session_id, record in tables.records.items():
        told = application.told.get(session_id, [])
        whose = record.verification_id or session_id
        last[whose] = max(record.change_number, last.get(whose, 0))
        numbers.setdefault(whose, set()).update(number for number, _ in told)
        if told and max(told)[1] != record.status:
            yield f"{session_id} was told {max(told)} at last, and is {record.status}"
    for action in tables.actions:  # a session that became a verification's has other numbers since
        if action.name == "notify_app" and action.reason == "told anew":
            record = tables.records[action.session_id]
            numbers[record.verification_id or action.session_id].add(int(action.cause))
    for whose, number in last.items():
        if missing := set(range(1, number + 1)) - numbers[whose]:
            yield f"{whose} was not told of {sorted(missing)}"


def _unexplained_dead(tables: Tables, mail: MailServer) -> Iterator[str]:
    for event in tables.events.values():
        if event.status == InboxStatus.DEAD:
            yield f"inbox {event.id}: {event.last_error} after {event.attempts} attempts, {event.waits} waits"
    for action in tables.actions:
        if action.status == ActionStatus.DEAD and not (
            action.last_error == "the SMTP server answered 550" and mail.refused_for_ever
        ):
            yield f"outbox {action.id} {action.name}: {action.last_error} after {action.attempts} attempts"


def _causes_of_second_mails(
    tables: Tables,
    accepted: list[Accepted],
    deaths: list[Death],
    lines: list[dict[str, Any]],
    losses: list[Loss],
) -> defaultdict[str, list[str]]:
    """For every mail accepted again: the reason why the acceptance before it was not committed."""
    rows = {message_id: action for action in tables.actions for message_id in message_ids(_key(action))}
    said: defaultdict[int, list[tuple[float, str]]] = defaultdict(list)
    for line in lines:
        if isinstance(line.get("action_id"), int) and str(line.get("event", "")).startswith("action."):
            said[line["action_id"]].append((line["at"], line["event"]))
    by_mail: defaultdict[str, list[Accepted]] = defaultdict(list)
    for one in accepted:
        by_mail[one.message_id].append(one)
    causes: defaultdict[str, list[str]] = defaultdict(list)
    for message_id, times in by_mail.items():
        row = rows.get(message_id)
        for one, next_one in pairwise(times):
            between = [event for at, event in said[row.id or 0 if row else 0] if one.at <= at <= next_one.at]
            killed = any(
                death.name.startswith(("worker", "all")) and one.at <= death.ended <= next_one.at for death in deaths
            )
            # A mail that was under way then is accepted later, and its row is made anew later still.
            late = _UNDER_WAY_FOR if row and row.created_at.timestamp() > one.at else 0.0
            gone = any(loss.since < one.at <= loss.over + late and loss.began <= next_one.at for loss in losses)
            cause = (
                "accepted, and what was written of it is lost with the database"
                if gone
                else _cause(one, between, killed=killed)
            )
            causes[cause].append(f"{message_id} at {one.at:.3f} and {next_one.at:.3f}, between them {between}")
    return causes


def _cause(one: Accepted, said: list[str], *, killed: bool) -> str:
    if "action.done" in said:
        return "unexplained"
    if one.late:
        return "accepted, but its answer came too late"
    if "action.unrecorded" in said or "action.claim_lost" in said:
        return "accepted, and the database was away at the commit"
    if killed:
        return "accepted, and the worker was killed before its commit"
    if "action.put_back" in said:
        return "accepted, but its answer was cut off"
    return "unexplained"


def _lines(logs: Mapping[Path, float]) -> Iterator[dict[str, Any]]:
    for path, ahead in logs.items():
        for line in path.read_text(errors="replace").splitlines():
            _, brace, rest = line.partition("{")
            if brace and '"action_id"' in rest:
                try:
                    found = json.loads(brace + rest)
                except ValueError:  # cut off by a kill
                    continue
                yield {**found, "at": datetime.fromisoformat(found["timestamp"]).timestamp() - ahead}


def _key(action: OutboxAction) -> Key:
    return action.session_id, action.name, action.cause


def _is_told(one: Accepted, allowed: dict[str, Key]) -> bool:
    return one.message_id in allowed and allowed[one.message_id][1] in TELLING


def message_ids(key: Key) -> list[str]:
    """All ids that a mail may have, as the first or a later one to its person."""
    return [f"<{digest(key, number)}@localhost>" for number in range(_MOST_MAILS)]
