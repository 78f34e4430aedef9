"""Sessions of one verification, heard of in any order: their owner, burned and replaced ones, and the limit."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from config.database import database_now, now, transaction
from config.settings import settings
from handlers.inbox.process import process
from handlers.inbox.receive import receive
from handlers.outbox import mails
from handlers.owed.kinds import BURNED_CAUSE, LIMIT_CAUSE, TELLING
from handlers.queue.claims import LostClaimError
from handlers.record.decide import READ_BACK
from handlers.record.events import Status, VerificationEvent
from handlers.sessions import ending
from handlers.sessions.opening import Opened, use_turn
from handlers.sessions.refusals import OpeningError
from handlers.sessions.standing import SessionStands, standing
from handlers.sessions.turn import Turn, next_generation, take_turn, write_down_replaced
from handlers.sessions.views import PageQuery, listed, view
from handlers.stripe_api.sessions import cancel_at_stripe
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.limits import judge_limits
from handlers.upkeep.reconcile import reconcile
from tests.integration.openings import open_wanted, wanted
from tests.integration.stories import Stories, by_name, perform_everything, process_everything
from tests.property.outside import PostBox
from tests.property.rounds import deadlocks
from tests.support import databases, facts, shapes
from tests.support.facts import NOON

pytestmark = pytest.mark.usefixtures("database_url", "stripe", "post_box")


def _turn(generation: int = 1, **changes: Any) -> Turn:
    """An opening that has got to this generation, and knows of no session."""
    turn = take_turn(wanted(**changes))
    assert turn
    while turn.generation < generation:
        turn = next_generation(turn, wanted(**changes))
    return turn


def _event(turn: Turn, kind: str, at: int = NOON, session_id: str = "vs_1", **fields: Any) -> VerificationEvent:
    return facts.event(kind, at, session_id, metadata=turn.metadata, **fields)


def _opened(**changes: Any) -> Opened:
    found = open_wanted(**changes)
    process_everything()
    return found


def _stands(session_id: str = "vs_1") -> dict[tuple[str, str], tuple[str, str | None]]:
    """All actions of a session without those that tell the application."""
    owed = [one for one in facts.actions(session_id) if one.name != "notify_app"]
    return {(one.name, one.cause): (one.status, one.reason) for one in owed}


def _link(session_id: str = "vs_1") -> tuple[str | None, int | None]:
    record = facts.record(session_id)
    return record.verification_id, record.generation


# The owner of a session


def test_a_session_that_names_a_verification_is_one_of_its_own() -> None:
    turn = _turn()
    facts.applied(_event(turn, "created"))
    assert _link() == (turn.verification_id, 1)
    assert facts.record().burned_at is None
    assert [one["session_id"] for one in view(turn.verification_id)["sessions"]] == ["vs_1"]


def test_so_it_is_where_stripe_answers_a_thin_notification(stripe: Stories) -> None:
    turn = _turn()
    session_id = stripe.simulator.create(metadata=turn.metadata)
    stripe.deliver(session_id, thin=True)
    assert _link(session_id) == (turn.verification_id, 1)


def test_so_it_is_where_only_reconcile_hears_of_it(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    stripe.simulator.reset()  # without an endpoint no event is undelivered: only the list of sessions shows them
    environment.setenv("OUR_SESSIONS", "vf_other")
    settings.cache_clear()
    turn = _turn()
    facts.applied(_event(turn, "created", session_id="vs_before"))  # we hear of this account from then on
    ours = stripe.later().simulator.create(metadata=turn.metadata)
    theirs = stripe.simulator.create(metadata={"idv_id": "idv_" + "0" * 32, "idv_generation": "1"})
    reconcile(bounded=False)
    process_everything()
    assert _link(ours) == (turn.verification_id, 1)
    assert facts.event_rows(theirs) == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"idv_id": "idv_" + "0" * 32},  # an unknown verification
        {"idv_generation": "0"},
        {"idv_generation": "1e3"},
        {"idv_generation": "9" * 10},
        {"idv_generation": None},
        {"idv_id": "idv_%"},
    ],
)
def test_what_names_no_verification_of_ours_is_not_believed(metadata: dict[str, Any]) -> None:
    named = {key: value for key, value in (_turn().metadata | metadata).items() if value is not None}
    facts.applied(facts.event("created", metadata=named))
    assert _link() == (None, None)


@pytest.mark.parametrize("elsewhere", [{"account": "acct_1"}, {"livemode": True}])
def test_another_account_or_mode_is_not_believed(elsewhere: dict[str, Any]) -> None:
    facts.applied(_event(_turn(**elsewhere), "created"))
    assert _link() == (None, None)


def test_a_connected_accounts_verification_is_believed_in_its_account() -> None:
    turn = _turn(account="acct_1")
    facts.applied(shapes.parsed(facts.payload("created", metadata=turn.metadata) | {"account": "acct_1"}))
    assert _link() == (turn.verification_id, 1)


def test_a_reference_is_never_believed() -> None:
    turn = _turn()
    facts.applied(facts.event("created", reference=turn.verification_id))
    assert _link() == (None, None)


def test_what_an_opening_did_not_write_down_is_found_by_the_next_one(stripe: Stories) -> None:
    turn = _turn()
    session_id = stripe.simulator.create(client_reference_id="user-1", metadata=turn.metadata)
    stripe.deliver(session_id)
    assert _link(session_id) == (turn.verification_id, 1)
    with transaction() as session:  # its process has died, and the lease is over
        session.connection().execute(update(Verification).values(opening_until=now()))
    opened = _opened()
    assert (opened.answer.id, opened.made, opened.generation) == (session_id, False, 1)
    assert facts.record(session_id).burned_at is None
    assert len(stripe.simulator.truth()["sessions"]) == 1


# Generations that were burned


@pytest.mark.parametrize("last", ["processing", "verified", "canceled", "requires_input"])
def test_a_burned_session_ends_alike_in_every_order(last: str, post_box: PostBox) -> None:
    ends, is_open = set(), last == "requires_input"
    for number, order in enumerate(permutations(range(3))):
        turn, session_id = _turn(purpose=str(number)), f"vs_{number}"
        fields = {"requires_input": {"code": "abandoned"}, "verified": {"report": "vr_2"}}.get(last, {})
        events = [
            _event(turn, "requires_input", NOON, session_id, code="document_expired", report="vr_1"),
            _event(turn, last, NOON + 20, session_id, **fields),
        ]
        for step in order:
            if step == 2:
                next_generation(turn, wanted(purpose=str(number)))
            else:
                facts.applied(events[step])
        assert facts.record(session_id).burned_at is not None
        if not is_open:  # else its cancellation is owed, and Stripe knows no such session
            perform_everything()
        owed = tuple(sorted((*key, status) for key, (status, _) in _stands(session_id).items()))
        ends.add((facts.record(session_id).status, owed))
    ((status, owed),) = ends
    assert status == last
    assert ("cancel_session", BURNED_CAUSE, "pending" if is_open else "skipped") in owed
    told = {name for name, _, status in owed if name in TELLING and status != "skipped"}
    perform_everything()
    assert told == {name for _, name, _ in post_box.sent} == ({"email_verified"} if last == "verified" else set())


def test_a_burned_session_that_shows_up_is_canceled_and_nobody_is_told(stripe: Stories, post_box: PostBox) -> None:
    turn = _turn()
    session_id = stripe.simulator.create(client_reference_id="user-1", metadata=turn.metadata)
    next_generation(turn, wanted())
    for _ in range(2):
        stripe.deliver(session_id)
        perform_everything()
    assert stripe.simulator.session(session_id)["status"] == "canceled"
    assert facts.record(session_id).status == Status.CANCELED
    assert by_name(session_id)["cancel_session"] == ["done"]
    assert not post_box.sent


def test_two_at_once_leave_no_burned_session_open() -> None:
    """The event comes at once with the opening that gives its generation up."""
    for number in range(10):
        turn, session_id = _turn(purpose=str(number)), f"vs_{number}"
        event = _event(turn, "created", session_id=session_id)
        receive([event])
        with ThreadPoolExecutor(2) as pool:
            burning = pool.submit(next_generation, turn, wanted(purpose=str(number)))
            assert pool.submit(process, [event.id]).exception() is None
            assert burning.exception() is None
    process_everything()
    assert {_stands(f"vs_{number}")["cancel_session", BURNED_CAUSE] for number in range(10)} == {("pending", None)}


def test_the_session_an_older_generation_knew_is_not_burned(stripe: Stories) -> None:
    first = _opened().answer.id
    stripe.simulator.act(first, "cancel")
    assert _opened().generation == 2
    late = stripe.news(first)
    facts.applied(*late[::-1])
    assert facts.record(first).burned_at is None
    assert "cancel_session" not in by_name(first)


def test_a_burned_session_that_is_adopted_is_not_canceled(stripe: Stories) -> None:
    turn = _turn()
    session_id = stripe.simulator.create(client_reference_id="user-1", metadata=turn.metadata)
    turn = next_generation(turn, wanted())
    stripe.deliver(session_id)
    assert _stands(session_id)["cancel_session", BURNED_CAUSE] == ("pending", None)
    assert use_turn(turn, wanted(adopt=session_id)).answer.id == session_id
    perform_everything()
    assert stripe.simulator.session(session_id)["status"] == "requires_input"
    facts.applied(facts.event("created", session_id=session_id, metadata=turn.metadata | {"idv_generation": "1"}))
    assert _link(session_id) == (turn.verification_id, 2)


def test_what_shows_up_after_its_person_was_to_be_forgotten_is_forgotten(database_url: str) -> None:
    turn = _turn()
    with transaction() as session:
        session.connection().execute(update(Verification).values(redaction_asked_at=now()))
    facts.applied(_event(turn, "created", reference="c4nary", user="c4nary"))
    assert by_name("vs_1") == {"redact_session": ["pending"], "notify_app": ["pending"]}
    assert "c4nary" not in databases.dump(database_url)


# Replaced sessions


def _replaced(turn: Turn) -> None:
    """Replaces the sessions so far, as an opening that begins anew on purpose does."""
    with transaction() as session:
        session.get_one(Verification, turn.verification_id, with_for_update=True)
        write_down_replaced(session, turn.verification_id)


MAILS: dict[str, tuple[str, dict[str, Any]]] = {
    "email_verified": ("verified", {"report": "vr_1"}),
    "email_retry_prompt": ("requires_input", {"code": "document_expired", "report": "vr_1"}),
    "email_alternative": ("requires_input", {"code": "consent_declined"}),
    "email_canceled": ("canceled", {}),
}


def test_every_kind_of_mail_is_tried_below() -> None:
    assert MAILS.keys() == set(TELLING) - {"email_reminder"}, "which no event owes: test_reminders"


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("name", MAILS)
def test_no_mail_about_a_replaced_session_is_sent_in_any_order(name: str, is_late: bool, post_box: PostBox) -> None:
    kind, fields = MAILS[name]
    turn = _turn()
    facts.applied(_event(turn, "created", NOON - 60))
    if is_late:
        _replaced(turn)
    facts.applied(_event(turn, kind, **fields))
    if not is_late:
        _replaced(turn)
    ends = {key[0]: end for key, end in _stands().items() if key[0] in TELLING}
    assert ends == {name: ("skipped", "replaced")}
    assert facts.record().status == kind
    perform_everything()
    assert not post_box.sent


@pytest.mark.parametrize("name", MAILS)
def test_a_mail_that_is_on_its_way_when_its_session_is_replaced_is_not_given_away(
    name: str, environment: pytest.MonkeyPatch
) -> None:
    kind, fields = MAILS[name]
    turn, gone, kept = _turn(), list[str](), list[str]()
    facts.applied(_event(turn, kind, **fields))

    def send(mail: mails.Mail) -> None:
        _replaced(turn)
        try:
            mail.last_look()
        except LostClaimError:
            kept.append(mail.template)
            raise
        gone.append(mail.template)

    environment.setattr(mails, "send", send)
    perform_everything()
    assert (gone, kept) == ([], [name])
    assert _stands()[name, next(one.cause for one in facts.actions() if one.name == name)] == ("skipped", "replaced")


def test_where_the_person_is_faster_the_session_is_not_replaced_and_all_counts_again(
    stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    first = _opened().answer.id
    stripe.simulator.fail(first, "document_expired")
    stripe.deliver(first)
    stripe.simulator.cancel(first)
    second = _opened().answer.id
    stripe.simulator.fail(second, "document_expired")
    stripe.deliver(second)

    def cancel_late(session_id: str, account: str | None) -> bool:
        stripe.simulator.submit(session_id)
        return cancel_at_stripe(session_id, account)

    environment.setattr(ending, "cancel_at_stripe", cancel_late)
    with pytest.raises(OpeningError, match="processing"):
        _opened(replaces=second)
    assert view(second)["submissions"] == 2
    assert [facts.record(one).replaced_at for one in (first, second)] == [None, None]
    assert "pending" in by_name(second)["email_retry_prompt"]


def test_what_shows_up_from_before_a_replaced_session_counts_as_little() -> None:
    burned = _turn()
    turn = next_generation(burned, wanted())
    facts.applied(_event(turn, "created", session_id="vs_2"))
    _replaced(turn)
    next_generation(turn, wanted())
    facts.applied(_event(burned, "verified", report="vr_1"))
    assert view(turn.verification_id)["status"] == Status.REQUIRES_INPUT
    facts.applied(_event(burned, "requires_input", NOON + 10, report="vr_2", code="abandoned"))
    assert _stands()["cancel_session", BURNED_CAUSE] == ("pending", None)
    assert view(turn.verification_id)["submissions"] == 0


# The limit


def _failure(turn: Turn, session_id: str, number: int) -> VerificationEvent:
    fields = {"code": "document_expired", "report": f"vr_{session_id}_{number}"}
    return _event(turn, "requires_input", NOON + number, session_id, **fields)


def _two_sessions(purpose: str = "") -> tuple[Turn, Turn]:
    """Two openings of one verification: of the first session, which was known and is canceled, and of the second."""
    first = _turn(purpose=purpose)
    with transaction() as session:
        at = database_now()
        whose: dict[str, Any] = {"verification_id": first.verification_id, "generation": 1}
        session.add(
            VerificationRecord(session_id=f"vs_1{purpose}", livemode=False, created_at=at, updated_at=at, **whose)
        )
        session.connection().execute(
            update(Verification)
            .where(col(Verification.id) == first.verification_id)
            .values(session_id=f"vs_1{purpose}")
        )
    known = replace(first, session_id=f"vs_1{purpose}")
    return known, next_generation(known, wanted(purpose=purpose))


def test_the_limit_counts_over_all_sessions_in_every_order() -> None:
    ends = []
    for number, order in enumerate(permutations(range(3))):
        purpose = f"_purpose_{number}"
        first, second = _two_sessions(purpose)
        events = [
            _failure(first, f"vs_1{purpose}", 1),
            _failure(first, f"vs_1{purpose}", 2),
            _failure(second, f"vs_2{purpose}", 9),
        ]
        facts.applied(*(events[place] for place in order))
        owed = _stands(f"vs_2{purpose}")
        assert owed["cancel_session", LIMIT_CAUSE] == owed["alert_review", LIMIT_CAUSE] == ("pending", None), order
        assert _stands(f"vs_1{purpose}").keys() >= {("cancel_session", LIMIT_CAUSE), ("alert_review", LIMIT_CAUSE)}
        shown = view(first.verification_id)
        assert (shown["submissions"], shown["submissions_left"], shown["can_retry"]) == (3, 0, False)
        ends.append({(name, cause.replace(purpose, "")) for name, cause in owed})
    assert all(end == ends[0] for end in ends)


def test_a_reviewer_hears_once_of_a_limit_that_was_reached_whatever_came_first(post_box: PostBox) -> None:
    """The third failure, its session's end and its replacement come in any order; only the reviewer hears of it."""
    for number, order in enumerate(permutations(range(4))):
        purpose = f"_purpose_{number}"
        first, second = _two_sessions(purpose)
        canceled = _event(second, "canceled", NOON + 20, f"vs_2{purpose}")
        steps = [_failure(first, f"vs_1{purpose}", 2), _failure(second, f"vs_2{purpose}", 9), canceled]
        facts.applied(
            _failure(first, f"vs_1{purpose}", 1),
            _event(first, "canceled", NOON + 5, f"vs_1{purpose}"),
            _event(second, "created", NOON + 6, f"vs_2{purpose}"),
        )
        for step in order:
            if step == len(steps):
                _replaced(second)
            else:
                facts.applied(steps[step])
        stands = _stands(f"vs_2{purpose}")
        assert stands["alert_review", LIMIT_CAUSE] == ("pending", None), order
        assert ("alert_review", LIMIT_CAUSE) not in _stands(f"vs_1{purpose}")
    perform_everything()
    alerts = [key for key in post_box.sent if key[1] == "alert_review"]
    assert len(alerts) == number + 1


