"""The story of a session, in Stripe's order, and the mails that its person got, with the reason for each."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from handlers.operator.queries import Filter, find_actions, find_events
from handlers.operator.reasons import since, skipped, tries
from handlers.outbox.mails import message_id
from handlers.owed.kinds import KINDS, TELLING
from handlers.record.events import RANKS
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction, VerificationRecord

_MARKS = {  # times in the record, and the words for each
    "replacing_at": "its end was asked for, so that another one can be begun",
    "replaced_at": "another one was begun in its place",
    "burned_at": "its generation was given up",
    "redaction_asked_at": "somebody asked to forget its person",
    "redacted_at": "what is personal was wiped",
    "wiped_at": "RECORD_DAYS wiped what is personal",
}


def timeline(record: VerificationRecord, most: int | None = None) -> list[dict[str, Any]]:
    """Lines for events, actions and the record's times: `at`, `what`, `id`, `status`, `about`; events by Stripe's
    second and rank, as they are applied, and after them the other lines of the same second.

    Events and actions are told as long as RETENTION_DAYS keeps them; `most` of each, the latest.
    """
    wanted = Filter(session_id=record.session_id)
    lines = [_of_event(event) for event in find_events(wanted, most)]
    lines += [_of_action(action, record) for action in find_actions(wanted, most)]
    lines += [_line((at, 2, 0, at, name), name, "", "", words) for name, words, at in _marks(record)]
    return [line for _, line in sorted(lines, key=lambda one: one[0])]


def mails(record: VerificationRecord, most: int | None = None) -> list[dict[str, Any]]:
    """The mails of this session, the latest last: each with its Message-ID, its tries, and the reasons for it; those
    among the latest `most` actions.
    """
    actions = [one for one in find_actions(Filter(session_id=record.session_id), most) if _is_mail(one)]
    return [
        {
            "id": action.id,
            "name": action.name,
            "to": "the person" if (kind := KINDS[action.name]).tells_the_person or kind.link else "the reviewer",
            "status": action.status,
            "sent_at": action.done_at if action.status == ActionStatus.DONE else None,
            "message_id": message_id(action, record),
            "attempts": action.attempts,
            "why": "; ".join(_why(action, actions)),
        }
        for action in reversed(actions)
    ]


def _is_mail(action: OutboxAction) -> bool:
    return action.name in KINDS and KINDS[action.name].destination == "mail"


def _why(action: OutboxAction, mails: Sequence[OutboxAction]) -> Iterator[str]:
    if action.status == ActionStatus.DONE:
        yield f"sent {since(action.cause)}"
    else:
        yield f"not sent{_because(action)}"
        yield f"owed {since(action.cause)}"
    if action.resent_at:
        again = f"an operator had it sent again at {_iso(action.resent_at)}: python -m worker audit {action.id}"
        yield f"{again}; a copy from before has another id"
    if action.waits < 0:  # by handlers.queue.claims a try of unknown outcome counts as several
        yield "it may have arrived more than once: the mail server took it and did not say so; all copies have this id"
    elif action.status == ActionStatus.DONE and (tries := action.attempts - action.waits) > 1:
        yield f"tried {tries} times; should a worker have died over one, each copy has this id"
    if action.name in TELLING and not action.resent_at and (between := _between(action, mails)):
        yield f"its state came back after the person was told another one: {', '.join(between)}"


def _because(action: OutboxAction) -> str:
    if action.status == ActionStatus.SKIPPED:
        return f": {skipped(action.reason or '')}"
    words = "given up" if action.status == ActionStatus.DEAD else "yet"
    return f", {words}: {action.last_error}" if action.last_error else f" {words}"


def _between(action: OutboxAction, mails: Sequence[OutboxAction]) -> list[str]:
    """The other mails that went out between two copies of this one."""
    told = [one for one in mails if one.name in TELLING and one.mail_number is not None]
    between = [
        one
        for one in told
        if one.status == action.status == ActionStatus.DONE
        and one.id != action.id
        and action.created_at < (one.done_at or action.created_at) < (action.done_at or action.created_at)
    ]
    # The mails of a record are numbered, and a row keeps its last number: an earlier copy's is no row's.
    has_gap = len({one.mail_number for one in told}) <= (action.mail_number or 0)
    return [one.name for one in between] if has_gap else []


def _marks(record: VerificationRecord) -> Iterator[tuple[str, str, datetime]]:
    for name, words in _MARKS.items():
        if at := getattr(record, name):
            yield name.removesuffix("_at"), words, at


def _of_event(event: InboxEvent) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kind = event.type.rpartition(".")[2]
    waits = event.status == InboxStatus.RECEIVED
    about = (
        event.session_status,
        event.error_code,
        event.report_id,
        event.last_error,
        f"received {_iso(event.received_at)}",
        tries(event) if event.attempts > 1 else None,
        f"waits until {_iso(event.due_at)}" if waits and event.attempts else None,
        f"dead: python -m worker retry {event.id}" if event.status == InboxStatus.DEAD else None,
    )
    place = (event.created_at, 0, RANKS.get(kind, len(RANKS)), event.received_at, event.id)
    return _line(place, kind, event.id, event.outcome or event.status, *about)


def _of_action(action: OutboxAction, record: VerificationRecord) -> tuple[tuple[Any, ...], dict[str, Any]]:
    is_open = action.status == ActionStatus.PENDING
    about = (
        action.reason,
        action.last_error,
        since(action.cause),
        tries(action) if action.attempts > 1 else None,
        message_id(action, record) if action.attempts else None,
        f"may have arrived {_iso(action.given_away_at)}" if action.given_away_at else None,
        f"sent again {_iso(action.resent_at)}" if action.resent_at else None,
        f"waits until {_iso(action.due_at)}" if is_open and action.attempts else None,
        f"ended {_iso(action.done_at)}" if action.done_at else None,
        f"dead: python -m worker retry {action.id}" if action.status == ActionStatus.DEAD else None,
    )
    place = (action.created_at, 1, 0, action.created_at, action.id)
    return _line(place, action.name, str(action.id), action.status, *about)


def _line(
    place: tuple[Any, ...], what: str, row_id: str, status: str, *about: str | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    line = {"at": place[0], "what": what, "id": row_id, "status": status, "about": ", ".join(filter(None, about))}
    return place, line


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
