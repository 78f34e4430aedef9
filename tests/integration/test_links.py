"""Links to the person's pages, as the application and an operator get them; against the local Stripe."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default

import pytest
from sqlalchemy import update
from sqlmodel import col
from starlette.testclient import TestClient

from config.database import database_now, now, transaction
from config.settings import settings
from handlers.outbox.perform import perform
from handlers.sessions.asking import ask_for_link
from handlers.sessions.links import link_to, read_token
from handlers.sessions.reminders import remind
from handlers.tables.models import OutboxAction, VerificationRecord
from tests.integration.openings import open_one
from tests.integration.stories import Stories, by_name, perform_everything
from tests.support import facts, faketime
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
    assert "/verify/" in command("link", elsewhere, "--reason", "no mail").out
    [made, *_] = command("audit", elsewhere, "--json").json
    assert (made["what"], made["about"], made["reason"]) == ("link", elsewhere, "no mail")
    assert command("link", "idv_of_nobody").code == 1
    assert command("link", elsewhere, LINK_KEYS="o" * 32).code == 0
    findings = command("status", "--json").json["findings"]
    [gone] = [one["words"] for one in findings if one["what"] == "links"]
    assert gone.startswith("links that were sent until")


@faketime.needed
@faketime.on_postgres
@pytest.mark.parametrize("ahead", [-86400.0, 86400.0])
def test_a_link_that_is_made_on_a_host_whose_clock_is_wrong_is_one_of_now(api: TestClient, ahead: float) -> None:
    said = command("link", open_one(api).json()["id"], "--json", **faketime.host(ahead))
    assert not read_token(said.json["url"].rpartition("/")[2]).is_expired
    assert said.json["expires_at"].startswith(f"{database_now() + timedelta(days=7):%Y-%m-%dT%H}")


def test_a_link_of_a_host_whose_clock_is_ahead_lets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamp is the database's time; the measurements of two processes may differ by seconds."""
    monkeypatch.setattr("handlers.sessions.links.true_now", lambda: database_now() + timedelta(seconds=30))
    url = link_to("idv_1").url
    monkeypatch.undo()
    assert not read_token(url.rpartition("/")[2]).is_expired


def _failed(stripe: Stories, session_id: str, code: str) -> None:
    """Fails a session; the event is applied, and its actions are performed."""
    stripe.simulator.submit(session_id)
    stripe.simulator.fail(session_id, code)
    stripe.deliver(session_id)
    perform_everything()


def _mails() -> list[EmailMessage]:
    """The sent mails, in their order."""
    sent = sorted((settings().var_dir / "mail").glob("*.eml"), key=lambda path: path.stat().st_mtime_ns)
    return [BytesParser(EmailMessage, policy=default).parsebytes(path.read_bytes()) for path in sent]


def _led_to(mail: EmailMessage) -> str | None:
    """The subject of a mail's link, which is the same in both parts."""
    found = {_subject(url) for url in re.findall(r"https://verify\.example/verify/[\w.-]+", _said(mail))}
    assert len(found) <= 1
    return next(iter(found), None)


def _said(mail: EmailMessage) -> str:
    return "".join(part.get_content() for part in mail.iter_parts() if isinstance(part, EmailMessage))


@pytest.mark.parametrize(
    ("code", "where"),
    [
        ("document_expired", "leads to verify.example"),
        ("consent_declined", "open your identity verification on verify.example"),
    ],
)
def test_a_mail_about_a_failure_leads_to_the_verification(
    api: TestClient, stripe: Stories, code: str, where: str
) -> None:
    opened = open_one(api, provided_details={"email": "jenny@example.com"}).json()
    _failed(stripe, opened["session_id"], code)
    [mail] = _mails()
    assert _led_to(mail) == opened["id"]
    assert where in _said(mail)