@pytest.mark.parametrize("is_named", [True, False])
def test_a_late_report_of_an_older_session_ends_the_open_one_and_stops_its_prompt(
    is_named: bool, post_box: PostBox
) -> None:
    first, second = _two_sessions()
    facts.applied(_failure(first, "vs_1", 1), _event(first, "canceled", NOON + 5), _failure(second, "vs_2", 9))
    assert by_name("vs_2")["email_retry_prompt"] == ["pending"]
    fields = {"code": "document_expired", "report": "vr_late"}
    late = facts.event("requires_input", NOON + 2, metadata=first.metadata if is_named else {}, **fields)
    facts.applied(late)
    perform_everything()
    assert by_name("vs_2")["email_retry_prompt"] == ["skipped"]
    assert {key[:2] for key in post_box.sent if key[0] == "vs_2"} == {("vs_2", "alert_review")}


def test_a_late_report_that_is_read_back_quietly_ends_the_open_session_and_mails_nobody(post_box: PostBox) -> None:
    first, second = _two_sessions()
    facts.applied(_failure(first, "vs_1", 1), _event(first, "canceled", NOON + 5), _failure(second, "vs_2", 9))
    late = _event(first, "requires_input", NOON + 2, code="document_expired", report="vr_late")
    receive([late], owes_nothing=True)
    process([late.id])
    assert _stands("vs_2")["cancel_session", LIMIT_CAUSE] == ("pending", None)
    perform_everything()
    assert "alert_review" not in {key[1] for key in post_box.sent}


