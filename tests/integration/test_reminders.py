"""A person who has not begun is reminded once, and nobody else is, in any order of events."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col
from starlette.testclient import TestClient

from config.database import now, transaction
from config.settings import settings
from handlers.inbox.receive import receive
from handlers.record.events import VerificationEvent
from handlers.sessions.reminders import remind
from handlers.tables.models import InboxEvent, OutboxAction, Verification, VerificationRecord
from handlers.upkeep.purge import purge
from handlers.upkeep.rebuild import rebuild
from tests.integration.openings import open_one
from tests.integration.stories import Stories, by_name, perform_everything, process_everything
from tests.property.outside import PostBox
from tests.support import databases, facts
from tests.support.facts import event
from tests.support.mails import render

MADE = int(datetime.now(UTC).timestamp()) - 30 * 3600
CREATED = event("created", MADE)

pytestmark = pytest.mark.usefixtures("database_url", "reminders")


@pytest.fixture
def reminders(post_box: PostBox, environment: pytest.MonkeyPatch) -> PostBox:
    """Sets reminders to a day after a session was made."""
    environment.setenv("REMINDER_HOURS", "24")
    databases.forget_process_state()
    return post_box


def _time_passes(hours: int = 24) -> None:
    """Moves the reminders so many hours back, as if each session had been made so much earlier."""
    with transaction() as session:
        for record in session.scalars(select(VerificationRecord).where(col(VerificationRecord.remind_at).is_not(None))):
            record.remind_at = record.remind_at and record.remind_at - timedelta(hours=hours)


def _reminded() -> None:
    remind()
    perform_everything()


def _told(post_box: PostBox, session_id: str = "vs_1") -> list[str]:
    return [mail.template for mail in post_box.told[session_id]]


def test_whoever_has_not_begun_is_reminded_once(post_box: PostBox, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETRY_URL", "https://app.example.com/verify/{session_id}")
    settings.cache_clear()
    facts.applied(CREATED)
    assert facts.record().remind_at == CREATED.created_at + timedelta(hours=24)
    assert len(remind()) == 1
    assert remind() == [], "a time comes once"
    perform_everything()
    _reminded()
    assert _told(post_box) == ["email_reminder"]
    assert "https://app.example.com/verify/vs_1" in str(render(post_box.told["vs_1"][0]))


@pytest.mark.skipif(not databases.SERVER_URL, reason="SQLite locks no rows")
def test_an_event_that_has_a_record_comes_before_its_reminder() -> None:
    facts.applied(CREATED)
    with transaction() as event_at_work:
        event_at_work.scalars(select(VerificationRecord).with_for_update()).all()
        assert remind() == []
    assert len(remind()) == 1


def test_nobody_is_reminded_before_the_time_has_come(post_box: PostBox) -> None:
    facts.applied(event("created", MADE + 10 * 3600))
    _reminded()
    assert not _told(post_box)
    _time_passes()
    _reminded()
    assert _told(post_box) == ["email_reminder"]


@pytest.mark.parametrize(
    "begun",
    [
        event("processing", MADE + 60),
        event("requires_input", MADE + 60, code="abandoned"),
        event("requires_input", MADE + 60, code="document_expired", report="vr_1"),
        event("verified", MADE + 60, report="vr_1"),
        event("canceled", MADE + 60),
        event("redacted", MADE + 60, status="requires_input"),
    ],
    ids=lambda one: one.state.error_code or one.kind,
)
def test_whoever_has_begun_or_is_forgotten_is_not_reminded(post_box: PostBox, begun: VerificationEvent) -> None:
    told = (CREATED, event("created", MADE, event_id="evt_twin"), begun)
    for number, order in enumerate(permutations(told)):
        session_id = f"vs_{number}"
        facts.applied(
            *(
                event(
                    one.kind,
                    int(one.created_at.timestamp()),
                    session_id,
                    f"{one.id}_{number}",
                    code=one.state and one.state.error_code,
                    report=one.state and one.state.report_id,
                    **({"status": "requires_input"} if one.kind == "redacted" else {}),
                )
                for one in order
            )
        )
        assert begun.kind == "redacted" or facts.record(session_id).remind_at is None
    remind()
    perform_everything()
    assert "email_reminder" not in [name for number in range(6) for name in by_name(f"vs_{number}")]
    assert "email_reminder" not in [name for number in range(6) for name in _told(post_box, f"vs_{number}")]


def test_the_first_that_is_heard_of_a_session_says_when(post_box: PostBox) -> None:
    seen = [CREATED, event("requires_input", MADE + 3600), event("created", MADE + 7200, event_id="evt_again")]
    for number, order in enumerate(permutations(range(3))):
        session_id = f"vs_{number}"
        for place in order:
            one = seen[place]
            facts.applied(event(one.kind, int(one.created_at.timestamp()), session_id, f"{one.id}_{number}"))
        assert facts.record(session_id).remind_at == CREATED.created_at + timedelta(hours=24)
    assert not post_box.told


def test_an_event_that_waits_its_turn_keeps_a_reminder_away(post_box: PostBox) -> None:
    facts.applied(CREATED)
    (action_id,) = remind()
    receive([event("processing", MADE + 60)])
    perform_everything()
    process_everything()
    perform_everything()
    assert not _told(post_box)
    assert facts.action(action_id).status == "skipped"


@pytest.mark.parametrize("column", ["redaction_asked_at", "replaced_at", "burned_at", "applied_rank", "submissions"])
def test_of_what_is_over_nobody_is_reminded(post_box: PostBox, column: str) -> None:
    """An older version, which knew no reminders, may have written that and left the time."""
    facts.applied(CREATED)
    with transaction() as session:
        values = {column: now() if column.endswith("_at") else 3}
        session.connection().execute(update(VerificationRecord).values(values))
    assert remind() == []
    assert facts.record().remind_at is None
    assert "email_reminder" not in by_name("vs_1")
    assert not _told(post_box)


def test_no_purge_and_no_copy_of_an_event_reminds_again(post_box: PostBox) -> None:
    facts.applied(CREATED)
    _reminded()
    long_ago = datetime.now(UTC) - timedelta(days=400)
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(received_at=long_ago, processed_at=long_ago))
        session.connection().execute(update(OutboxAction).values(created_at=long_ago, done_at=long_ago))
    assert purge().actions
    assert not facts.actions()
    facts.applied(CREATED, event("created", MADE, event_id="evt_twin"))
    _reminded()
    assert _told(post_box) == ["email_reminder"]
    facts.applied(event("requires_input", MADE + 60, code="abandoned"))
    perform_everything()
    assert _told(post_box) == ["email_reminder", "email_retry_prompt"]


def test_two_clocks_remind_once(post_box: PostBox) -> None:
    for number in range(20):
        facts.applied(event("created", MADE, f"vs_{number}"))
    with ThreadPoolExecutor(4) as threads:
        found = [one for some in threads.map(lambda _: remind(), range(8)) for one in some]
    found += remind()  # those that another transaction held
    assert len(found) == len(set(found)) == 20
    assert not post_box.told


def test_a_setting_that_changes_holds_for_what_is_made_from_then_on(
    post_box: PostBox, environment: pytest.MonkeyPatch
) -> None:
    environment.delenv("REMINDER_HOURS")
    settings.cache_clear()
    facts.applied(event("created", MADE, "vs_before"))
    environment.setenv("REMINDER_HOURS", "24")
    settings.cache_clear()
    facts.applied(event("created", MADE, "vs_with"), event("created", MADE + 20 * 3600, "vs_later"))
    environment.setenv("REMINDER_HOURS", "100")
    settings.cache_clear()
    _reminded()
    assert list(post_box.told) == ["vs_with"], "the others' time was none, or has not come"
    environment.delenv("REMINDER_HOURS")
    settings.cache_clear()
    _time_passes()
    _reminded()
    environment.setenv("REMINDER_HOURS", "24")
    settings.cache_clear()
    _reminded()
    assert list(post_box.told) == ["vs_with"], "while it was unset, a time passed for good"


def test_what_is_opened_or_adopted_is_reminded_of_with_a_word_in_its_language(
    stripe: Stories, api: TestClient, post_box: PostBox
) -> None:
    opened = open_one(api, locale="de").json()["session_id"]
    theirs = stripe.simulator.create(client_reference_id="user-2", email="jenny@example.com")
    assert open_one(api, client_reference_id="user-2", adopt=theirs).status_code == 200
    for session_id in (opened, theirs):
        stripe.deliver(session_id)
    _reminded()
    assert not post_box.told
    _time_passes()
    _reminded()
    assert [_told(post_box, one) for one in (opened, theirs)] == [["email_reminder"], ["email_reminder"]]
    assert [post_box.told[one][0].language for one in (opened, theirs)] == ["de", "en"]
    assert open_one(api, locale="de").json()["session_id"] == opened, "who comes back is not reminded again"
    process_everything()
    _time_passes()
    _reminded()
    assert _told(post_box, opened) == ["email_reminder"]


@pytest.mark.parametrize("what", ["pass", "decline", "cancel", "gone"])
def test_nobody_is_reminded_who_has_begun_at_stripe(
    stripe: Stories, api: TestClient, post_box: PostBox, what: str
) -> None:
    session_id = open_one(api).json()["session_id"]
    stripe.deliver(session_id)
    _time_passes()
    match what:
        case "pass":
            stripe.simulator.passed(session_id)
        case "decline":
            stripe.simulator.fail(session_id, "consent_declined")
        case "cancel":
            stripe.simulator.cancel(session_id)
        case _:
            stripe.simulator.fault(404, count=None)
    (action_id,) = remind()
    perform_everything()
    assert (facts.action(action_id).status, facts.action(action_id).reason) == ("skipped", "begun or gone at Stripe")
    assert not post_box.told


@pytest.mark.parametrize(("mark", "reason"), [("onboarding", None), ("billing", "not ours")])
def test_of_a_session_that_marks_have_made_anothers_since_nobody_is_reminded(
    stripe: Stories, environment: pytest.MonkeyPatch, mark: str, reason: str | None
) -> None:
    session_id = stripe.simulator.create(email="jenny@example.com", metadata={"app": mark})
    stripe.deliver(session_id)
    environment.setenv("OUR_SESSIONS", "app=onboarding")
    databases.forget_process_state()
    _time_passes()
    (action_id,) = remind()
    perform_everything()
    assert facts.action(action_id).reason == reason


def test_nobody_is_reminded_of_a_session_whose_verification_goes_on_without_it(post_box: PostBox) -> None:
    names: dict[str, Any] = {"created_at": datetime.now(UTC), "updated_at": datetime.now(UTC), "livemode": False}
    idv = "idv_" + "0" * 32
    with transaction() as session:
        session.add(Verification(id=idv, client_reference_id="user-1", generation=2, session_id="vs_2", **names))
    for number in (1, 2):
        about = {"idv_id": idv, "idv_generation": str(number)}
        facts.applied(event("created", MADE, f"vs_{number}", metadata=about))
    with transaction() as session:  # it was known in time, and is gone at Stripe
        session.connection().execute(update(VerificationRecord).values(burned_at=None))
    _reminded()
    assert list(post_box.told) == ["vs_2"]


@pytest.mark.parametrize("owes_nothing", [False, True])
def test_what_is_read_back_quietly_reminds_nobody(simulator: Any, post_box: PostBox, owes_nothing: bool) -> None:
    session_id = simulator.create(email="jenny@example.com")
    list(rebuild(datetime.now(UTC) - timedelta(days=1), [None], owes_nothing=owes_nothing))
    process_everything()
    _time_passes()
    _reminded()
    assert _told(post_box, session_id) == ([] if owes_nothing else ["email_reminder"])
