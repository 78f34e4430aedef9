"""The reason that chaos gives to a mail which was sent twice."""

from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.tables.models import OutboxAction
from tests.chaos.outside import Accepted
from tests.chaos.stores import Loss
from tests.chaos.verdict import Tables, _causes_of_second_mails, message_ids

_LOSS = Loss(since=100.0, began=110.0, over=115.0)
_IS_LOST = "accepted, and what was written of it is lost with the database"


def _causes(first: float, second: float, made_at: float, said: str = "") -> list[str]:
    """The reasons for a mail that was accepted at both times, by the row that holds it at the end."""
    made = datetime.fromtimestamp(made_at, UTC)
    row = OutboxAction(id=7, session_id="vs_1", name="email_verified", cause="verified::vr_1", created_at=made)
    message_id = message_ids((row.session_id, row.name, row.cause))[0]
    mails = [Accepted(message_id, "a@example.com", "Verified", at, late=False) for at in (first, second)]
    lines: list[dict[str, Any]] = [{"action_id": 7, "event": said, "at": second - 0.5}] if said else []
    return [*_causes_of_second_mails(Tables({}, {}, [row], {}), mails, [], lines, [_LOSS])]


@pytest.mark.parametrize(
    ("first", "second", "made_at", "said", "cause"),
    [
        (101.0, 140.0, 101.0, "", _IS_LOST),
        (116.0, 140.0, 130.0, "", _IS_LOST),  # it was under way, and its row is another
        (116.0, 140.0, 115.5, "", "unexplained"),  # its row was there when it was accepted
        (126.0, 140.0, 130.0, "", "unexplained"),  # it was begun later
        (99.0, 140.0, 99.0, "", "unexplained"),
        (101.0, 109.0, 101.0, "", "unexplained"),
        (99.0, 140.0, 99.0, "action.put_back", "accepted, but its answer was cut off"),
        (99.0, 140.0, 99.0, "action.done", "unexplained"),
    ],
)
def test_only_what_a_failover_can_have_lost_is_explained_by_it(
    first: float, second: float, made_at: float, said: str, cause: str
) -> None:
    assert _causes(first, second, made_at, said) == [cause]