def test_an_alert_that_is_read_back_after_it_was_passed_over_is_not_sent(post_box: PostBox) -> None:
    failed = [
        facts.event("requires_input", NOON + at, code="document_expired", report=f"vr_{at}") for at in (1, 2, 3, 9)
    ]
    for quiet in (facts.event("processing", NOON + 8), *failed):
        receive([quiet], owes_nothing=True)
        process([quiet.id])
    facts.applied(facts.event("canceled", NOON + 20))
    perform_everything()
    assert _stands("vs_1")["alert_review", LIMIT_CAUSE] == ("skipped", READ_BACK)
    assert "alert_review" not in {key[1] for key in post_box.sent}


def test_mails_count_the_submissions_of_all_sessions(post_box: PostBox) -> None:
    first, second = _two_sessions()
    facts.applied(*(_failure(first, "vs_1", number) for number in (1, 2)), _event(first, "canceled", NOON + 5))
    facts.applied(_failure(second, "vs_2", 9))
    alerts: list[int] = []
    post_box.behave = lambda mail: alerts.append(mail.about.submissions) if mail.template == "alert_review" else None
    perform_everything()
    facts.applied(_event(second, "canceled", NOON + 20, "vs_2"))
    perform_everything()
    assert alerts == [3]
    last = post_box.told["vs_2"][-1]
    assert (last.template, last.about.submissions, last.about.is_at_limit) == ("email_canceled", 3, True)


