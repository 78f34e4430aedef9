"""Actions under one claim: each is looked at, tried, ended and given back by itself, as if it were alone."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
from sqlalchemy import event as sqlalchemy_event

from config.database import engine, transaction
from config.settings import settings
from handlers.outbox import perform as performing
from handlers.outbox.mails import Mail
from handlers.outbox.perform import perform
from handlers.queue import claims, failures
from handlers.queue.failures import AwayError, PermanentError, RefusedError, UnknownOutcomeError
from handlers.queue.pauses import pause
from handlers.tables.models import ActionStatus, OutboxAction
from tests.property.outside import PostBox
from tests.support import facts
from tests.support.facts import NOON, event
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.usefixtures("database_url")
PERSONS = 4


@pytest.fixture(autouse=True)
def _time(environment: pytest.MonkeyPatch) -> None:
    """Gives the actions under one claim time enough on a slow machine."""
    environment.setattr(performing, "_TOGETHER_SECONDS", 3600.0)
    environment.setattr(performing, "_GOOD_FOR_SECONDS", 3600.0)


@pytest.fixture
def owed(post_box: PostBox) -> list[int]:
    """The ids of mails to some persons."""
    assert post_box
    return [
        action_id
        for number in range(PERSONS)
        for action_id in facts.applied(event("verified", session_id=f"vs_{number}", report=f"vr_{number}"))
        if facts.action(action_id).name == "email_verified"
    ]


def _at_the_first(post_box: PostBox, happens: Callable[[], object]) -> None:
    """Makes this happen while the first mail is given away."""
    happened = threading.Event()

    def behave(mail: Mail) -> None:
        if not happened.is_set():
            happened.set()
            happens()
        else:
            mail.last_look()

    post_box.behave = behave


def _tries(ids: Sequence[int]) -> set[int]:
    """The different numbers of tries that count towards burying."""
    return {facts.action(one).attempts - facts.action(one).waits for one in ids}


def _statuses(owed: list[int]) -> list[str]:
    return [str(facts.action(action_id).status) for action_id in owed]


@pytest.fixture
def statements(environment: pytest.MonkeyPatch, database_url: str) -> list[str]:
    """The statements that the database is sent from now on, past SQLAlchemy, too."""
    assert database_url
    statements: list[str] = []

    def execute(connection: psycopg.Connection[Any], said: str, *more: Any) -> Any:
        statements.append(said)
        return by_the_driver(connection, said, *more)

    by_the_driver = psycopg.Connection.execute
    environment.setattr(psycopg.Connection, "execute", execute)
    sqlalchemy_event.listen(engine(), "before_cursor_execute", lambda *said: statements.append(said[2]))
    return statements


def test_mails_of_one_claim_are_each_sent_once_and_ended_each_by_itself(
    post_box: PostBox, owed: list[int], statements: list[str]
) -> None:
    statements.clear()
    assert perform(*owed) == []
    claimed = [one for one in statements if one.startswith("UPDATE outbox_action SET attempts")]
    looked = [one for one in statements if one.startswith("SELECT outbox_action.id, outbox_action.attempts")]
    ended = [one for one in statements if "told_count=" in one.replace(" ", "")]
    assert (len(claimed), len(looked), len(ended)) == (1, 1, PERSONS)
    assert (_statuses(owed), set(post_box.sent.values())) == (["done"] * PERSONS, {1})


def test_what_is_owed_no_more_is_skipped_with_one_statement(
    post_box: PostBox, owed: list[int], statements: list[str]
) -> None:
    for number in range(PERSONS):
        facts.applied(event("canceled", NOON + 60, session_id=f"vs_{number}"))
    statements.clear()
    perform(*owed)
    asked = [one for one in statements if not one.startswith("BEGIN")]
    assert len(asked) == 3, asked  # claim, look, end
    assert [(one.status, one.reason) for one in map(facts.action, owed)] == [("skipped", "superseded")] * PERSONS
    assert not post_box.sent


def _discard(owed: list[int]) -> None:
    with transaction() as session:
        for action_id in owed[1:]:
            session.get_one(OutboxAction, action_id).status = ActionStatus.SKIPPED


def _take(owed: list[int]) -> None:
    facts.end_all_leases()
    for action_id in owed:
        claims.claim(OutboxAction, [action_id])


def _pause(_: list[int]) -> None:
    with transaction() as session:
        pause(session, ["mail"], "for a test")


MEANWHILE: dict[str, Callable[[list[int]], object]] = {
    "redacted": lambda _: [
        facts.applied(event("redacted", NOON + 60, session_id=f"vs_{n}")) for n in range(1, PERSONS)
    ],
    "canceled": lambda _: [
        facts.applied(event("canceled", NOON + 60, session_id=f"vs_{n}")) for n in range(1, PERSONS)
    ],
    "paused": _pause,
    "taken by another worker": _take,
    "discarded": _discard,
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_happens_while_the_first_is_done_keeps_the_others_back(
    what: str, post_box: PostBox, owed: list[int], environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(performing, "_GOOD_FOR_SECONDS", 0.0)  # the first takes longer than that
    _at_the_first(post_box, lambda: MEANWHILE[what](owed))
    perform(*owed)
    assert post_box.sent.total() == 1
    assert "done" not in _statuses(owed[1:])


def test_a_lease_that_another_worker_has_by_now_is_seen_right_before_however_fresh_the_look(
    post_box: PostBox, owed: list[int]
) -> None:
    _at_the_first(post_box, lambda: _take(owed))
    perform(*owed)
    assert post_box.sent.total() == 1


def test_whoever_waits_for_long_behind_another_goes_back_and_has_lost_no_try(
    post_box: PostBox, owed: list[int], environment: pytest.MonkeyPatch
) -> None:
    """The first mail is still under way when the others are free again: no lease has to end for that."""
    environment.setattr(performing, "_TOGETHER_SECONDS", 0.05)
    has_begun = threading.Event()

    class SinceTheFirst(threading.Timer):
        def run(self) -> None:
            has_begun.wait(PATIENCE)
            super().run()

    environment.setattr(performing, "Timer", SinceTheFirst)

    def until_they_are_free() -> None:
        has_begun.set()
        wait_until(lambda: all(facts.action(one).last_error for one in owed[1:]))

    _at_the_first(post_box, until_they_are_free)
    perform(*owed)
    assert (_statuses(owed), post_box.sent.total()) == (["done", *["pending"] * (PERSONS - 1)], 1)
    assert _tries(owed[1:]) == {0}
    environment.setattr(performing, "_TOGETHER_SECONDS", 3600.0)
    perform(*owed)  # due at once
    assert (_statuses(owed), set(post_box.sent.values())) == (["done"] * PERSONS, {1})


def test_who_may_have_no_thread_for_the_alarm_gives_all_of_them_back(
    post_box: PostBox, owed: list[int], environment: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    environment.setattr(threading.Timer, "start", refuse)
    assert perform(*owed) == []
    assert (_statuses(owed), post_box.sent.total()) == (["pending"] * PERSONS, 0)
    assert _tries(owed) == {0}


def test_a_look_that_takes_long_holds_nobody_either(
    post_box: PostBox, owed: list[int], environment: pytest.MonkeyPatch
) -> None:
    look = performing._look

    def look_for_long(actions: Sequence[OutboxAction]) -> object:
        wait_until(lambda: all(facts.action(one).last_error for one in owed))
        return look(actions)

    environment.setattr(performing, "_TOGETHER_SECONDS", 0.05)
    environment.setattr(performing, "_look", look_for_long)
    assert perform(*owed) == []
    assert (_statuses(owed), post_box.sent.total()) == (["pending"] * PERSONS, 0)
    assert _tries(owed) == {0}


def test_those_that_come_next_are_looked_at_again_together_and_no_more_than_one_look_is_good_for(
    post_box: PostBox, owed: list[int], environment: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look = performing._look

    def count(actions: Sequence[OutboxAction]) -> object:
        looked.append(len(actions))
        return look(actions)

    environment.setattr(performing, "_look", count)
    _at_the_first(post_box, lambda: environment.setattr(performing, "_GOOD_FOR_SECONDS", -1.0))
    perform(*owed)
    assert looked == [PERSONS, 2, 1, 2, 1, 1]
    assert _statuses(owed) == ["done"] * PERSONS


@pytest.mark.parametrize("error", [AwayError("away"), UnknownOutcomeError("silent")])
def test_nobody_else_is_tried_where_nobody_answers(post_box: PostBox, owed: list[int], error: Exception) -> None:
    heard: list[bool] = []

    def fail() -> None:
        raise error

    _at_the_first(post_box, fail)
    perform(*owed, answered=heard.append)
    assert (heard, post_box.sent.total()) == ([False], 0)
    assert _tries(owed[1:]) == {0}


@pytest.mark.parametrize(("error", "status"), [(RefusedError("no"), "pending"), (PermanentError("never"), "dead")])
def test_what_fails_fails_alone(post_box: PostBox, owed: list[int], error: Exception, status: str) -> None:
    def fail() -> None:
        raise error

    _at_the_first(post_box, fail)
    perform(*owed)
    assert _statuses(owed) == [status, *["done"] * (PERSONS - 1)]
    tries = [one.attempts - one.waits for one in map(facts.action, owed)]
    assert tries == [1] * PERSONS


def test_who_is_asked_to_end_gives_the_others_back_at_once(
    post_box: PostBox, owed: list[int], environment: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()
    for module in (performing, claims, failures):
        environment.setattr(module, "stopping", ends)
    _at_the_first(post_box, ends.set)
    perform(*owed)
    assert (_statuses(owed), post_box.sent.total()) == (["done", *["pending"] * (PERSONS - 1)], 1)
    assert _tries(owed[1:]) == {0}


@pytest.mark.parametrize("most", ["1", "2", "100"])
def test_of_a_worker_that_died_each_is_tried_alone_and_none_is_buried(
    most: str, post_box: PostBox, owed: list[int], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ACTION_ATTEMPTS", most)
    settings.cache_clear()
    claims.claim(OutboxAction, owed, first_try=True)  # the worker dies here
    facts.end_all_leases()
    assert perform(*owed) == []
    assert not post_box.sent
    for action_id in owed:
        perform(action_id)
    assert (_statuses(owed), set(post_box.sent.values())) == (["done"] * PERSONS, {1})
    assert {facts.action(one).attempts for one in owed} == {2}


def test_a_state_that_comes_while_its_mail_is_given_away_is_told_afterwards(post_box: PostBox, owed: list[int]) -> None:
    overridden = event("requires_input", NOON + 60, session_id="vs_0", code="document_unverified_other", report="vr_0")
    news: list[int] = []
    _at_the_first(post_box, lambda: news.extend(facts.applied(overridden)))
    perform(*owed)
    perform(*news)
    told = [mail.template for mail in post_box.told["vs_0"]]
    assert told == ["email_verified", "email_retry_prompt"]
    assert facts.record("vs_0").told_count == 2
    assert _statuses(owed) == [ActionStatus.DONE] * PERSONS
