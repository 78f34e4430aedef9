"""Verified outputs: only the named ones, only by the restricted key, only encrypted, and gone with the person."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cryptography.fernet import Fernet, InvalidToken

from config.database import transaction
from handlers.operator.audit import audited
from handlers.outbox import outputs
from handlers.stripe_api import sessions
from handlers.tables.models import ActionStatus, VerifiedOutput
from tests.integration.stories import Stories, by_name, perform_all, perform_everything
from tests.support import databases, facts
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url", "post_box")
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def _wanted(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    _want(environment, "first_name,dob", OLD)
    environment.setenv("STRIPE_RESTRICTED_KEY", stripe.simulator.restricted_key)
    databases.forget_process_state()


def _want(environment: pytest.MonkeyPatch, names: str, keys: str) -> None:
    environment.setenv("VERIFIED_OUTPUTS", names)
    environment.setenv("VERIFIED_OUTPUTS_KEY", keys)
    databases.forget_process_state()


def _verified(stripe: Stories) -> str:
    session_id = stripe.simulator.create(email="jenny@example.com")
    stripe.later().simulator.passed(session_id)
    stripe.deliver(session_id)
    return session_id


def _kept(session_id: str) -> VerifiedOutput | None:
    with transaction() as session:
        return session.get(VerifiedOutput, session_id)


def test_what_is_named_is_kept_and_nothing_else(stripe: Stories) -> None:
    session_id = _verified(stripe)
    perform_everything()
    assert outputs.read_outputs(session_id) == {"first_name": "Jenny", "dob": {"day": 1, "month": 1, "year": 1901}}


@pytest.mark.parametrize(
    "name", ["sex", "unparsed_sex", "unparsed_place_of_birth", "id_number", "address", "last_name"]
)
def test_every_output_can_be_named(stripe: Stories, environment: pytest.MonkeyPatch, name: str) -> None:
    _want(environment, name, OLD)
    session_id = stripe.simulator.create(type="id_number")
    stripe.later().simulator.passed(session_id)
    stripe.deliver(session_id)
    perform_everything()
    assert (outputs.read_outputs(session_id) or {}).keys() == {name}


def test_nothing_is_asked_for_unless_it_is_wanted(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    environment.delenv("VERIFIED_OUTPUTS")
    databases.forget_process_state()
    session_id = _verified(stripe)
    perform_everything()
    assert "keep_outputs" not in by_name(session_id)
    assert outputs.read_outputs(session_id) is None


def test_the_table_holds_no_clear_text(stripe: Stories, database_url: str) -> None:
    session_id = _verified(stripe)
    perform_everything()
    held = databases.dump(database_url)
    assert session_id in held
    assert "Jenny" not in held
    assert not re.search(r"(?<!\d)1901(?!\d)", held)  # and no microseconds that only look like it


def test_only_the_restricted_key_asks_for_them(stripe: Stories) -> None:
    """The simulator refuses sensitive outputs to a secret key, as Stripe does."""
    session_id = _verified(stripe)
    stripe.simulator.keys(key=stripe.simulator.restricted_key, permissions=["identity_product_read"])
    perform_everything()
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.PENDING]
    assert outputs.read_outputs(session_id) is None


def test_keys_rotate_without_a_loss(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    before = _verified(stripe)
    perform_everything()
    _want(environment, "first_name", f"{NEW},{OLD}")
    after = _verified(stripe)
    perform_everything()
    assert [(outputs.read_outputs(one) or {})["first_name"] for one in (before, after)] == ["Jenny", "Jenny"]
    kept = _kept(after)
    assert kept is not None
    assert Fernet(NEW).decrypt(kept.ciphertext)
    _want(environment, "first_name", NEW)
    with pytest.raises(InvalidToken):
        outputs.read_outputs(before)


def test_they_are_shown_to_who_says_why_and_that_is_written_down(stripe: Stories) -> None:
    session_id = _verified(stripe)
    perform_everything()
    assert command("outputs", session_id).code == 2
    said = command("outputs", session_id, "--reason", "asked by the court", "--json")
    assert (said.code, said.json["first_name"]) == (0, "Jenny")
    [line] = audited()
    assert (line.what, line.about, line.reason) == ("outputs", session_id, "asked by the court")
    assert command("outputs", "vs_unknown", "--reason", "test").code == 1


def test_a_key_that_is_gone_is_a_sentence(stripe: Stories) -> None:
    session_id = _verified(stripe)
    perform_everything()
    said = command("outputs", session_id, "--reason", "test", VERIFIED_OUTPUTS_KEY=NEW)
    assert said.code == 1
    assert "none of VERIFIED_OUTPUTS_KEY can read" in said.err
    assert command("outputs", session_id, "--reason", "test", VERIFIED_OUTPUTS_KEY="", VERIFIED_OUTPUTS="").code == 1
    assert audited() == []


def test_what_is_kept_is_written_anew_by_the_newest_key(
    stripe: Stories, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "_BATCH", 2)
    ids = sorted(_verified(stripe) for _ in range(3))
    perform_everything()
    fetched_at = [kept.fetched_at for kept in map(_kept, ids) if kept]
    _want(environment, "first_name,dob", f"{NEW},{OLD}")
    assert list(outputs.write_anew()) == [(ids[:2], []), (ids[2:], [])]
    assert command("reencrypt", "--json").json == {"by the newest key": 3, "unreadable": []}
    _want(environment, "first_name,dob", NEW)
    assert [(outputs.read_outputs(one) or {})["first_name"] for one in ids] == ["Jenny"] * 3
    assert [kept.fetched_at for kept in map(_kept, ids) if kept] == fetched_at
    said = command("reencrypt", VERIFIED_OUTPUTS_KEY=OLD)
    assert said.code == 1
    assert ids[0] in said.err
    assert command("reencrypt", VERIFIED_OUTPUTS_KEY="", VERIFIED_OUTPUTS="").code == 1


def test_stripe_down_makes_it_wait(stripe: Stories) -> None:
    session_id = _verified(stripe)
    stripe.simulator.fault(500, count=None, method="GET")
    perform_everything()
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.PENDING]
    stripe.simulator.clear_faults()
    perform_everything()
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.DONE]


def test_a_second_verification_replaces_what_was_kept(stripe: Stories) -> None:
    session_id = _verified(stripe)
    perform_everything()
    first = _kept(session_id)
    stripe.later().simulator.override(session_id, "requires_input")
    stripe.later().simulator.passed(session_id)
    stripe.deliver(session_id)
    perform_everything()
    second = _kept(session_id)
    assert first is not None
    assert second is not None
    assert first.ciphertext != second.ciphertext


def test_a_verification_that_was_taken_back_meanwhile_leaves_nothing(stripe: Stories) -> None:
    session_id = _verified(stripe)
    with _meanwhile(stripe, session_id, stripe.simulator.override):
        perform_all(_ids(session_id))
    assert outputs.read_outputs(session_id) is None
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.SKIPPED]


def test_a_redaction_wipes_them(stripe: Stories) -> None:
    session_id = _verified(stripe)
    perform_everything()
    assert outputs.read_outputs(session_id)
    stripe.later().simulator.redact(session_id)
    stripe.deliver(session_id)
    assert _kept(session_id) is None
    perform_everything()
    assert _kept(session_id) is None


def test_a_redaction_while_they_are_fetched_keeps_nothing(stripe: Stories) -> None:
    session_id = _verified(stripe)
    with _meanwhile(stripe, session_id, stripe.simulator.redact):
        perform_all(_ids(session_id))
    assert _kept(session_id) is None
    assert by_name(session_id)["keep_outputs"] == [ActionStatus.SKIPPED]


def _ids(session_id: str) -> list[int]:
    return [action.id or 0 for action in facts.actions(session_id) if action.name == "keep_outputs"]


@contextmanager
def _meanwhile(stripe: Stories, session_id: str, happen: Callable[[str], object]) -> Iterator[None]:
    """Between Stripe's answer and our write, lets something else happen to the session and be applied."""
    retrieve = sessions.retrieve_outputs

    def retrieve_slowly(*arguments: object) -> object:
        found = retrieve(*arguments)  # type: ignore[arg-type]
        stripe.later()
        happen(session_id)
        stripe.deliver(session_id)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "retrieve_outputs", retrieve_slowly)
        yield
