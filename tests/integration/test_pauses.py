"""Paused actions wait and are shown; none is lost."""

import pytest

from config.database import transaction
from handlers.operator.audit import audited
from handlers.outbox.perform import perform
from handlers.queue.pauses import pause, paused, resume
from handlers.sessions.turn import Wanted, take_turn
from handlers.upkeep.restored import BACKUP_REASON
from tests.support import facts
from tests.support.facts import event
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url")


def _pause(*what: str, reason: str = "for a test") -> None:
    with transaction() as session:
        pause(session, what, reason)


def _resume(reason: str = "for a test") -> None:
    with transaction() as session:
        resume(session, reason)


def test_what_is_paused_is_neither_claimed_nor_handed_out_and_goes_on_afterwards() -> None:
    [mail] = facts.applied(event("verified"))
    _pause("mail")
    perform(mail)
    assert (facts.action(mail).attempts, facts.due_actions()) == (0, [])
    _resume()
    assert facts.due_actions() == [mail]
    perform(mail)
    assert facts.action(mail).status != "pending"


def test_another_destination_goes_on() -> None:
    [mail] = facts.applied(event("verified"))
    _pause("application", "stripe")
    assert facts.due_actions() == [mail]


def test_each_reason_is_lifted_by_itself() -> None:
    [mail] = facts.applied(event("verified"))
    _pause("mail")
    _pause("mail", reason="another")
    _pause("mail")
    _resume()
    assert facts.due_actions() == []
    _resume("another")
    assert facts.due_actions() == [mail]


def test_nothing_is_opened_while_openings_are_paused() -> None:
    wanted = Wanted(client_reference_id="user-1", purpose="", account="", livemode=False, params={})
    _pause("openings")
    assert take_turn(wanted) is None
    _resume()
    assert take_turn(wanted)


def test_a_pause_is_a_finding() -> None:
    _pause("mail")
    said = command("status", "--json")
    assert (said.code, [(one["what"], one["reason"]) for one in said.json["paused"]]) == (1, [("mail", "for a test")])
    assert "for a test" in command("status").out
    assert ("FAIL", "paused") in {(line["level"], line["what"]) for line in command("doctor", "--json").json}


def test_an_operator_pauses_mails_and_lets_them_go_on() -> None:
    [mail] = facts.applied(event("verified"))
    assert command("pause", "mails").code == 2, "it says why"
    said = command("pause", "mails", "--reason", "the server moves", "--json")
    assert (said.code, said.json["paused"][0]["reason"]) == (0, "operator: the server moves")
    command("pause", "mails", "--reason", "the server moves")
    perform(mail)
    assert (facts.action(mail).attempts, facts.due_actions()) == (0, [])
    assert "the server moves" in command("doctor").out
    assert command("resume", "calls").code == 1
    assert command("resume", "mails").code == 0
    assert facts.due_actions() == [mail]
    assert [(one.what, one.about, one.reason) for one in audited()] == [
        ("resume", "mails", None),
        ("pause", "mails", "the server moves"),
        ("pause", "mails", "the server moves"),
    ]


def test_an_operator_does_not_lift_what_a_backup_pauses() -> None:
    _pause("mail", reason=BACKUP_REASON)
    command("pause", "mails", "--reason", BACKUP_REASON)
    command("resume", "mails")
    assert [one.reason for one in paused()] == [BACKUP_REASON]
