"""A redacted person is forgotten in every table, whatever comes before and after."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import update
from sqlmodel import col

from config.database import transaction
from handlers.inbox.process import claim_events, process, process_together
from handlers.inbox.receive import receive
from handlers.metrics.exposition import exposition
from handlers.operator.audit import By, Way
from handlers.operator.queries import not_redacted
from handlers.outbox import outputs
from handlers.owed.kinds import Owed
from handlers.owed.owe import owe
from handlers.record.events import VerificationEvent
from handlers.sessions import closing
from handlers.sessions.opening import open_verification
from handlers.sessions.refusals import OpeningError
from handlers.tables.models import (
    ActionStatus,
    InboxStatus,
    OutboxAction,
    Verification,
    VerificationRecord,
    VerifiedOutput,
)
from tests.integration.openings import wanted
from tests.integration.stories import Stories, by_name, perform_everything, process_everything, purge
from tests.property.lifecycles import as_twin
from tests.property.outside import Application, PostBox
from tests.support import databases, facts
from tests.support.facts import NOON, event
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url", "post_box")
PERSONAL: dict[str, Any] = {"user": "c4nary user", "reference": "c4nary reference"}

ANNA = By(who="anna", way=Way.CONSOLE, reason="told by phone")


def _failed(at: int = NOON) -> VerificationEvent:
    told = event("requires_input", at, code="document_expired", report=f"vr_{at}", **PERSONAL)
    assert told.state is not None
    return replace(told, state=replace(told.state, error_reason="c4nary reason"))


def _redacted(at: int = NOON + 100) -> VerificationEvent:
    return event("redacted", at, status="verified", redaction="redacted")


def _keep_output(session_id: str = "vs_1") -> None:
    with transaction() as session:
        session.add(VerifiedOutput(session_id=session_id, ciphertext="c4nary", fetched_at=datetime.now(UTC)))


def test_before_it_the_person_is_in_the_tables_so_that_these_tests_see_something(database_url: str) -> None:
    facts.applied(_failed())
    _keep_output()
    held = databases.dump(database_url)
    for planted in ("c4nary user", "c4nary reference", "c4nary reason"):
        assert held.count(planted) == 2, "in the inbox and in the record"


def test_a_redaction_empties_every_table(database_url: str) -> None:
    facts.applied(_failed(), event("verified", NOON + 10, report="vr_2", **PERSONAL))
    _keep_output()
    facts.applied(_redacted())
    assert "c4nary" not in databases.dump(database_url)
    assert facts.record().status == "verified"
    assert facts.record().redacted_at is not None


def test_another_sessions_person_is_not_forgotten(database_url: str) -> None:
    facts.applied(_failed(), event("verified", session_id="vs_2", report="vr_2", **PERSONAL))
    _keep_output("vs_2")
    facts.applied(_redacted())
    assert facts.record("vs_2").user_id == "c4nary user"
    assert databases.dump(database_url).count("c4nary") == 5


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_no_order_of_arrival_leaves_or_brings_back_anything(database_url: str, order: tuple[int, ...]) -> None:
    story = [
        event("created", NOON - 10, **PERSONAL),
        _failed(),
        event("verified", NOON + 10, report="vr_2", **PERSONAL),
        _redacted(),
    ]
    facts.applied(*(story[number] for number in order))
    assert "c4nary" not in databases.dump(database_url)
    assert (facts.record().status, facts.record().last_report_id) == ("verified", "vr_2")


def test_one_batch_with_the_redaction_in_it_leaves_nothing(database_url: str) -> None:
    story = [_failed(), _redacted(), event("verified", NOON + 200, report="vr_2", **PERSONAL)]
    receive(story)
    process([one.id for one in story])
    assert "c4nary" not in databases.dump(database_url)


@pytest.mark.parametrize("copy", ["again", "twin", "after the inbox was purged"])
def test_replays_bring_nothing_back_and_owe_nothing(database_url: str, post_box: PostBox, copy: str) -> None:
    story = [_failed(), event("verified", NOON + 10, report="vr_2", **PERSONAL), _redacted()]
    facts.applied(*story)
    perform_everything()
    before = facts.record(), [(one.name, one.cause, one.status) for one in facts.actions()]
    if copy == "after the inbox was purged":
        purge()
    facts.applied(*(as_twin(one) if copy == "twin" else one for one in story))
    perform_everything()
    after = facts.record(), [(one.name, one.cause, one.status) for one in facts.actions()]
    assert after[1] == before[1]
    assert after[0].change_number == before[0].change_number
    assert "c4nary" not in databases.dump(database_url)
    assert post_box.sent.total() == 0


def test_owed_mails_are_dropped_and_the_application_is_still_told(post_box: PostBox, application: Application) -> None:
    facts.applied(_failed(), event("verified", NOON + 10, report="vr_2"), _redacted())
    perform_everything()
    assert post_box.sent.total() == 0
    assert by_name("vs_1") == {
        "email_retry_prompt": [ActionStatus.SKIPPED],
        "email_verified": [ActionStatus.SKIPPED],
        "notify_app": [ActionStatus.DONE, ActionStatus.DONE],
    }
    assert application.taken["vs_1"] == [1, 2]


def test_the_status_still_follows_events_and_owes_no_mail(post_box: PostBox, application: Application) -> None:
    facts.applied(event("verified", report="vr_1", **PERSONAL), _redacted())
    facts.applied(event("requires_input", NOON + 200, code="document_expired", report="vr_1", **PERSONAL))
    perform_everything()
    assert facts.record().status == "requires_input"
    assert application.taken["vs_1"] == [1, 2]
    assert post_box.sent.total() == 0


def test_the_cancellation_that_comes_with_a_redaction_mails_nobody_after_it(
    stripe: Stories, post_box: PostBox, database_url: str
) -> None:
    session_id = stripe.simulator.create(
        email="jenny@example.com", metadata={"user_id": "c4nary user"}, client_reference_id="c4nary reference"
    )
    stripe.later().simulator.redact(session_id)
    stripe.deliver(session_id)
    perform_everything()
    assert facts.record(session_id).status == "canceled"
    assert post_box.sent.total() == 0
    assert "c4nary" not in databases.dump(database_url)


@pytest.mark.parametrize("thin", [False, True])
def test_a_redaction_that_has_only_begun_is_seen_in_a_retrieve(stripe: Stories, database_url: str, thin: bool) -> None:
    """It takes Stripe up to four days, and the event comes at its end."""
    session_id = stripe.simulator.create(metadata={"user_id": "c4nary user"}, client_reference_id="c4nary reference")
    stripe.later().simulator.clock(frozen=True)
    stripe.simulator.submit(session_id)
    stripe.simulator.passed(session_id)  # in the same second: only Stripe can say what came last
    stripe.simulator.clock(frozen=None)
    stripe.later().simulator.redact(session_id, finish=False)
    stripe.deliver(session_id, thin=thin)
    assert facts.record(session_id).redacted_at is not None
    assert "c4nary" not in databases.dump(database_url)


def test_an_event_received_before_and_processed_after_it_is_emptied(database_url: str) -> None:
    late = _failed()
    receive([late])
    facts.applied(_redacted())
    assert "c4nary" not in databases.dump(database_url), "what waits is emptied too"
    process_everything()
    assert facts.event_row(late.id).status == InboxStatus.PROCESSED
    assert facts.record().last_error_reason is None


def test_an_event_that_was_in_work_during_the_redaction_leaves_nothing(database_url: str) -> None:
    late = _failed()
    receive([late])
    held = claim_events([late.id], first_try=True)
    facts.applied(_redacted())
    process_together(held)
    assert facts.event_row(late.id).status == InboxStatus.PROCESSED
    assert "c4nary" not in databases.dump(database_url)


def test_an_event_buried_before_it_is_emptied(database_url: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EVENT_ATTEMPTS", "1")
    databases.forget_process_state()
    dead = _failed()
    receive([dead])
    for first_try in (True, False):  # its process ended at both tries
        claim_events([dead.id], first_try=first_try)
        facts.end_all_leases()
    process_everything()
    assert facts.event_row(dead.id).status == InboxStatus.DEAD
    facts.applied(_redacted())
    assert "c4nary" not in databases.dump(database_url)


def test_outputs_are_kept_no_more(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VERIFIED_OUTPUTS", "first_name")
    environment.setenv("VERIFIED_OUTPUTS_KEY", Fernet.generate_key().decode())
    environment.setenv("STRIPE_RESTRICTED_KEY", stripe.simulator.restricted_key)
    databases.forget_process_state()
    session_id = stripe.simulator.create()
    stripe.later().simulator.submit(session_id)
    stripe.later().simulator.passed(session_id)
    stripe.later().simulator.redact(session_id)
    facts.applied(*reversed(stripe.news(session_id)))
    perform_everything()
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.SKIPPED]
    assert outputs.read_outputs(session_id) is None


def _asked(session_id: str = "vs_1", days: float = 0.0) -> None:
    """Writes a request to forget the person, so many days old."""
    asked_at = datetime.now(UTC) - timedelta(days=days)
    of_it = update(VerificationRecord).where(col(VerificationRecord.session_id) == session_id)
    with transaction() as session:
        session.connection().execute(of_it.values(redaction_asked_at=asked_at))


def _verification() -> str:
    """Gives vs_1 a verification."""
    _opened_here()
    with transaction() as session:
        session.connection().execute(update(VerificationRecord).values(verification_id="idv_1", generation=1))
    return "idv_1"


def _opened_here() -> None:
    now = datetime.now(UTC)
    whose: dict[str, Any] = {"id": "idv_1", "client_reference_id": "c4nary", "livemode": False, "session_id": "vs_1"}
    with transaction() as session:
        session.add(Verification(**whose, return_url="shop:c4nary", locale="c4nary", created_at=now, updated_at=now))


@pytest.mark.usefixtures("stripe")
@pytest.mark.parametrize("is_ours", [True, False], ids=["a verification", "a session made elsewhere"])
def test_a_person_who_asks_is_forgotten_at_once_in_every_table_however_often(database_url: str, is_ours: bool) -> None:
    facts.applied(_failed(), event("verified", NOON + 10, report="vr_2", **PERSONAL))
    receive([replace(_failed(NOON + 20), id="evt_waits")])
    _keep_output()
    id_ = _verification() if is_ours else "vs_1"
    for _ in range(2):
        closing.redact(id_, ANNA)
        assert "c4nary" not in databases.dump(database_url)
    assert by_name("vs_1")["redact_session"] == [ActionStatus.PENDING]
    facts.applied(replace(_failed(NOON + 30), id="evt_late"))
    process_everything()
    assert "c4nary" not in databases.dump(database_url), "what comes late brings nothing back"
    assert facts.record().redacted_at is None, "Stripe has still to do it"


@pytest.mark.usefixtures("stripe")
def test_a_redaction_is_not_asked_for_again_by_what_comes_after_the_purge() -> None:
    facts.applied(_failed())
    closing.redact(_verification(), ANNA)
    then = datetime.now(UTC) - timedelta(days=400)
    with transaction() as session:
        session.connection().execute(update(OutboxAction).values(status=ActionStatus.DONE, done_at=then))
    assert command("purge").code == 0
    facts.applied(replace(_failed(NOON + 30), id="evt_late"))
    assert by_name("vs_1")["redact_session"] == [ActionStatus.DONE]


@pytest.mark.usefixtures("stripe")
def test_what_shall_be_forgotten_stays_so_when_its_session_turns_out_to_be_a_verifications() -> None:
    facts.applied(event("requires_input", code="document_expired", report="vr_1"))
    _opened_here()
    closing.redact("vs_1", ANNA)
    told = event("verified", NOON + 10, report="vr_2", **PERSONAL)
    assert told.state
    facts.applied(replace(told, state=replace(told.state, verification_id="idv_1", generation=1)))
    assert facts.record().verification_id == "idv_1"
    assert facts.record().redaction_asked_at
    assert facts.record().user_id is None


def test_a_session_whose_person_is_to_be_forgotten_is_adopted_by_nobody(stripe: Stories) -> None:
    session_id = stripe.simulator.create(client_reference_id="user-1")
    stripe.deliver(session_id)
    said = command("redact", session_id, "--json")
    assert (said.code, said.json[0]["record"]["client_reference_id"]) == (0, None)
    assert {"redact_session", "redaction_asked"} < {line["what"] for line in said.json[0]["timeline"]}
    with pytest.raises(OpeningError, match="not-adoptable"):
        open_verification(wanted(adopt=session_id))
    assert facts.record(session_id).verification_id is None
    assert command("redact", "vs_none").code == 1
    assert command("cancel", "vs_none").code == 1


def test_a_redaction_begun_elsewhere_wipes_the_verification_once_all_its_sessions_are(database_url: str) -> None:
    facts.applied(event("canceled", report="vr_0"), event("verified", session_id="vs_2", report="vr_1"))
    _verification()
    facts.applied(_redacted())
    assert "c4nary" in databases.dump(database_url), "the other session may be taken up again"
    facts.applied(event("redacted", NOON + 100, "vs_2", redaction="redacted"))
    assert "c4nary" not in databases.dump(database_url)


@pytest.mark.usefixtures("stripe")
def test_asking_again_does_not_begin_the_time_anew() -> None:
    facts.applied(event("verified"))
    id_ = _verification()
    closing.redact_verification(id_)
    _asked(days=6)
    closing.redact_verification(id_)
    assert [late.session_id for late in not_redacted()] == ["vs_1"]


def test_what_is_not_redacted_five_days_after_it_was_asked_for_is_a_finding() -> None:
    facts.applied(event("verified"))
    _asked(days=4.9)
    assert not_redacted() == []
    _asked(days=5.1)
    said = command("status", "--json")
    assert (said.code, [late["session_id"] for late in said.json["not_redacted"]]) == (1, ["vs_1"])
    found = [
        (line["level"], line["words"]) for line in command("doctor", "--json").json if line["what"] == "redactions"
    ]
    assert [level for level, words in found if "vs_1" in words] == ["FAIL"]
    assert "identity_redactions_overdue 1.0" in exposition()[0].decode()
    facts.applied(_redacted())
    assert not_redacted() == []
    facts.all_alive()
    assert command("status").code == 0


def test_what_stripe_does_not_have_is_not_waited_for(stripe: Stories) -> None:
    facts.applied(event("verified", session_id="vs_gone"))
    _asked("vs_gone", days=6)
    with transaction() as session:
        owe(session, [("vs_gone", [Owed("redact_session", "asked")])], datetime.now(UTC))
    assert [late.session_id for late in not_redacted()] == ["vs_gone"]
    perform_everything()
    assert by_name("vs_gone")["redact_session"] == [ActionStatus.SKIPPED]
    assert not_redacted() == []
    assert stripe.simulator.truth()["sessions"] == []
