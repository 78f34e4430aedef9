"""After a backup was put back: no second open session, the right generation, and no mail twice."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from config.database import transaction
from config.settings import settings
from handlers.queue.pauses import paused
from handlers.sessions import views
from handlers.sessions.closing import redact_verification
from handlers.sessions.opening import Opened, open_verification
from handlers.sessions.reminders import remind
from handlers.sessions.turn import Wanted
from handlers.stripe_api import sessions
from handlers.tables.models import VerificationRecord
from handlers.upkeep import restored
from handlers.upkeep.restored import NothingHereError, recover
from tests.integration.stories import perform_everything, process_everything
from tests.property.outside import Application, PostBox
from tests.simulator.client import Simulator
from tests.support import databases, facts, shapes
from tests.support.facts import event
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url")
NOWHERE = "http://127.0.0.1:9/webhooks/stripe"


@dataclass
class Shop:
    """Persons whose events arrive by hand: without an endpoint, Stripe holds them for delivered."""

    url: str
    folder: Path
    simulator: Simulator
    seen: set[str] = field(default_factory=set)
    offset: int = 0

    def open(self, **changes: Any) -> Opened:
        """Opens a verification, and delivers the events of that."""
        self.later()
        opened = open_verification(self.wanted(**changes))
        assert opened
        self.deliver()
        return opened

    def wanted(self, **changes: Any) -> Wanted:
        """The request for an opening."""
        params = {"type": "document", "provided_details": {"email": "jenny@example.com"}}
        least = {"client_reference_id": "user-1", "purpose": "", "account": "", "livemode": False, "params": params}
        return Wanted(**{**least, **changes})

    def happens(self, what: str, session_id: str, *words: str) -> None:
        """Acts at Stripe; the events arrive, and the actions that they owe are performed."""
        self.later()
        getattr(self.simulator, what)(session_id, *words)
        self.deliver()

    def later(self, seconds: int = 10) -> None:
        self.offset += seconds
        self.simulator.clock(offset=self.offset)

    def deliver(self) -> None:
        self.apply()
        perform_everything()

    def apply(self) -> None:
        self.later()
        news = [one for one in self.simulator.events() if one["id"] not in self.seen and not one["thin"]]
        self.seen |= {one["id"] for one in news}
        facts.applied(*(shapes.parsed(one["body"], settings().our_sessions) for one in news))
        process_everything()

    def back_up(self) -> Path:
        return databases.back_up(self.url, self.folder)

    def put_back(self, backup: Path) -> None:
        databases.put_back(self.url, backup)

    def open_sessions(self) -> list[str]:
        return [one["id"] for one in self.simulator.truth()["sessions"] if one["status"] == "requires_input"]


@pytest.fixture
def shop(simulator: Simulator, database_url: str, tmp_path: Path) -> Shop:
    return Shop(database_url, tmp_path, simulator)


def _view(opened: Opened) -> dict[str, Any]:
    return views.view(opened.verification_id)


def test_a_replaced_and_verified_person_is_where_she_was(shop: Shop, post_box: PostBox) -> None:
    first = shop.open()
    shop.happens("fail", first.answer.id, "document_expired")
    backup = shop.back_up()
    second = shop.open(replaces=first.answer.id)
    shop.happens("passed", second.answer.id)
    before, mails = _view(second), post_box.sent.copy()
    assert (before["status"], before["generation"], mails.total()) == ("verified", 2, 2)
    shop.put_back(backup)
    assert _view(first)["generation"] == 1
    seen: list[int] = []
    found = recover(seen=seen.append)
    assert (found.is_whole, found.generations_moved, found.events_undelivered, list(paused())) == (True, 1, 0, [])
    assert sum(seen) > found.sessions_listed > 0
    after = _view(first)
    assert {name: after[name] for name in ("status", "generation", "session_id")} == {
        name: before[name] for name in ("status", "generation", "session_id")
    }
    perform_everything()
    again = shop.open()
    assert (again.answer.id, again.made, len(shop.simulator.truth()["sessions"])) == (second.answer.id, False, 2)
    assert post_box.sent == mails


@pytest.mark.parametrize("mail_again", [False, True])
def test_who_may_have_been_reminded_is_not_reminded_again(
    shop: Shop, post_box: PostBox, environment: pytest.MonkeyPatch, mail_again: bool
) -> None:
    environment.setenv("REMINDER_HOURS", "1")
    settings.cache_clear()
    opened, later = shop.open(), shop.open(client_reference_id="user-2")
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    with transaction() as session:
        session.get_one(VerificationRecord, opened.answer.id).remind_at = an_hour_ago
    backup = shop.back_up()
    remind()
    perform_everything()
    assert [mail.template for mail in post_box.told[opened.answer.id]] == ["email_reminder"]
    shop.put_back(backup)
    found = recover(mail_again=mail_again)
    remind()
    perform_everything()
    assert len(post_box.told[opened.answer.id]) == 1 + mail_again
    assert found.mails_held_back == (not mail_again)
    assert facts.record(opened.answer.id).told_count == 1
    assert facts.record(later.answer.id).remind_at, "hers has not come"


def test_an_open_session_that_was_begun_since_is_taken_up_again_even_days_later(shop: Shop) -> None:
    first = shop.open()
    backup = shop.back_up()
    shop.happens("cancel", first.answer.id)
    second = shop.open()
    shop.put_back(backup)
    shop.later(3 * 86_400)  # Stripe has forgotten all idempotency keys
    recover()
    again = shop.open()
    assert (again.answer.id, again.generation) == (second.answer.id, 2)
    assert shop.open_sessions() == [second.answer.id]


def test_who_was_forgotten_and_came_again_is_taken_up_where_she_came_again(shop: Shop) -> None:
    forgotten = shop.open()
    backup = shop.back_up()
    redact_verification(forgotten.verification_id)
    perform_everything()
    shop.deliver()
    came_again = shop.open()
    assert came_again.verification_id != forgotten.verification_id
    shop.put_back(backup)
    recover()
    assert (shop.open().answer.id, shop.open_sessions()) == (came_again.answer.id, [came_again.answer.id])
    assert _view(forgotten)["client_reference_id"] is None


def test_of_two_purposes_of_one_person_that_the_backup_did_not_have_none_is_dropped(shop: Shop) -> None:
    shop.open(client_reference_id="user-0")
    backup = shop.back_up()
    opened = [shop.open(purpose=purpose) for purpose in ("age", "address")]
    for one in opened:  # written down before Stripe was called
        shop.simulator.update(one.answer.id, metadata={"idv_purpose": ""})
    shop.put_back(backup)
    found = recover()
    shown = [_view(one) for one in opened]
    assert [one["session_id"] for one in shown] == [one.answer.id for one in opened]
    assert [one["client_reference_id"] for one in shown] == ["user-1", "user-1"]
    [lost] = found.purposes_lost
    assert (found.verifications_found, {one["purpose"] for one in shown}) == (2, {"", lost})
    again = shop.open(purpose=lost)
    assert (again.verification_id, again.made, len(shop.open_sessions())) == (lost, False, 3)
    assert recover().purposes_lost == [lost], "and once more it is the same"


def test_each_purpose_that_the_backup_did_not_have_is_known_again(shop: Shop) -> None:
    shop.open(client_reference_id="user-0")
    backup = shop.back_up()
    opened = [shop.open(purpose=purpose) for purpose in ("age", "address", "")]
    shop.put_back(backup)
    found = recover()
    assert (found.verifications_found, found.purposes_lost) == (3, [])
    assert [_view(one)["purpose"] for one in opened] == ["age", "address", ""]
    assert [shop.open(purpose=purpose).verification_id for purpose in ("age", "address", "")] == [
        one.verification_id for one in opened
    ]


def test_who_came_again_for_a_purpose_has_it_after_the_backup_too(shop: Shop) -> None:
    forgotten = shop.open(purpose="age")
    backup = shop.back_up()
    redact_verification(forgotten.verification_id)
    perform_everything()
    shop.deliver()
    came_again = shop.open(purpose="age")
    shop.put_back(backup)
    assert recover().purposes_lost == []
    assert _view(came_again)["purpose"] == "age"
    assert shop.open(purpose="age").answer.id == came_again.answer.id


def test_a_purpose_of_its_own_is_not_taken_for_the_one_that_the_backup_had(shop: Shop) -> None:
    known, purposes = shop.open(), ("", "age")
    shop.open(purpose="age")
    backup = shop.back_up()
    new = shop.open(purpose="address")
    shop.simulator.update(new.answer.id, metadata={"idv_purpose": ""})
    shop.put_back(backup)
    assert recover().purposes_lost == [new.verification_id]
    assert _view(known)["client_reference_id"] == _view(new)["client_reference_id"] == "user-1"
    assert all(not shop.open(purpose=one).made for one in (*purposes, new.verification_id))


def test_a_session_that_was_made_long_before_it_was_adopted_is_known_again(shop: Shop) -> None:
    shop.later(-20 * 86_400)
    made = shop.simulator.create(client_reference_id="user-1")
    shop.later(20 * 86_400)
    opened = shop.open(client_reference_id="user-0")
    backup = shop.back_up()
    adopted = shop.open(adopt=made, params={})
    shop.put_back(backup)
    recover()
    assert _view(adopted)["session_id"] == made
    assert (shop.open().answer.id, set(shop.open_sessions())) == (made, {made, opened.answer.id})


def test_a_verification_that_the_backup_did_not_have_is_found(shop: Shop) -> None:
    shop.open(client_reference_id="user-0")
    backup = shop.back_up()
    opened = shop.open()
    shop.put_back(backup)
    assert recover().verifications_found == 1
    again = shop.open()
    assert (again.verification_id, again.answer.id) == (opened.verification_id, opened.answer.id)


def test_the_verifications_of_all_pages_are_found_and_counted(shop: Shop, environment: pytest.MonkeyPatch) -> None:
    shop.open(client_reference_id="user-0")
    backup = shop.back_up()
    for number in (1, 2):
        shop.open(client_reference_id=f"user-{number}")
    shop.put_back(backup)
    environment.setattr(sessions, "MOST_LISTED", 1)
    assert recover().verifications_found == 2


def test_another_environments_session_stays_anothers(
    shop: Shop, post_box: PostBox, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("OUR_SESSIONS", "app=shop,vf_ours")
    settings.cache_clear()
    shop.open(client_reference_id="user-0")
    backup = shop.back_up()
    ours = shop.open()
    names = {"idv_id": "idv_" + "7" * 32, "idv_generation": "1", "app": "staging"}
    theirs = shop.simulator.create(client_reference_id="user-1", metadata=names, email="jenny@example.com")
    shop.deliver()
    shop.put_back(backup)
    found = recover()
    assert (found.is_whole, found.verifications_found) == (True, 1)
    assert not shop.open().made
    for session_id in (ours.answer.id, theirs):
        shop.happens("fail", session_id, "document_expired")
    assert set(post_box.told) == {ours.answer.id}
    assert {row.last_error for row in facts.event_rows(theirs)} == {"not ours"}


def test_where_no_metadata_marks_a_session_its_name_is_believed(shop: Shop, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OUR_SESSIONS", "vf_ours")
    settings.cache_clear()
    shop.open(client_reference_id="user-0")
    backup = shop.back_up()
    opened = shop.open()
    shop.put_back(backup)
    assert recover().verifications_found == 1
    assert shop.open().answer.id == opened.answer.id


def test_an_older_session_that_is_open_beside_a_later_one_ends(shop: Shop) -> None:
    first = shop.open()
    names = {"idv_id": first.verification_id, "idv_generation": "2"}
    backup = shop.back_up()
    later = shop.simulator.create(client_reference_id="user-1", metadata=names)
    shop.put_back(backup)
    assert recover().sessions_to_cancel == 1
    perform_everything()
    assert shop.open_sessions() == [later]


def test_what_a_replaced_success_was_is_no_success_again(shop: Shop) -> None:
    first = shop.open()
    backup = shop.back_up()
    shop.happens("passed", first.answer.id)
    second = shop.open(replaces=first.answer.id)
    shop.put_back(backup)
    recover()
    shown = _view(second)
    assert (shown["status"], shown["session_id"]) == ("requires_input", second.answer.id)
    assert facts.record(first.answer.id).replaced_at is not None


def test_a_mail_that_the_backup_owes_is_held_for_sent_unless_the_operator_says_otherwise(
    shop: Shop, post_box: PostBox
) -> None:
    first = shop.open()
    shop.later()
    shop.simulator.passed(first.answer.id)
    shop.apply()
    backup = shop.back_up()
    perform_everything()
    assert post_box.sent.total() == 1
    shop.put_back(backup)
    assert recover().mails_held_back == 1
    perform_everything()
    assert post_box.sent.total() == 1
    [mail] = [one for one in facts.actions(first.answer.id) if one.name == "email_verified"]
    assert facts.record(first.answer.id).told_cause == mail.cause
    shop.put_back(backup)
    assert recover(mail_again=True).mails_held_back == 0
    perform_everything()
    assert post_box.sent.total() == 2


def test_who_was_told_before_is_told_again_only_when_it_is_news_and_by_another_message(
    shop: Shop, post_box: PostBox
) -> None:
    first = shop.open()
    backup = shop.back_up()
    shop.happens("passed", first.answer.id)
    shop.put_back(backup)
    recover()
    for _ in range(2):  # a reviewer takes it back, and then approves it again
        shop.happens("override", first.answer.id)
    told = post_box.told[first.answer.id]
    assert [mail.template for mail in told] == ["email_verified", "email_retry_prompt", "email_verified"]
    assert len({mail.number for mail in told}) == 3


def _lost(shop: Shop, *happened: str) -> Opened:
    """A verification whose backup knows nothing of what happened an hour later; recover() has read it back."""
    shop.later(-7200)
    opened = shop.open()
    backup = shop.back_up()
    shop.later(3600)
    for what in happened:
        shop.happens(what, opened.answer.id)
    shop.put_back(backup)
    recover()
    return opened


def test_who_was_told_of_an_override_last_is_told_of_the_approval_after_it(shop: Shop, post_box: PostBox) -> None:
    first = _lost(shop, "submit", "passed", "override")
    shop.happens("override", first.answer.id)
    told = post_box.told[first.answer.id]
    assert [mail.template for mail in told] == ["email_verified", "email_retry_prompt", "email_verified"]
    assert len({mail.number for mail in told}) == 3


def test_who_was_told_before_is_not_told_the_same_twice_in_a_row(shop: Shop, post_box: PostBox) -> None:
    first = _lost(shop, "submit", "passed")
    for _ in range(2):  # taken back and approved again, before anybody could be told
        shop.later()
        shop.simulator.override(first.answer.id)
        shop.apply()
    perform_everything()
    assert [mail.template for mail in post_box.told[first.answer.id]] == ["email_verified"]


def test_of_two_mails_that_the_backup_owes_the_one_of_the_present_state_was_the_last(
    shop: Shop, post_box: PostBox
) -> None:
    opened = shop.open()
    shop.happens("passed", opened.answer.id)
    for _ in range(2):  # both of the mails about it wait: the second is due again, and was written down first
        shop.later()
        shop.simulator.override(opened.answer.id)
        shop.apply()
    backup = shop.back_up()
    perform_everything()
    assert [mail.template for mail in post_box.told[opened.answer.id]] == ["email_verified"], "she was told that before"
    shop.put_back(backup)
    recover()
    shop.happens("override", opened.answer.id)
    assert [mail.template for mail in post_box.told[opened.answer.id]] == ["email_verified", "email_retry_prompt"]


@pytest.mark.parametrize("is_verification", [True, False])
@pytest.mark.parametrize("is_owed", [True, False])
def test_a_reviewer_hears_once_of_a_limit_whatever_the_backup_lacks(
    shop: Shop, post_box: PostBox, is_owed: bool, is_verification: bool
) -> None:
    opened = shop.open().answer.id
    session_id = opened if is_verification else shop.simulator.create(email="jenny@example.com")
    shop.deliver()
    backup = shop.back_up()
    for _ in range(3):
        shop.later()
        shop.simulator.fail(session_id, "document_expired")
    if is_owed:
        shop.apply()
        backup = shop.back_up()
    shop.deliver()
    before = post_box.sent.copy()
    assert [key[1] for key in before].count("alert_review") == 1
    shop.put_back(backup)
    recover()
    perform_everything()
    shop.deliver()  # of its end
    shop.deliver()
    assert facts.record(session_id).status == "canceled"
    assert {key: count for key, count in post_box.sent.items() if key[1] != "email_canceled"} == before


def test_what_stripe_could_not_deliver_is_told(shop: Shop, post_box: PostBox) -> None:
    first = shop.open()
    backup = shop.back_up()
    shop.simulator.endpoint(NOWHERE, hold=True)
    shop.later()
    shop.simulator.passed(first.answer.id)
    shop.later()
    shop.put_back(backup)
    assert recover().events_undelivered > 0
    perform_everything()
    assert [mail.template for mail in post_box.told[first.answer.id]] == ["email_verified"]


def test_the_application_is_told_how_it_is_with_a_number_that_it_has_not_seen(
    shop: Shop, application: Application
) -> None:
    first = shop.open()
    backup = shop.back_up()
    shop.happens("passed", first.answer.id)
    seen = max(application.taken[first.answer.id])
    shop.put_back(backup)
    recover()
    perform_everything()
    assert application.caught[-1].event["data"]["status"] == "verified"
    assert application.taken[first.answer.id][-1] > seen
    shop.happens("override", first.answer.id)
    numbers = application.taken[first.answer.id]
    assert (numbers[-1] > numbers[-2], application.caught[-1].event["data"]["status"]) == (True, "requires_input")


@pytest.mark.parametrize("step", ["hold_back_mails", "relink", "receive", "_apply_all", "recover_events", "conclude"])
def test_it_may_be_killed_anywhere_and_run_again(
    shop: Shop, post_box: PostBox, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = shop.open()
    backup = shop.back_up()
    second = shop.open(replaces=first.answer.id)
    shop.happens("passed", second.answer.id)
    mails = post_box.sent.copy()
    shop.put_back(backup)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restored, step, die)
        with pytest.raises(KeyboardInterrupt):
            recover()
    assert open_verification(shop.wanted()) is None, "nothing is opened meanwhile"
    perform_everything()
    assert recover().is_whole
    perform_everything()
    shown = _view(second)
    assert (shown["status"], shown["generation"], post_box.sent == mails) == ("verified", 2, True)


def test_while_stripe_gives_no_answer_everything_stays_paused_and_that_is_shown(shop: Shop) -> None:
    first = shop.open()
    backup = shop.back_up()
    shop.happens("cancel", first.answer.id)
    shop.open()
    shop.put_back(backup)
    shop.simulator.fault(503, path="/v1/events", count=None)
    said = command("restored", "--json")
    shop.simulator.clear_faults()
    assert (said.code, said.json["is_whole"]) == (1, False)
    assert {one.what for one in paused()} == {"application", "mail", "openings", "stripe"}
    assert command("status").code == 1
    said = command("restored")
    assert said.code == 0, said.err
    assert list(paused()) == []


def test_an_account_that_has_left_holds_nobody_up(shop: Shop) -> None:
    first = shop.open()
    facts.applied(replace(event("verified", session_id="vs_theirs"), account="acct_gone"))
    backup = shop.back_up()
    shop.happens("passed", first.answer.id)
    shop.put_back(backup)
    shop.simulator.keys(account="acct_gone", reachable=False)
    found = recover()
    assert (found.is_whole, found.accounts_lost) == (True, ["acct_gone"])
    assert facts.record(first.answer.id).status == "verified"


def test_what_changed_before_stripes_oldest_event_is_learnt_from_its_sessions(shop: Shop, post_box: PostBox) -> None:
    first = shop.open()
    shop.simulator.passed(first.answer.id)
    then = datetime.now(UTC) - timedelta(days=40)
    with transaction() as session:
        session.connection().execute(update(VerificationRecord).values(created_at=then))
    found = recover(since=then)
    assert (found.is_whole, facts.record(first.answer.id).status) == (True, "verified")
    perform_everything()
    assert post_box.sent.total() == 0


def test_without_a_key_or_a_row_there_is_nothing_to_go_by(shop: Shop, environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(NothingHereError):
        recover()
    assert command("restored").code == 1
    environment.setenv("STRIPE_API_KEY", "")
    assert command("restored").code == 1
    assert list(paused()) == []
    assert shop.open_sessions() == []


def test_what_was_asked_to_be_forgotten_and_stripe_has_begun_stays_so(shop: Shop, database_url: str) -> None:
    first = shop.open(client_reference_id="c4nary")
    backup = shop.back_up()
    shop.happens("redact", first.answer.id)
    shop.put_back(backup)
    recover()
    assert "c4nary" not in databases.dump(database_url)
