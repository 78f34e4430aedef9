"""The changes of the console's buttons: each as its command makes it, with the user and the reason in the audit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from config.broker import PUBLISH, publish_actions
from handlers.operator.audit import By, note_beforehand
from handlers.operator.persons import also_theirs
from handlers.operator.queries import Filter, find_actions, named
from handlers.operator.resend import resend
from handlers.operator.retry_discard import discard_rows, retry_rows
from handlers.queue.claims import Table
from handlers.queue.failures import NotNowError, PermanentError
from handlers.sessions import closing
from handlers.sessions.links import Link, link_of
from handlers.sessions.refusals import OpeningError
from handlers.sessions.views import NotFoundError
from handlers.tables.models import OutboxAction

Sent = Mapping[str, str]
_MOST_FORGOTTEN = 20  # others, by a click: more may be a reference that many share


class RefusedChangeError(Exception):
    """Nothing was changed; the message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """A button's change to the row or verification of an id; `asks` is True if it asks Stripe."""

    do: Callable[[str, Sent, By], Link | None]
    asks: bool = False


def told(what: str, id_: str) -> dict[str, Any]:
    """The values that the form of a change shows or sends: an action's tries so far; or what else is the same person's,
    by its ids, None if these are many.
    """
    if what == "resend":
        found = find_actions(Filter(ids=[_number(id_)]), 1)
        return {"tries": found[0].attempts if found else 0}
    return {"others": _others(id_)} if what == "redact" else {}


def make(change: Change, id_: str, sent: Sent, by: By) -> Link | None:
    """Makes a change. Returns a link, if one was asked for. Raises RefusedChangeError."""
    try:
        return change.do(id_, sent, by)
    except NotFoundError:
        raise RefusedChangeError("there is no such verification") from None
    except OpeningError as error:
        raise RefusedChangeError(f"{error.code} {error.detail}".strip()) from None
    except (NotNowError, PermanentError) as error:
        raise RefusedChangeError(f"Stripe cannot be asked: {error}") from None


def _resend(id_: str, sent: Sent, by: By) -> None:
    action_id = _number(id_)
    if why := resend([action_id], by, _number(sent.get("tries", "")))[action_id]:
        raise RefusedChangeError(why)
    publish_actions([action_id])


def _number(text: str) -> int:
    number = OutboxAction.id_of(text)
    return -1 if number is None else number


def _rows(change: Callable[[Table, Filter, By], Any], id_: str, _: Sent, by: By) -> None:
    table, row_id = named(id_)
    ids: list[Any] = list(chain.from_iterable(change(table, Filter(ids=[row_id]), by)))
    if not ids:
        raise RefusedChangeError(
            "it is at its end, or is worked on right now; somebody else may have done it before you"
        )
    if change is retry_rows:
        PUBLISH[table.NOUN](ids)


def _cancel(id_: str, sent: Sent, by: By) -> None:
    publish_actions(closing.cancel(id_, notify="notify" in sent, by=by))


def _others(id_: str) -> list[str] | None:
    found = also_theirs(id_, _MOST_FORGOTTEN + 1)
    return None if len(found) > _MOST_FORGOTTEN else found


def _redact(id_: str, sent: Sent, by: By) -> None:
    shown = sent.get("others", "").split()
    # The one that names them is the last to forget who it is.
    for other in [one for one in _others(id_) or () if one in shown]:
        closing.redact(other, by)
    closing.redact(id_, by)


def _link(id_: str, _: Sent, by: By) -> Link:
    link = link_of(id_)
    note_beforehand(by, "link", (id_,))  # its holder may go on as the person
    return link


CHANGES: dict[str, Change] = {
    "resend": Change(_resend),
    "retry": Change(partial(_rows, retry_rows)),
    "discard": Change(partial(_rows, discard_rows)),
    "cancel": Change(_cancel, asks=True),
    "redact": Change(_redact),
    "link": Change(_link),
}
# The changes to a row that its status allows.
OF_STATUS = {
    **dict.fromkeys(("received", "pending", "dead"), ("retry", "discard")),
    **dict.fromkeys(("done", "skipped"), ("resend",)),
}