def test_a_reminder_leads_to_the_verification(api: TestClient, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REMINDER_HOURS", "1")
    settings.cache_clear()
    opened = open_one(api, provided_details={"email": "jenny@example.com"}).json()
    with transaction() as session:
        session.get_one(VerificationRecord, opened["session_id"]).remind_at = datetime.now(UTC)
    remind()
    perform_everything()
    [mail] = _mails()
    assert _led_to(mail) == opened["id"]


def test_of_a_session_made_elsewhere_it_leads_to_the_session(stripe: Stories) -> None:
    session_id = stripe.simulator.create(email="jenny@example.com")
    _failed(stripe, session_id, "document_expired")
    assert _led_to(_mails()[0]) == session_id


def test_retry_url_wins_where_the_person_is_to_try_again(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETRY_URL", "https://app.example/{session_id}")
    settings.cache_clear()
    prompted = stripe.simulator.create(email="jenny@example.com")
    _failed(stripe, prompted, "document_expired")
    other = stripe.simulator.create(email="jenny@example.com")
    _failed(stripe, other, "consent_declined")
    prompt, alternative = _mails()
    assert (_led_to(prompt), _led_to(alternative)) == (None, other)
    assert f"https://app.example/{prompted}" in _said(prompt)


def test_where_there_are_no_links_mails_have_none(stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LINK_KEYS", "")
    settings.cache_clear()
    session_id = stripe.simulator.create(email="jenny@example.com")
    _failed(stripe, session_id, "document_expired")
    [owed] = ask_for_link(session_id)
    perform(owed)
    assert (facts.action(owed).status, facts.action(owed).reason) == ("skipped", "no links are made")
    assert ["/verify/" in _said(mail) for mail in _mails()] == [False]


def test_who_asks_for_a_new_link_gets_one_an_hour_and_it_is_no_last_word(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api, provided_details={"email": "jenny@example.com"}, locale="de").json()
    _failed(stripe, opened["session_id"], "document_expired")
    before = facts.record(opened["session_id"])
    [owed] = ask_for_link(opened["id"])
    perform(owed)
    mail = _mails()[-1]
    assert (mail["To"], mail["Subject"]) == ("jenny@example.com", "Der Link zu Ihrer Identitätsprüfung")
    assert _led_to(mail) == opened["id"]
    after = facts.record(opened["session_id"])
    assert (after.told_cause, after.told_count) == (before.told_cause, before.told_count)
    _a_while_passes(minutes=59)
    assert ask_for_link(opened["id"]) == ask_for_link(opened["session_id"]) == []
    _a_while_passes()
    [again] = ask_for_link(opened["id"])
    perform(again)
    assert by_name(opened["session_id"])["email_link"] == ["done", "done"]


def test_of_many_who_ask_at_once_one_is_heard(api: TestClient) -> None:
    id_ = open_one(api).json()["id"]
    owed: list[int] = []
    threads = [threading.Thread(target=lambda: owed.extend(ask_for_link(id_))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owed) == 1


def test_a_new_link_is_sent_to_who_has_the_current_session(api: TestClient) -> None:
    opened = open_one(api).json()
    replaced = open_one(api, replaces=opened["session_id"]).json()
    [owed] = ask_for_link(opened["id"])
    assert facts.action(owed).session_id == replaced["session_id"]
    _a_while_passes()
    [owed] = ask_for_link(opened["session_id"])
    assert facts.action(owed).session_id == replaced["session_id"]


def test_who_is_forgotten_or_was_never_there_is_sent_no_link(api: TestClient, stripe: Stories) -> None:
    opened, elsewhere = open_one(api).json(), stripe.simulator.create()
    stripe.deliver(elsewhere)
    [owed] = ask_for_link(opened["id"])
    api.post(f"/verifications/{opened['id']}/redact")
    assert (facts.action(owed).status, facts.action(owed).reason) == ("skipped", "redacted")
    _a_while_passes()
    stripe.simulator.redact(elsewhere)
    stripe.deliver(elsewhere)
    for subject in (opened["id"], opened["session_id"], elsewhere, "idv_of_nobody", "vs_of_nobody"):
        assert ask_for_link(subject) == []


def test_without_an_address_nothing_is_sent(stripe: Stories) -> None:
    session_id = stripe.simulator.create()
    stripe.deliver(session_id)
    [owed] = ask_for_link(session_id)
    perform(owed)
    assert (facts.action(owed).status, facts.action(owed).reason) == ("skipped", "no address")
    assert _mails() == []


def _a_while_passes(minutes: int = 60) -> None:
    since = now(-timedelta(minutes=minutes))
    with transaction() as session:
        ago = update(OutboxAction).values(created_at=since, cause=col(OutboxAction.cause) + "-")
        session.connection().execute(ago)
