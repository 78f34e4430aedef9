"""The standing of a verification, for every pair of an older session and the current one."""

from itertools import product

import pytest

from handlers.record.events import Status
from handlers.sessions.standing import SessionStands, standing

ANY = (None, *Status)


def _stands(older: Status | None, current: Status | None, *, is_replaced: bool) -> Status:
    sessions = [
        SessionStands(generation=1, status=older, is_replaced=is_replaced),
        SessionStands(generation=2, status=current),
    ]
    return standing(sessions, 2, limit=3).status


TODO, BUSY, DONE, OVER = Status.REQUIRES_INPUT, Status.PROCESSING, Status.VERIFIED, Status.CANCELED
# An older session (a row) and the current one (a column): nothing known, to do, being checked, verified, canceled.
TABLE = {
    None: {None: TODO, TODO: TODO, BUSY: BUSY, DONE: DONE, OVER: OVER},
    TODO: {None: TODO, TODO: TODO, BUSY: BUSY, DONE: DONE, OVER: OVER},
    BUSY: {None: TODO, TODO: TODO, BUSY: BUSY, DONE: DONE, OVER: OVER},
    DONE: {None: DONE, TODO: DONE, BUSY: DONE, DONE: DONE, OVER: DONE},
    OVER: {None: TODO, TODO: TODO, BUSY: BUSY, DONE: DONE, OVER: OVER},
}


@pytest.mark.parametrize(("older", "current"), list(product(ANY, ANY)))
def test_a_success_counts_whenever_it_comes_unless_its_session_was_replaced(
    older: Status | None, current: Status | None
) -> None:
    assert _stands(older, current, is_replaced=False) == TABLE[older][current]
    assert _stands(older, current, is_replaced=True) == TABLE[None][current]


def test_of_two_sessions_of_the_generation_the_known_one_counts() -> None:
    known = SessionStands(generation=2, status=Status.PROCESSING)
    heard_of = SessionStands(generation=2, status=Status.CANCELED, is_known=False)
    for sessions in ([known, heard_of], [heard_of, known]):
        assert standing(sessions, 2, limit=3).status == Status.PROCESSING
    assert standing([heard_of], 2, limit=3).status == Status.CANCELED


def test_a_session_that_is_being_made_is_to_do() -> None:
    stands = standing([SessionStands(generation=1, status=Status.CANCELED)], 2, limit=3)
    assert (stands.status, stands.can_retry, stands.submissions_left) == (Status.REQUIRES_INPUT, True, 3)


@pytest.mark.parametrize(
    ("code", "submissions", "can_retry"),
    [("document_expired", 1, True), ("document_expired", 3, False), ("consent_declined", 1, False), (None, 0, True)],
)
def test_who_can_be_helped_by_another_try_may_have_one(code: str | None, submissions: int, can_retry: bool) -> None:
    current = SessionStands(generation=1, status=Status.REQUIRES_INPUT, error_code=code, submissions=submissions)
    assert standing([current], 1, limit=3).can_retry is can_retry


def test_submissions_of_replaced_sessions_are_forgiven() -> None:
    sessions = [
        SessionStands(generation=1, status=Status.CANCELED, submissions=3, is_replaced=True),
        SessionStands(generation=2, status=Status.REQUIRES_INPUT, submissions=1),
    ]
    assert standing(sessions, 2, limit=3).submissions_left == 2
