"""The export of a person's data, for their request."""

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from starlette.testclient import TestClient

from config.settings import settings
from handlers.inbox.receive import receive
from handlers.operator.audit import audited
from handlers.queue.failures import NotAllowedError
from handlers.tables.models import InboxEvent
from handlers.upkeep import unanswered
from tests.integration.openings import open_one
from tests.integration.stories import Stories, perform_everything
from tests.support.facts import NOON, applied, event
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url", "post_box")


def _exported(word: str) -> Any:
    said = command("export", word, "--reason", "her request")
    assert said.code == 0, said.err
    return said.json


def test_every_table_that_knows_sessions_is_in_it(
    stripe: Stories, api: TestClient, environment: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("VERIFIED_OUTPUTS", "first_name"),
        ("VERIFIED_OUTPUTS_KEY", Fernet.generate_key().decode()),
        ("STRIPE_RESTRICTED_KEY", stripe.simulator.restricted_key),
    ):
        environment.setenv(name, value)
    settings.cache_clear()
    made = open_one(api).json()
    stripe.later().simulator.passed(made["session_id"])
    stripe.deliver(made["session_id"])
    perform_everything()
    command("redact", "idv_unknown")
    command("cancel", made["id"])
    unanswered.add_failure("session", made["session_id"], NotAllowedError("it may not"))
    found = _exported("user-1")
    tables = {name for name, table in InboxEvent.metadata.tables.items() if "session_id" in table.columns}
    assert found.keys() == {*tables, "verification", "identity_unanswered", "identity_audit"}
    assert [name for name, rows in found.items() if not rows] == []
    assert found["verification"][0]["client_reference_id"] == "user-1"
    assert found["verified_output"][0]["outputs"] == {"first_name": "Jenny"}
    assert "ciphertext" not in found["verified_output"][0]
    for word in (made["id"], made["session_id"]):
        assert _exported(word)["verification_record"] == found["verification_record"]


@pytest.mark.parametrize("word", ["vs_a", "u1", "order-1"])
def test_who_is_known_by_an_event_alone_is_found(word: str) -> None:
    hers = event("verified", session_id="vs_a", user="u1", reference="order-1")
    receive([hers, event("verified", session_id="vs_b", user="u2")])
    found = _exported(word)
    assert [row["id"] for row in found["inbox_event"]] == [hers.id]
    assert "vs_b" not in json.dumps(found)


def test_who_is_known_by_a_question_to_stripe_alone_is_found() -> None:
    unanswered.add_failure("session", "vs_a", NotAllowedError("it may not"))
    unanswered.add_failure("sessions", "acct_1", NotAllowedError("it may not"))
    assert [row["name"] for row in _exported("vs_a")["identity_unanswered"]] == ["vs_a"]
    assert command("export", "acct_1").code == 1


def test_nobody_else_is_in_it_and_it_is_written_down() -> None:
    applied(event("verified", session_id="vs_a", user="u1"), event("verified", NOON + 1, session_id="vs_b", user="u2"))
    found = _exported("u1")
    assert "vs_b" not in json.dumps(found)
    assert [row["id"] for row in found["inbox_event"]] == [event("verified", session_id="vs_a").id]
    [line] = audited()
    assert (line.what, line.about, line.reason) == ("export", "vs_a", "her request")
    assert line.who not in json.dumps(found)


def test_of_nobody_there_is_nothing() -> None:
    assert command("export", "nobody").code == 1
    assert audited() == []
