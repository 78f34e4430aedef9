"""Links to the person's pages, as the application and an operator get them; against the local Stripe."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from config.database import database_now
from config.settings import settings
from handlers.sessions.links import link_to, read_token
from tests.integration.openings import open_one
from tests.integration.stories import Stories
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("database_url", "stripe", "keys")
HERE = "https://verify.example"


@pytest.fixture
def keys(environment: pytest.MonkeyPatch) -> Iterator[None]:
    environment.setenv("LINK_KEYS", "n" * 32)
    environment.setenv("PUBLIC_URL", HERE)
    settings.cache_clear()
    yield
    settings.cache_clear()


def _subject(url: str) -> str:
    base, _, token = url.rpartition("/")
    assert base == f"{HERE}/verify"
    return read_token(token).subject


def test_the_application_gets_a_link_over_the_verification_whatever_its_session(
    api: TestClient,
) -> None:
    opened = open_one(api).json()
    assert _subject(opened["entry"]["url"]) == opened["id"]
    for id_ in (opened["id"], opened["session_id"]):
        answer = api.post(f"/verifications/{id_}/link")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        link = answer.json()
        assert link.keys() == {"url", "expires_at"}
        assert _subject(link["url"]) == opened["id"]
        assert link["expires_at"].startswith(f"{database_now() + timedelta(days=7):%Y-%m-%dT%H}")
    entry = api.post(f"/verifications/{opened['id']}/entry", json={}).json()["entry"]
    assert _subject(entry["url"]) == opened["id"]
    replaced = open_one(api, replaces=opened["session_id"]).json()
    assert replaced["session_id"] != opened["session_id"]
    assert _subject(replaced["entry"]["url"]) == opened["id"]


def test_a_session_made_elsewhere_has_a_link_of_its_own(api: TestClient, stripe: Stories) -> None:
    session_id = stripe.simulator.create()
    assert api.post(f"/verifications/{session_id}/link").status_code == 404, "we have not heard of it"
    stripe.deliver(session_id)
    assert _subject(api.post(f"/verifications/{session_id}/link").json()["url"]) == session_id


@pytest.mark.parametrize("id_", ["idv_of_nobody", "vs_of_nobody", "vs_%00", "%ED%A0%80", "x" * 300])
def test_of_what_there_is_not_there_is_no_link(api: TestClient, id_: str) -> None:
    refused = api.post(f"/verifications/{id_}/link")
    assert (refused.status_code, refused.json()["code"]) == (404, "not-found")


def test_who_is_forgotten_has_no_link(api: TestClient, stripe: Stories) -> None:
    opened, elsewhere = open_one(api).json(), stripe.simulator.create()
    api.post(f"/verifications/{opened['id']}/redact")
    stripe.deliver(elsewhere)
    stripe.simulator.redact(elsewhere)
    stripe.deliver(elsewhere)
    for id_ in (opened["id"], elsewhere):
        refused = api.post(f"/verifications/{id_}/link")
        assert (refused.status_code, refused.json()["code"]) == (409, "redacted")


def test_where_the_settings_allow_no_link_an_entry_has_none_and_the_refusal_says_why(
    api: TestClient, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("PUBLIC_URL", "http://verify.example")
    settings.cache_clear()
    opened = open_one(api).json()
    assert opened["entry"] == {}
    refused = api.post(f"/verifications/{opened['id']}/link")
    assert (refused.status_code, refused.json()["code"]) == (409, "no-links")
    assert refused.json()["detail"].startswith("PUBLIC_URL is not https")
    said = command("link", opened["id"])
    assert (said.code, said.out) == (1, "")
    assert "PUBLIC_URL is not https" in said.err


def test_an_operator_makes_a_link(api: TestClient, stripe: Stories) -> None:
    opened, elsewhere = open_one(api).json(), stripe.simulator.create()
    stripe.deliver(elsewhere)
    for id_, subject in {opened["id"]: opened["id"], opened["session_id"]: opened["id"], elsewhere: elsewhere}.items():
        said = command("link", id_, "--json")
        assert said.code == 0, said.err
        assert _subject(said.json["url"]) == subject
        assert "expires_at" in said.json
    assert "/verify/" in command("link", elsewhere).out
    assert command("link", "idv_of_nobody").code == 1


def test_a_link_of_a_host_whose_clock_is_ahead_lets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamp is the database's time; what two processes measured may differ by seconds."""
    monkeypatch.setattr("handlers.sessions.links.true_now", lambda: database_now() + timedelta(seconds=30))
    url = link_to("idv_1").url
    monkeypatch.undo()
    assert not read_token(url.rpartition("/")[2]).is_expired
