"""The doctor finds faults and says what to do; the endpoint command registers and checks."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from config import broker
from config.database import transaction
from config.settings import settings
from handlers.inbox.receive import receive
from handlers.operator.checks import CheckLine, checks, examine
from handlers.stripe_api import account
from handlers.tables.models import InboxEvent
from tests.simulator.client import Simulator
from tests.support import databases, facts
from tests.support.facts import event
from tests.support.operator import command, stripe_in_use
from tests.support.servers import Mailbox, mail_server

pytestmark = pytest.mark.usefixtures("database_url")

HERE = "https://hooks.example.com"
URL = f"{HERE}/webhooks/stripe"
SIX = ["created", "processing", "requires_input", "verified", "canceled", "redacted"]


@pytest.fixture
def simulator(_simulator: Simulator, environment: pytest.MonkeyPatch) -> Iterator[Simulator]:
    environment.setenv("PUBLIC_URL", HERE)
    with stripe_in_use(_simulator, environment) as stripe:
        yield stripe


def test_create_registers_the_six_types_by_name_and_shows_the_secret_once(simulator: Simulator) -> None:
    said = command("endpoint", "create", "--json")
    assert said.code == 0
    assert said.json["secret"].startswith("whsec_")
    [endpoint] = simulator.truth()["endpoints"]
    assert (endpoint["url"], endpoint["enabled_events"]) == (
        URL,
        [f"identity.verification_session.{kind}" for kind in SIX],
    )
    again = command("endpoint", "create")
    assert (again.code, "whsec_" in again.out + again.err) == (1, False)
    check = command("endpoint", "check")
    assert (check.code, "all six types" in check.out, "whsec_" in check.out) == (0, True, False)


def test_check_finds_that_redacted_was_forgotten(simulator: Simulator) -> None:
    simulator.endpoint(URL, enabled_events=["*"])
    said = command("endpoint", "check")
    assert said.code == 1
    assert "lacks identity.verification_session.redacted" in said.out


def test_check_finds_an_endpoint_that_is_switched_off(simulator: Simulator) -> None:
    simulator.endpoint(URL)
    simulator.change_endpoint(URL, enabled=False)
    said = command("endpoint", "check", "--json")
    assert (said.code, "disabled" in said.json[0]["faults"][0]) == (1, True)


@pytest.mark.parametrize(("version", "levels"), [("2020-08-27", {"OK", "WARN"}), (account.API_VERSION, {"OK"})])
def test_events_of_another_version_of_the_api_are_a_warning(
    simulator: Simulator, version: str, levels: set[str]
) -> None:
    simulator.endpoint(URL, api_version=version)
    assert _levels("endpoint") == levels


def test_check_finds_that_there_is_none(simulator: Simulator) -> None:
    simulator.endpoint("https://elsewhere.example.com/")
    assert command("endpoint", "check").code == 1


def test_a_key_that_is_refused_is_told_as_what_it_is(simulator: Simulator, environment: pytest.MonkeyPatch) -> None:
    simulator.keys(key=simulator.restricted_key, permissions=["identity_product_read"])
    environment.setenv("STRIPE_API_KEY", simulator.restricted_key)
    assert "permission" in command("endpoint", "check").err
    simulator.keys(key=simulator.restricted_key, revoked=True)
    assert command("endpoint", "check").err == "Stripe answered 401: it knows no such key, or it was revoked.\n"


def test_without_a_key_or_an_address_nothing_is_registered() -> None:
    assert command("endpoint", "create").code == 2


def test_the_doctor_is_content_with_a_good_set_up(simulator: Simulator, environment: pytest.MonkeyPatch) -> None:
    simulator.endpoint(URL)
    facts.all_alive()
    environment.setenv("STRIPE_WEBHOOK_SECRET", "whsec_made_up_for_tests")
    environment.setenv("MAIL_FROM", "id@example.com")
    with mail_server(Mailbox()) as port:
        environment.setenv("SMTP_URL", f"smtp://127.0.0.1:{port}")
        said = command("doctor", "--json")
    assert said.code == 0, said.out
    levels = {(line["what"], line["level"]) for line in said.json}
    assert {what for what, level in levels if level == "OK"} >= {"stripe", "endpoint", "webhook secret", "mail"}
    assert "whsec_" not in said.out
    assert "OK" in command("doctor").out


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        ({}, {"WARN"}),
        ({"LINK_KEYS": "n" * 32}, {"OK"}),
        ({"LINK_KEYS": "n" * 32, "PUBLIC_URL": ""}, {"OK", "WARN"}),
        ({"LINK_KEYS": "n" * 32, "PUBLIC_URL": "http://hooks.example.com"}, {"FAIL"}),
        ({"LINK_KEYS": "n" * 32, "STRIPE_API_KEY": ""}, {"FAIL"}),
        ({"LINK_KEYS": "n" * 32, "STRIPE_API_KEY": "sk_live_made_up_for_tests", "PUBLIC_URL": ""}, {"FAIL"}),
        ({"LINK_KEYS": "n" * 32, "STRIPE_API_KEY": "sk_live_made_up_for_tests"}, {"OK", "WARN"}),
        (
            {
                "LINK_KEYS": "n" * 32,
                "STRIPE_API_KEY": "sk_live_made_up_for_tests",
                "ALTERNATIVE_URL": "https://example.com/by-hand",
            },
            {"OK"},
        ),
    ],
)
@pytest.mark.usefixtures("simulator")
def test_links_that_cannot_be_made_or_opened_are_found(
    environment: pytest.MonkeyPatch, given: dict[str, str], levels: set[str]
) -> None:
    for name, value in given.items():
        environment.setenv(name, value)
    databases.forget_process_state()
    assert _levels("links") == levels | {"OK"}  # about links that may still be open
    assert "nnnn" not in "".join(one.words for one in _all())


def test_each_bad_setting_is_a_line_and_fails() -> None:
    said = command("doctor", "--json", STRIPE_WEBHOOK_SECRET="nonsense", PORT="0")
    assert said.code == 1
    assert [(line["level"], line["what"]) for line in said.json] == [("FAIL", "settings")] * 2


@pytest.mark.parametrize(("offset", "level"), [(0.0, "OK"), (-60.0, "WARN"), (600.0, "FAIL")])
def test_a_wrong_clock_is_found(simulator: Simulator, offset: float, level: str) -> None:
    simulator.clock(offset=offset)
    assert level in _levels("stripe")


def test_a_revoked_key_is_found(simulator: Simulator) -> None:
    simulator.keys(key=simulator.api_key, revoked=True)
    assert "FAIL" in _levels("stripe")


def test_a_restricted_key_that_may_not_read_endpoints_is_a_warning(
    simulator: Simulator, environment: pytest.MonkeyPatch
) -> None:
    simulator.keys(key=simulator.restricted_key, permissions=["identity_product_read"])
    environment.setenv("STRIPE_API_KEY", simulator.restricted_key)
    databases.forget_process_state()
    assert _levels("stripe") == {"OK"}
    assert _levels("endpoint") == {"WARN"}


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("identity_product_read", "read sessions"),
        ("event_read", "read events"),
        ("identity_product_write", "cancel sessions"),
    ],
)
def test_a_missing_permission_fails_and_is_named(
    simulator: Simulator, environment: pytest.MonkeyPatch, missing: str, words: str
) -> None:
    needed = {"identity_product_read", "event_read", "identity_product_write"}
    environment.setenv("STRIPE_API_KEY", simulator.restricted_key)
    databases.forget_process_state()
    simulator.keys(key=simulator.restricted_key, permissions=[*needed])
    assert _levels("permissions") == {"OK"}
    simulator.keys(key=simulator.restricted_key, permissions=[*needed - {missing}])
    [failed] = [one.words for one in _all() if (one.what, one.level) == ("permissions", "FAIL")]
    assert words in failed
    assert f"rak_{missing}" in failed


@pytest.mark.parametrize(
    ("permissions", "level"),
    [
        (["identity_product_read", "identity_verification_results_sensitive_read"], "OK"),
        (["identity_product_read"], "FAIL"),
        ([], "FAIL"),
    ],
    ids=["all", "not the sensitive ones", "none"],
)
def test_the_restricted_key_is_tried_with_the_outputs_that_are_kept(
    simulator: Simulator, environment: pytest.MonkeyPatch, permissions: list[str], level: str
) -> None:
    environment.setenv("VERIFIED_OUTPUTS", "first_name,dob")
    environment.setenv("VERIFIED_OUTPUTS_KEY", "A" * 43 + "=")
    environment.setenv("STRIPE_RESTRICTED_KEY", simulator.restricted_key)
    databases.forget_process_state()
    simulator.keys(key=simulator.restricted_key, permissions=permissions)
    assert _levels("permissions") == {"OK", "WARN" if level == "OK" else level}  # nobody is verified yet
    simulator.run(1, "passes")
    assert _levels("permissions") == {"OK", level}
    environment.setenv("STRIPE_RESTRICTED_KEY", simulator.restricted_key.replace("test", "live"))
    databases.forget_process_state()
    assert _levels("permissions") == {"OK", "FAIL"}


def test_an_edge_that_refuses_everything_fails(simulator: Simulator) -> None:
    simulator.fault(403, count=None)
    assert _levels("permissions") == {"FAIL"}


def test_a_missing_endpoint_fails(simulator: Simulator) -> None:
    assert simulator
    assert _levels("endpoint") == {"FAIL"}


def test_missing_migrations_are_found() -> None:
    with transaction() as session:
        session.connection().execute(text("DELETE FROM identity_schema_version"))
    assert "FAIL" in _levels("database")


def test_a_database_url_that_cannot_be_followed_is_said(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://u:p@h/d?channel_binding=require")
    databases.forget_process_state()
    assert [finding.words for finding in _all() if "channel_binding" in finding.words] != []


def test_an_event_that_waits_too_long_is_found() -> None:
    receive([event("created")])
    assert _levels("events") == {"OK"}
    with transaction() as session:
        session.connection().execute(update(InboxEvent).values(received_at=datetime.now(UTC) - timedelta(hours=1)))
    assert _levels("events") == {"FAIL"}


def test_a_missing_webhook_secret_fails(environment: pytest.MonkeyPatch, database_url: str) -> None:
    assert settings().database_url.get_secret_value() == database_url
    assert "FAIL" not in _levels("settings")
    environment.delenv("STRIPE_WEBHOOK_SECRET")
    settings.cache_clear()
    assert "FAIL" in _levels("settings")
    environment.setenv("STRIPE_WEBHOOK_SECRET", "whsec_made_up_for_tests")
    databases.forget_process_state()
    assert _levels("webhook secret") == {"OK"}


def test_an_unreachable_mail_server_fails(environment: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment.setenv("SMTP_URL", f"smtp://127.0.0.1:{free.getsockname()[1]}")
        databases.forget_process_state()
        assert _levels("mail") == {"FAIL"}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("tests.support.lookups:everybody", "OK"),
        ("tests.support.lookups:missing", "FAIL"),
        ("no.such.module:lookup", "FAIL"),
        ("tests.support.ending:lookup", "FAIL"),
        ("", "WARN"),
    ],
)
def test_the_address_lookup_must_be_there(environment: pytest.MonkeyPatch, name: str, level: str) -> None:
    if name:
        environment.setenv("EMAIL_LOOKUP", name)
    databases.forget_process_state()
    assert _levels("addresses") == {level}


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"maxmemory_policy": "noeviction", "maxmemory": 100, "aof_enabled": 1}, {"OK"}),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 100, "aof_enabled": 0}, {"WARN", "OK"}),
        ({}, {"WARN"}),
    ],
)
def test_redis_is_judged_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, object], level: set[str]
) -> None:
    monkeypatch.setattr("config.broker.server_info", lambda: info)
    monkeypatch.setattr("config.broker.trouble", lambda: None if info else "it cannot be reached")
    assert _levels("redis") == level


def _levels(what: str) -> set[str]:
    """The levels of one check's lines alone; the command's own test sees that it makes all checks."""
    asked = {name: check for name, check in checks(broker.condition).items() if name == what}
    return {line.level for line in examine(asked) if line.what == what}


def _all() -> list[CheckLine]:
    return list(examine(checks(broker.condition)))