def test_a_limit_that_has_fallen_is_judged_over_all_sessions(environment: pytest.MonkeyPatch) -> None:
    first, second = _two_sessions()
    facts.applied(_failure(first, "vs_1", 1), _event(first, "canceled", NOON + 5), _failure(second, "vs_2", 9))
    assert judge_limits() == []
    environment.setenv("SUBMISSION_LIMIT", "2")
    settings.cache_clear()
    judge_limits()
    assert _stands("vs_2")["cancel_session", LIMIT_CAUSE] == ("pending", None)
    assert _stands("vs_1").keys() == {
        ("email_retry_prompt", "requires_input:document_expired:vr_vs_1_1"),
        ("email_canceled", "canceled"),
    }


def test_a_limit_that_is_new_is_judged_over_all_records_and_then_over_a_page_a_run(
    environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.upkeep.progress._PAGE", 1)

    def limit(number: int) -> None:
        environment.setenv("SUBMISSION_LIMIT", str(number))
        settings.cache_clear()

    def fail(session_id: str) -> None:
        facts.applied(facts.event("requires_input", session_id=session_id, code="document_expired", report="vr_1"))

    def ended() -> list[str]:
        return [one for one in "abcdefg" if ("cancel_session", LIMIT_CAUSE) in _stands(f"vs_{one}")]

    for one in "abc":
        fail(f"vs_{one}")
    limit(1)
    judge_limits()
    assert ended() == ["a", "b", "c"]
    limit(3)  # a worker that still has the other limit
    for one in "de":
        fail(f"vs_{one}")
    limit(1)
    judge_limits()
    assert ended() == ["a", "b", "c"]
    for _ in range(4):
        judge_limits()
    assert ended() == ["a", "b", "c", "d", "e"]
    limit(3)
    judge_limits()
    for one in "fg":
        fail(f"vs_{one}")
    limit(1)  # it comes back, and is new again
    judge_limits()
    assert ended() == [*"abcdefg"]


def test_what_was_replaced_is_forgiven(post_box: PostBox) -> None:
    first, second = _two_sessions()
    facts.applied(*(_failure(first, "vs_1", number) for number in (1, 2, 3)))
    _replaced(second)
    third = next_generation(second, wanted())
    facts.applied(_failure(third, "vs_3", 20))
    assert by_name("vs_3") == {"email_retry_prompt": ["pending"], "notify_app": ["pending"]}
    assert view("vs_3")["submissions_left"] == settings().submission_limit - 1
    assert post_box


# The standing of a verification


def test_a_late_success_of_an_older_session_counts() -> None:
    first, second = _two_sessions()
    facts.applied(_event(second, "created", NOON + 9, "vs_2"), _event(first, "verified", NOON, report="vr_1"))
    assert view(first.verification_id)["status"] == Status.VERIFIED


ANY: tuple[Any, ...] = ("none", None, *Status)


def test_statuses_are_the_same_in_sql_and_in_words_for_all_pairs() -> None:
    """The pairs of an older session, replaced or not, and one or two of the current generation, known or not."""
    expected, at = {}, database_now()
    times: dict[str, Any] = {"created_at": at, "updated_at": at, "livemode": False}
    with transaction() as session:
        for number, (older, is_replaced, current, is_known, besides) in enumerate(
            product(ANY, (False, True), ANY, (False, True), ("none", Status.CANCELED))
        ):
            id_, one = f"idv_{number}", f"vs_{number}_2"
            known_id = one if is_known and current != "none" else None
            session.add(Verification(id=id_, client_reference_id=id_, generation=2, session_id=known_id, **times))
            stands = []
            for name, generation, status in (("1", 1, older), ("2", 2, current), ("3", 2, besides)):
                if status == "none":
                    continue
                session_id, replaced_at = f"vs_{number}_{name}", at if is_replaced and generation == 1 else None
                about: dict[str, Any] = {"generation": generation, "status": status}
                whose: dict[str, Any] = {"session_id": session_id, "verification_id": id_, "replaced_at": replaced_at}
                session.add(VerificationRecord(**about, **whose, **times))
                stands.append(SessionStands(**about, is_replaced=bool(replaced_at), is_known=session_id == known_id))
            expected[id_] = standing(stands, 2, limit=3).status
    found = {
        one["id"]: (status, one["status"])
        for status in Status
        for one in listed(PageQuery(status=status, limit=len(expected)))[0]
    }
    assert found == {id_: (status, status) for id_, status in expected.items()}


# Other applications' sessions in the same account


@pytest.fixture
def _flow_alone(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OUR_SESSIONS", "vf_ours")
    databases.forget_process_state()


def _read(payload: dict[str, Any]) -> VerificationEvent:
    return shapes.parsed(payload, ("vf_ours",))


@pytest.mark.usefixtures("_flow_alone")
def test_what_names_a_verification_of_ours_is_ours_without_a_mark() -> None:
    turn = _turn()
    facts.applied(_read(facts.payload("verified", metadata=turn.metadata, report="vr_1")))
    assert (facts.record().status, _link()) == ("verified", (turn.verification_id, 1))


@pytest.mark.usefixtures("_flow_alone")
def test_what_names_another_services_is_not_ours_and_stripe_is_not_asked(stripe: Stories) -> None:
    stripe.simulator.fault(500)
    named = {"idv_id": "idv_" + "0" * 32, "idv_generation": "1"}
    facts.applied(_read(facts.payload("verified", metadata=named, report="vr_1", reference="c4nary")))
    (row,) = facts.event_rows()
    assert (row.outcome, row.last_error, row.client_reference_id) == ("ignored", "not ours", None)
    assert facts.count_records() == 0


@pytest.mark.usefixtures("_flow_alone")
def test_of_a_thin_notification_stripe_says_which_verification_it_is(stripe: Stories) -> None:
    turn = _turn()
    ours = stripe.simulator.create(metadata=turn.metadata)
    facts.applied(_read(shapes.thin("evt_thin", "created", "2026-11-16T12:00:00Z", ours)))
    assert _link(ours) == (turn.verification_id, 1)


@pytest.mark.usefixtures("_flow_alone")
def test_a_redaction_that_wipes_the_name_is_obeyed_in_every_order() -> None:
    for number, order in enumerate(permutations(range(2))):
        turn, session_id = _turn(purpose=str(number)), f"vs_{number}"
        events = [
            _read(facts.payload("verified", NOON, session_id, metadata=turn.metadata, report="vr_1", user="u")),
            _read(facts.payload("redacted", NOON + 60, session_id)),
        ]
        facts.applied(*(events[place] for place in order))
        process_everything()
        assert facts.record(session_id).redacted_at is not None
        assert _link(session_id) == (turn.verification_id, 1)


def test_events_and_openings_of_one_verification_wait_for_each_other_in_no_circle() -> None:
    for number in range(5):
        purpose = f"_circle_{number}"
        first, second = _two_sessions(purpose)
        events = [
            _failure(turn, f"vs_{generation}{purpose}", place)
            for generation, turn in ((1, first), (2, second))
            for place in (1, 2)
        ]
        unnamed = facts.event("processing", NOON + 5, f"vs_1{purpose}")
        receive([*events, unnamed])
        with ThreadPoolExecutor(8) as pool:
            at_once = [pool.submit(process, [event.id]) for event in (*events, unnamed)]
            burning = pool.submit(next_generation, second, wanted(purpose=purpose))
            replacing_ = pool.submit(_replaced, second)
        assert [one.exception() for one in at_once] == [None] * 5
        assert isinstance(burning.exception(), OpeningError | None)
        assert isinstance(replacing_.exception(), OpeningError | None)
    process_everything()
    assert {one.status for number in range(5) for one in facts.event_rows(f"vs_1_circle_{number}")} == {"processed"}
    assert deadlocks() == 0


def test_a_replaced_session_that_a_reviewer_opens_again_ends_and_mails_nobody(
    stripe: Stories, post_box: PostBox
) -> None:
    first = _opened().answer.id
    stripe.simulator.passed(first)
    stripe.deliver(first)
    second = _opened(replaces=first).answer.id
    perform_everything()
    sent = post_box.sent.total()
    stripe.later().simulator.override(first)
    stripe.deliver(first)
    perform_everything()
    assert [stripe.simulator.session(one)["status"] for one in (first, second)] == ["canceled", "requires_input"]
    assert post_box.sent.total() == sent


def test_a_session_that_was_said_to_be_gone_and_is_replaced_ends_once_it_is_there(stripe: Stories) -> None:
    first = _opened().answer.id
    stripe.simulator.fault(404, path="/v1/identity/verification_sessions/", method="GET")
    second = _opened(replaces=first).answer.id
    perform_everything()
    assert [stripe.simulator.session(one)["status"] for one in (first, second)] == ["canceled", "requires_input"]


def test_an_open_session_that_is_replaced_is_canceled_once(stripe: Stories) -> None:
    first = _opened().answer.id
    _opened(replaces=first)
    stripe.deliver(first)
    perform_everything()
    assert facts.record(first).status == Status.CANCELED
    assert "cancel_session" not in by_name(first)
