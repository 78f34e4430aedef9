"""Mishaps while verifications are opened, entered and ended: still one session, and everything gets done."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col
from starlette.testclient import TestClient

from config import database
from config.database import now, transaction
from config.settings import SettingsError, settings
from handlers.outbox import perform as performing
from handlers.outbox.perform import perform
from handlers.sessions import opening, writing
from handlers.sessions.opening import open_verification
from handlers.stripe_api import changing, client
from handlers.tables.models import Verification
from tests.integration.openings import CREATING, LEAST, TOKEN, at_stripe, open_one, wanted
from tests.integration.stories import Stories, perform_everything
from tests.property.outside import PostBox
from tests.simulator.client import Simulator, SimulatorError
from tests.support import databases, facts
from tests.support.processes import service
from tests.support.service import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database_url", "stripe")
DAY_AND_MORE = 30 * 3600  # Stripe forgets idempotency keys after 24 hours


class _DiedError(BaseException):
    """The end of a process: nothing of it goes on, and nobody gives its lease back."""


def _only_session(stripe: Stories) -> str:
    [session] = at_stripe(stripe)
    return str(session["id"])


# A client, and other openers


def test_a_double_click_opens_one_session(api: TestClient, stripe: Stories) -> None:
    answers: list[Any] = []
    clicks = [threading.Thread(target=lambda: answers.append(open_one(api))) for _ in range(2)]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert {answer.json()["session_id"] for answer in answers} == {_only_session(stripe)}


@pytest.mark.processes
def test_a_client_that_went_away_and_retries_gets_the_session_that_was_being_made(
    stripe: Stories, tmp_path: Path, database_url: str
) -> None:
    known = {"API_TOKENS": f"shop:{TOKEN}", "STRIPE_API_BASE": stripe.simulator.base}
    stripe.simulator.fault(delay=0.5, **CREATING)
    with service(tmp_path, database_url, STRIPE_API_KEY=stripe.simulator.api_key, **known) as made:
        made.start("web")
        first = http.client.HTTPConnection("127.0.0.1", made.port)
        first.request("POST", "/verifications", *_asking())
        wait_until(lambda: stripe.simulator.faults()[0]["hits"] == 1, made.logs)
        first.close()
        second = http.client.HTTPConnection("127.0.0.1", made.port, timeout=30)
        second.request("POST", "/verifications", *_asking())
        answer = second.getresponse()
        assert (answer.status, json.load(answer)["session_id"]) == (200, _only_session(stripe))
        second.close()


def _asking() -> tuple[str, dict[str, str]]:
    return json.dumps(LEAST), {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


# Death


@pytest.mark.parametrize("later", [0, DAY_AND_MORE])
@pytest.mark.parametrize("when", ["before the creation", "between creation and commit", "after the commit"])
def test_death_at_any_moment_leads_to_one_session_and_its_record(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch, when: str, later: int
) -> None:
    with environment.context() as patch:
        _die(patch, when)
        patch.setattr(opening, "give_back", lambda _: None)
        with pytest.raises(_DiedError):
            open_verification(wanted())
    assert len(at_stripe(stripe)) == (0 if when == "before the creation" else 1)
    stripe.simulator.clock(offset=later)
    _end_leases()
    opened = open_one(api).json()
    assert opened["session_id"] == _only_session(stripe)
    assert facts.record(opened["session_id"]).status == "requires_input"
    assert opened["generation"] == 1


def _die(patch: pytest.MonkeyPatch, when: str) -> None:
    def die(*_: object, **__: object) -> None:
        raise _DiedError

    if when == "before the creation":
        patch.setattr(changing, "create", die)
    elif when == "between creation and commit":
        patch.setattr(opening, "write", die)
    else:
        patch.setattr(opening, "apply_observed", die)


def _end_leases() -> None:
    with transaction() as session:
        session.connection().execute(
            update(Verification).where(col(Verification.opening_until).is_not(None)).values(opening_until=now())
        )


def test_while_the_lease_of_a_dead_process_lasts_others_are_told_to_come_again(
    api: TestClient, environment: pytest.MonkeyPatch
) -> None:
    with environment.context() as patch:
        _die(patch, "between creation and commit")
        patch.setattr(opening, "give_back", lambda _: None)
        with pytest.raises(_DiedError):
            open_verification(wanted())
    environment.setattr("receiver.api.routes._WAITS_SECONDS", 0.1)
    refused = open_one(api)
    assert (refused.status_code, refused.json()["code"]) == (503, "opening")
    assert int(refused.headers["retry-after"]) > 0


# Stripe's answer to a creation


def test_stripe_creates_and_then_answers_500(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.fault(500, after=True, **CREATING)
    assert open_one(api).status_code == 503
    assert open_one(api).json()["session_id"] == _only_session(stripe)


@pytest.mark.parametrize("fault", [{"nonsense": "nothing"}, {"nonsense": "half"}, {"hang": True, "after": True}])
def test_stripe_creates_and_then_answers_nothing(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    stripe.simulator.fault(**fault, **CREATING)
    with _waiting_for_stripe(environment, 1.0):
        assert open_one(api).json()["code"] == "stripe-unavailable"
    assert open_one(api).json()["session_id"] == _only_session(stripe)


@contextmanager
def _waiting_for_stripe(environment: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    with environment.context() as patch:
        patch.setattr(client, "_TOTAL_SECONDS", seconds)
        client.client.cache_clear()
        yield
    client.client.cache_clear()


@pytest.mark.parametrize("later", [0, DAY_AND_MORE])
def test_parameters_changed_between_two_tries_under_one_key_change_the_session_that_was_made(
    api: TestClient, stripe: Stories, later: int
) -> None:
    stripe.simulator.fault(500, after=True, **CREATING)
    assert open_one(api, metadata={"a": "1"}).status_code == 503
    stripe.simulator.clock(offset=later)
    changed = open_one(api, type="id_number", metadata={"b": "2"})
    assert changed.json()["session_id"] == _only_session(stripe)
    [session] = at_stripe(stripe)
    ours = {"idv_id": changed.json()["id"], "idv_generation": "1"}
    assert (session["type"], session["metadata"]) == ("id_number", {"b": "2", **ours})


def test_parameters_changed_between_two_tries_under_a_key_that_made_nothing_burn_the_generation(
    api: TestClient, stripe: Stories
) -> None:
    stripe.simulator.fault(500, saved=True, **CREATING)
    assert open_one(api).status_code == 503
    changed = open_one(api, type="id_number")
    assert (changed.status_code, changed.json()["generation"]) == (201, 2)
    assert changed.json()["session_id"] == _only_session(stripe)


# Webhooks


def test_created_comes_before_our_commit(api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch) -> None:
    def write_late(*given: Any, **more: Any) -> Any:
        stripe.deliver(_only_session(stripe))
        return writing.write(*given, **more)

    environment.setattr(opening, "write", write_late)
    opened = open_one(api)
    assert (opened.status_code, opened.json()["status"]) == (201, "requires_input")
    record = facts.record(opened.json()["session_id"])
    assert (record.verification_id, record.generation, record.status) == (opened.json()["id"], 1, "requires_input")
    assert facts.count_records() == 1


def test_created_never_comes(api: TestClient) -> None:
    opened = open_one(api).json()
    record = facts.record(opened["session_id"])
    assert (record.verification_id, record.generation, record.status) == (opened["id"], 1, "requires_input")
    assert api.get(f"/verifications/{opened['session_id']}").json()["id"] == opened["id"]


def test_the_webhook_is_late_while_stripe_says_verified(post_box: PostBox, api: TestClient, stripe: Stories) -> None:
    session_id = open_one(api).json()["session_id"]
    stripe.later().simulator.passed(session_id)
    resumed = open_one(api)
    assert (resumed.status_code, resumed.json()["status"], "entry" in resumed.json()) == (200, "verified", False)
    perform_everything()
    stripe.deliver(session_id)
    perform_everything()
    assert api.get(f"/verifications/{session_id}").json()["status"] == "verified"
    assert [mail.template for mail in post_box.told[session_id]] == ["email_verified"]


# Secrets


@pytest.mark.parametrize("why", ["used", "expired"])
def test_a_secret_that_is_used_or_expired_is_fetched_afresh(api: TestClient, stripe: Stories, why: str) -> None:
    opened = open_one(api, integration="modal").json()
    old = opened["entry"]["client_secret"]
    if why == "used":
        stripe.simulator.enter(old)
    else:
        stripe.simulator.clock(offset=25 * 3600)
    with pytest.raises(SimulatorError):
        stripe.simulator.enter(old)
    for again in (
        open_one(api, integration="modal"),
        api.post(f"/verifications/{opened['id']}/entry", json={"integration": "modal"}),
    ):
        fresh = again.json()["entry"]["client_secret"]
        assert fresh != old
        assert stripe.simulator.enter(fresh)
    assert _only_session(stripe) == opened["session_id"]


# Redaction


def test_a_redaction_that_is_asked_for_survives_a_crash_before_and_after_stripe_has_it(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = open_one(api).json()
    assert api.post(f"/verifications/{opened['id']}/redact").status_code == 202
    [owed] = facts.due_actions()
    for module, name in ((changing, "redact_at_stripe"), (performing, "end_actions")):
        with environment.context() as patch:
            patch.setattr(module, name, _dying)
            with pytest.raises(_DiedError):
                perform(owed)
        facts.end_all_leases()
    assert stripe.simulator.session(opened["session_id"])["redaction"] is not None
    perform(owed)
    assert facts.action(owed).status == "done"


def _dying(*_: object, **__: object) -> None:
    raise _DiedError


@pytest.mark.parametrize("by", ["id", "reference"])
def test_a_redacted_persons_reference_opened_again_is_a_new_verification_that_shows_nothing_of_the_old_one(
    api: TestClient, stripe: Stories, by: str
) -> None:
    old = open_one(api, metadata={"plan": "gold"}).json()
    stripe.simulator.fail(old["session_id"], "document_expired")
    open_one(api)
    api.post(f"/verifications/{old['id']}/redact")
    anew = open_one(api)
    assert (anew.status_code, anew.json()["generation"], anew.json()["submissions"]) == (201, 1, 0)
    assert anew.json()["id"] != old["id"]
    assert [one["session_id"] for one in anew.json()["sessions"]] == [anew.json()["session_id"]]
    if by == "reference":
        listed = api.get("/verifications", params={"client_reference_id": "user-1"}).json()["data"]
        assert [one["id"] for one in listed] == [anew.json()["id"]]
    else:
        shown = api.get(f"/verifications/{old['id']}")
        assert shown.json()["client_reference_id"] is None
        assert "user-1" not in shown.text
        assert anew.json()["id"] not in shown.text


# The servers that we need


@pytest.mark.parametrize("how", ["down", "slow", "429", "500"])
def test_while_stripe_is_down_slow_or_wants_quiet_the_application_is_told_to_come_again(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch, how: str
) -> None:
    with environment.context() as patch, _waiting_for_stripe(patch, 1.0):
        if how == "down":
            patch.setenv("STRIPE_API_BASE", f"http://127.0.0.1:{free_port()}")
            settings.cache_clear()
        elif how == "slow":
            stripe.simulator.fault(hang=True)
        else:
            stripe.simulator.fault(int(how))
        refused = open_one(api)
        assert (refused.status_code, refused.json()["code"]) == (503, "stripe-unavailable")
        assert int(refused.headers["retry-after"]) > 0
    settings.cache_clear()
    stripe.simulator.clear_faults()
    # The key is in use until Stripe notices that nobody waits for the hanging call.
    wait_until(lambda: open_one(api).status_code in (200, 201), lambda: "no session")
    assert len(at_stripe(stripe)) == 1


def test_a_stripe_that_is_only_slow_is_waited_for(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.fault(delay=0.3, **CREATING)
    assert open_one(api).status_code == 201


@pytest.fixture
def impatient(environment: pytest.MonkeyPatch) -> None:
    """On SQLite this process waits for another writer a moment only; named before `api`, whose engine is kept."""
    environment.setattr(database, "_SQLITE_BUSY_SECONDS", 0.5)
    databases.forget_process_state()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["POST /verifications", "GET /verifications", "GET /verifications/idv_1"])
def test_while_the_database_is_away_the_application_is_told_to_come_again(
    api: TestClient, stripe: Stories, database_url: str, path: str
) -> None:
    method, _, path = path.partition(" ")
    with databases.down(database_url):
        refused = api.request(method, path, json=LEAST if method == "POST" else None)
    assert (refused.status_code, refused.json()["code"]) == (503, "database-unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert at_stripe(stripe) == []
    assert open_one(api).status_code == 201


@pytest.mark.usefixtures("impatient")
def test_the_database_goes_away_between_creation_and_commit(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch, database_url: str
) -> None:
    create = changing.create
    outage = databases.down(database_url)

    def create_last(*given: Any) -> Any:
        answer = create(*given)
        outage.__enter__()
        return answer

    with environment.context() as patch:
        patch.setattr(changing, "create", create_last)
        assert open_one(api).json()["code"] == "database-unavailable"
    outage.__exit__(None, None, None)
    _end_leases()
    assert open_one(api).json()["session_id"] == _only_session(stripe)


# The parameters that are sent


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_a_wrong_content_type_is_refused(api: TestClient, content_type: str) -> None:
    refused = api.post("/verifications", content=json.dumps(LEAST), headers={"Content-Type": content_type})
    assert (refused.status_code, refused.json()["code"]) == (415, "not-json")


def test_a_huge_body_is_refused(api: TestClient) -> None:
    body = json.dumps({**LEAST, "purpose": "x" * 100_000})
    refused = api.post("/verifications", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (413, "too-large")


def test_a_host_that_somebody_injects_is_named_nowhere(api: TestClient, stripe: Stories) -> None:
    injected = dict.fromkeys(("Host", "X-Forwarded-Host", "X-Original-Host"), "evil.example")
    for method, path, body in (
        ("POST", "/verifications", {**LEAST, "return_url": "https://app.example/done", "integration": "redirect"}),
        ("GET", "/verifications", None),
        ("GET", "/openapi.json", None),
        ("POST", "/verifications", {}),
    ):
        answer = api.request(method, path, json=body, headers={**injected, "Forwarded": "host=evil.example"})
        assert answer.status_code in (201, 200, 422)
        assert "evil" not in answer.text + repr(answer.headers)
    assert "evil" not in repr(at_stripe(stripe))


# Keys


def test_a_test_key_does_not_go_with_a_live_publishable_key(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STRIPE_API_KEY", Simulator.api_key)
    environment.setenv("STRIPE_PUBLISHABLE_KEY", "pk_live_0123456789")
    settings.cache_clear()
    with pytest.raises(SettingsError, match="STRIPE_PUBLISHABLE_KEY"):
        settings()


@pytest.mark.parametrize(
    ("key", "change"),
    [(Simulator.api_key, {"revoked": True}), (Simulator.restricted_key, {"permissions": []})],
    ids=["revoked", "restricted"],
)
def test_a_revoked_or_restricted_key_is_said_to_be_refused(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch, key: str, change: dict[str, Any]
) -> None:
    environment.setenv("STRIPE_API_KEY", key)
    settings.cache_clear()
    stripe.simulator.keys(key=key, **change)
    refused = open_one(api)
    assert (refused.status_code, refused.json()["code"]) == (502, "stripe-refused")
    assert key not in refused.text
    stripe.simulator.keys(key=key, revoked=False, permissions=None)
    assert open_one(api).status_code == 201
