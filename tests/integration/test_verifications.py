"""The application's half over HTTP: one session, whatever happens; against the local Stripe."""

import http.client
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from sqlalchemy import select, update
from sqlmodel import col
from starlette.testclient import TestClient

from config.database import now, transaction
from config.settings import settings
from handlers.outbox.perform import perform
from handlers.sessions import ending
from handlers.sessions.opening import use_turn
from handlers.sessions.refusals import OpeningError
from handlers.sessions.turn import OPENING_LEASE, take_turn
from handlers.sessions.views import PageQuery, listed, verification
from handlers.stripe_api import changing
from handlers.stripe_api.sessions import cancel_at_stripe
from handlers.tables.models import Verification
from receiver.app import app
from tests.integration.openings import CREATING, LEAST, TOKEN, at_stripe, open_one, wanted
from tests.integration.stories import Stories, by_name, perform_everything
from tests.property.outside import Application
from tests.simulator.nonsense import KINDS
from tests.support import databases, facts
from worker.__main__ import parser

DOCUMENT = ("--type", "document")

pytestmark = pytest.mark.usefixtures("database_url", "stripe")


def test_opening_makes_one_session_and_resuming_takes_it_up(api: TestClient, stripe: Stories) -> None:
    first, second = open_one(api), open_one(api)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.headers["cache-control"] == "no-store"
    [session] = at_stripe(stripe)
    assert first.json()["session_id"] == second.json()["session_id"] == session["id"]
    assert session["metadata"] == {"idv_id": first.json()["id"], "idv_generation": "1"}
    assert (first.json()["status"], first.json()["entry"]) == ("requires_input", {})


def test_stripe_is_told_the_purpose_where_there_is_room(api: TestClient, stripe: Stories) -> None:
    few, many = ({f"key-{number}": "v" for number in range(count)} for count in (2, 48))
    open_one(api, purpose="age", metadata=few)
    open_one(api, purpose="address", metadata=many)
    age, address = (one["metadata"] for one in at_stripe(stripe))
    assert (age["idv_purpose"], len(age), "idv_purpose" in address, len(address)) == ("age", 5, False, 50)
    assert open_one(api, purpose="age", metadata={"key-1": "w"}).status_code == 200
    assert at_stripe(stripe)[0]["metadata"].keys() == {"key-1", "idv_id", "idv_generation", "idv_purpose"}
    assert open_one(api, purpose="age", metadata=many).status_code == 200
    assert len(at_stripe(stripe)[0]["metadata"]) == 50
    assert open_one(api, metadata={"idv_purpose": "mine"}).status_code == 422


def test_what_is_opened_here_has_and_keeps_the_mark_of_our_sessions(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("OUR_SESSIONS", "vf_1,app=onboarding,app=older")
    settings.cache_clear()  # and no more: the application is at work with the rest
    open_one(api, metadata={"a": "1"})
    open_one(api, metadata={"b": "2"})
    [session] = at_stripe(stripe)
    assert {name: session["metadata"].get(name) for name in ("a", "b", "app")} == {
        "a": None,
        "b": "2",
        "app": "onboarding",
    }


def test_an_entry_holds_only_what_its_integration_needs(api: TestClient, stripe: Stories) -> None:
    modal = open_one(api, integration="modal").json()["entry"]
    assert modal.keys() == {"client_secret", "publishable_key"}
    assert stripe.simulator.enter(modal["client_secret"], modal["publishable_key"])
    redirect = open_one(api, integration="redirect").json()["entry"]
    assert redirect.keys() == {"url"}
    native = open_one(api, integration="native", stripe_version="2025-01-27.acacia").json()["entry"]
    assert native.keys() == {"session_id", "ephemeral_key_secret"}
    assert stripe.simulator.truth()["ephemeral_keys"][0]["stripe_version"] == "2025-01-27.acacia"


@pytest.mark.parametrize("by", ["opening", "entering"])
def test_what_was_begun_on_the_web_goes_on_in_an_app_by_one_word(api: TestClient, stripe: Stories, by: str) -> None:
    begun = open_one(api, integration="redirect").json()
    assert stripe.simulator.url(begun["session_id"])  # the person goes in, and leaves again
    way = {"integration": "native", "stripe_version": "2025-01-27.acacia"}
    path = f"/verifications/{begun['id']}"
    entry = (open_one(api, **way) if by == "opening" else api.post(f"{path}/entry", json=way)).json()["entry"]
    assert entry.keys() == {"session_id", "ephemeral_key_secret"}
    assert (entry["session_id"], len(at_stripe(stripe))) == (begun["session_id"], 1)
    # The sheet says FlowCompleted, and nothing was submitted: the app asks here.
    stripe.deliver(begun["session_id"])
    shown = api.get(path).json()
    assert (shown["status"], shown["submissions"], shown["generation"]) == ("requires_input", 0, 1)
    stripe.simulator.passed(begun["session_id"])
    stripe.deliver(begun["session_id"])
    assert api.get(path).json()["status"] == "verified"


def test_many_who_open_at_once_get_one_session(api: TestClient, stripe: Stories) -> None:
    answers: list[Any] = []
    openers = [threading.Thread(target=lambda: answers.append(open_one(api, integration="modal"))) for _ in range(8)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert {answer.status_code for answer in answers} <= {200, 201}
    secrets = [answer.json()["entry"]["client_secret"] for answer in answers]
    assert (len(at_stripe(stripe)), len(set(secrets))) == (1, len(answers))


def test_an_answer_that_is_lost_after_its_effect_leads_to_the_same_session(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.fault(500, path="/v1/identity/verification_sessions", method="POST", after=True)
    assert open_one(api).json()["code"] == "stripe-unavailable"
    again = open_one(api)
    assert [one["id"] for one in at_stripe(stripe)] == [again.json()["session_id"]]


def test_a_key_that_stripe_has_forgotten_makes_no_second_session(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.fault(500, path="/v1/identity/verification_sessions", method="POST", after=True)
    assert open_one(api).status_code == 503
    stripe.simulator.clock(offset=30 * 3600)
    again = open_one(api)
    assert [one["id"] for one in at_stripe(stripe)] == [again.json()["session_id"]]


def test_a_saved_error_burns_the_generation(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.fault(500, path="/v1/identity/verification_sessions", method="POST", saved=True)
    assert open_one(api).status_code == 503
    again = open_one(api).json()
    assert again["generation"] == 2
    assert [one["metadata"]["idv_generation"] for one in at_stripe(stripe)] == ["2"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500])
def test_a_refusal_that_stripe_has_saved_keeps_nobody_out_for_a_day(
    api: TestClient, stripe: Stories, status: int
) -> None:
    stripe.simulator.cancel(open_one(api).json()["session_id"])
    stripe.simulator.fault(status, saved=True, **CREATING)
    assert open_one(api).status_code in (502, 503)
    again = open_one(api)
    assert (again.status_code, again.json()["generation"]) == (201, 3)


@pytest.mark.parametrize("what", ["another id", "another mode", "another object", "no id"])
def test_an_answer_about_another_session_makes_none_ours(api: TestClient, stripe: Stories, what: str) -> None:
    """A proxy may mix answers up: the next opening finds the session that was made."""
    stripe.simulator.fault(nonsense=what, path="/v1/identity/verification_sessions$", method="POST")
    assert open_one(api).json()["code"] == "stripe-unavailable"
    again = open_one(api).json()
    assert [one["id"] for one in at_stripe(stripe)] == [again["session_id"]]


@pytest.mark.parametrize("what", ["another id", "another mode", "another object"])
def test_nobody_is_let_in_by_an_answer_about_another_session(api: TestClient, stripe: Stories, what: str) -> None:
    opened = open_one(api, integration="modal").json()
    for method, path, body in (
        ("GET", f"/verifications/{opened['id']}/entry", {"integration": "modal"}),
        ("GET", "/verifications", LEAST),
        ("POST", "/verifications", LEAST | {"metadata": {"a": "1"}}),
    ):
        stripe.simulator.fault(nonsense=what, path=opened["session_id"], method=method)
        assert api.post(path, json=body).json()["code"] == "stripe-unavailable"
    assert open_one(api).json()["session_id"] == opened["session_id"]


def test_a_redaction_that_is_answered_for_another_session_is_still_owed(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api).json()
    api.post(f"/verifications/{opened['id']}/redact")
    stripe.simulator.fault(nonsense="another id", path="/redact", method="POST")
    [owed] = facts.due_actions()
    perform(owed)
    assert facts.action(owed).status == "pending"


def test_a_lease_that_a_dead_process_left_is_taken_over(api: TestClient) -> None:
    opened = open_one(api).json()
    with transaction() as session:
        session.connection().execute(
            update(Verification).where(col(Verification.id) == opened["id"]).values(opening_until=now())
        )
    assert open_one(api).json()["session_id"] == opened["session_id"]


def test_a_lease_that_a_step_back_of_the_clock_prolongs_lasts_as_long_as_any_from_the_next_opening_on(
    api: TestClient,
) -> None:
    opened = open_one(api).json()
    held = take_turn(wanted())
    assert held is not None
    with transaction() as session:
        session.connection().execute(update(Verification).values(opening_until=now(timedelta(hours=1))))
    assert take_turn(wanted()) is None
    with transaction() as session:
        until, at = session.execute(select(col(Verification.opening_until), now())).one()
    assert OPENING_LEASE - timedelta(minutes=1) < until - at <= OPENING_LEASE
    with pytest.raises(OpeningError):
        use_turn(held, wanted())
    with transaction() as session:
        session.connection().execute(update(Verification).values(opening_until=now()))
    assert open_one(api).json()["session_id"] == opened["session_id"]


@pytest.mark.parametrize("story", ["submit", "passed"])
def test_nobody_is_asked_again_while_it_is_checked_or_once_it_is_verified(
    api: TestClient, stripe: Stories, story: str
) -> None:
    session_id = open_one(api).json()["session_id"]
    getattr(stripe.simulator, story)(session_id)
    resumed = open_one(api, integration="redirect")
    assert (resumed.status_code, "entry" in resumed.json()) == (200, False)
    shown = api.get(f"/verifications/{session_id}").json()
    assert shown["status"] == {"submit": "processing", "passed": "verified"}[story]
    assert api.post(f"/verifications/{shown['id']}/entry", json={}).json()["code"] == shown["status"]


def test_a_canceled_session_leads_to_a_new_generation(api: TestClient, stripe: Stories) -> None:
    first = open_one(api).json()
    stripe.simulator.act(first["session_id"], "cancel")
    second = open_one(api)
    assert (second.status_code, second.json()["generation"]) == (201, 2)
    assert second.json()["id"] == first["id"]
    assert sorted(one["status"] for one in at_stripe(stripe)) == ["canceled", "requires_input"]


def test_replacing_begins_again_and_is_the_same_however_often_it_is_asked(api: TestClient, stripe: Stories) -> None:
    first = open_one(api).json()
    stripe.simulator.fail(first["session_id"], "document_expired")
    again = [open_one(api, replaces=first["session_id"]).json() for _ in range(2)]
    assert {one["generation"] for one in again} == {2}
    assert {one["id"]: one["status"] for one in at_stripe(stripe)} == {
        first["session_id"]: "canceled",
        again[0]["session_id"]: "requires_input",
    }
    assert (again[1]["submissions"], again[1]["submissions_left"]) == (0, 3)


def test_a_session_that_a_lost_answer_made_is_replaced_too(api: TestClient, stripe: Stories) -> None:
    _lose_the_answer(stripe)
    open_one(api)
    [lost] = at_stripe(stripe)
    stripe.deliver(lost["id"])  # so the application knows of it
    answers = [open_one(api, type="id_number", replaces=lost["id"]) for _ in range(2)]
    assert [one.status_code for one in answers] == [503, 201]
    assert answers[0].json()["code"] == "opening"
    assert [(one["status"], one["type"]) for one in at_stripe(stripe)] == [
        ("canceled", "document"),
        ("requires_input", "id_number"),
    ]


def test_a_verified_session_stays_and_counts_no_more_once_it_is_replaced(api: TestClient, stripe: Stories) -> None:
    first = open_one(api).json()
    stripe.simulator.passed(first["session_id"])
    assert open_one(api).json()["status"] == "verified"
    second = open_one(api, replaces=first["session_id"])
    assert (second.status_code, second.json()["status"]) == (201, "requires_input")
    assert stripe.simulator.session(first["session_id"])["status"] == "verified"


def test_what_is_being_checked_is_not_replaced(api: TestClient, stripe: Stories) -> None:
    first = open_one(api).json()
    stripe.simulator.submit(first["session_id"])
    assert open_one(api, replaces=first["session_id"]).json()["code"] == "processing"


def test_who_passes_while_their_session_is_to_be_replaced_is_not_asked_again(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    first = open_one(api).json()["session_id"]

    def cancel_late(session_id: str, account: str | None) -> bool:
        stripe.simulator.passed(session_id)
        return cancel_at_stripe(session_id, account)

    environment.setattr(ending, "cancel_at_stripe", cancel_late)
    refused = open_one(api, replaces=first)
    assert (refused.status_code, refused.json()["code"]) == (409, "verified")
    assert (len(at_stripe(stripe)), facts.record(first).replaced_at) == (1, None)


def test_an_open_session_of_the_applications_own_is_adopted(api: TestClient, stripe: Stories) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1", metadata={"a": "1"})
    adopted = open_one(api, adopt=theirs)
    assert (adopted.status_code, adopted.json()["session_id"]) == (200, theirs)
    assert stripe.simulator.session(theirs)["metadata"] == {
        "a": "1",
        "idv_id": adopted.json()["id"],
        "idv_generation": "1",
    }
    assert open_one(api).json()["session_id"] == theirs


@pytest.mark.parametrize("kind", ["another's", "canceled", "unknown", "while one is open"])
def test_what_is_not_an_open_one_of_this_person_is_not_adopted(api: TestClient, stripe: Stories, kind: str) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-2" if kind == "another's" else "user-1")
    if kind == "canceled":
        stripe.simulator.act(theirs, "cancel")
    if kind == "while one is open":
        open_one(api)
    refused = open_one(api, adopt="vs_unknown" if kind == "unknown" else theirs)
    assert (refused.status_code, refused.json()["code"]) == (409, "not-adoptable")


def test_no_more_sessions_are_made_in_a_day_than_openings_per_day(api: TestClient, stripe: Stories) -> None:
    for _ in range(5):
        stripe.simulator.act(open_one(api).json()["session_id"], "cancel")
    refused = open_one(api)
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many")
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_400


def test_what_can_be_changed_is_and_what_cannot_is_named(api: TestClient, stripe: Stories) -> None:
    open_one(api, metadata={"a": "1", "b": "2"})
    changed = open_one(api, metadata={"b": "3"}, options={"document": {"require_id_number": True}})
    assert changed.status_code == 200
    [session] = at_stripe(stripe)
    assert session["metadata"] == {"b": "3", "idv_id": changed.json()["id"], "idv_generation": "1"}
    assert session["options"] == {"document": {"require_id_number": True}}
    refused = open_one(api, related_customer="cus_2")
    assert (refused.status_code, refused.json()["code"]) == (409, "configuration-differs")
    assert "related_customer" in refused.json()["detail"]


def test_a_key_of_metadata_without_a_value_is_changed_by_nobody(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    """To Stripe it is a key that there is not."""
    open_one(api, metadata={"a": "", "b": "1"})
    updated: list[object] = []
    with environment.context() as patch:
        patch.setattr(changing, "update", lambda *given: updated.append(given))
        assert open_one(api, metadata={"a": "", "b": "1"}).status_code == 200
    assert updated == []
    assert open_one(api, metadata={"a": "", "b": ""}).status_code == 200
    assert at_stripe(stripe)[0]["metadata"].keys() == {"idv_id", "idv_generation"}


def test_a_person_comes_back_to_where_the_application_said(api: TestClient) -> None:
    entry = open_one(api, return_url="https://app.example/done", integration="redirect").json()["entry"]
    parts = urlsplit(entry["url"])
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("POST", parts.path, b"outcome=pass")
    assert connection.getresponse().headers["location"] == "https://app.example/done"
    connection.close()


def test_a_place_to_return_to_cannot_be_changed(api: TestClient) -> None:
    open_one(api, return_url="https://app.example/done")
    refused = open_one(api, return_url="https://app.example/other")
    assert (refused.json()["code"], refused.json()["detail"]) == ("configuration-differs", "return_url")
    assert open_one(api).status_code == 200


def test_a_reference_that_a_stranger_typed_is_not_adopted(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.create_from_link("user-1")
    assert open_one(api).status_code == 201
    assert len(at_stripe(stripe)) == 2


def test_two_purposes_are_two_verifications(api: TestClient) -> None:
    ids = {open_one(api, purpose=purpose).json()["id"] for purpose in ("", "age", "age")}
    listed = api.get("/verifications", params={"client_reference_id": "user-1"}).json()
    assert {one["id"] for one in listed["data"]} == ids
    assert len(ids) == 2


@pytest.mark.parametrize("authorization", ["", "Bearer " + "x" * 32, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x"])
def test_who_holds_no_token_is_told_nothing(api: TestClient, authorization: str) -> None:
    for method, path in (("GET", "/verifications"), ("POST", "/verifications"), ("GET", "/verifications/idv_1")):
        answer = api.request(method, path, headers={"Authorization": authorization})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["code"] == "unauthorized"


def test_nothing_is_answered_over_plain_http_to_another_machine(api: TestClient) -> None:
    refused = api.post("http://verify.example/verifications", json=LEAST)
    assert (refused.status_code, refused.json()["code"]) == (403, "https-needed")


def test_without_tokens_the_routes_do_not_exist(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STRIPE_WEBHOOK_SECRET", "whsec_0123456789")
    databases.forget_process_state()
    with TestClient(app) as client:
        assert client.post("/verifications", json=LEAST).status_code == 404


@pytest.mark.parametrize(
    ("fault", "code"),
    [(403, "stripe-refused"), (401, "stripe-refused"), (500, "stripe-unavailable"), (429, "stripe-unavailable")],
)
def test_stripes_refusals_are_told_apart_and_leave_no_lease(
    api: TestClient, stripe: Stories, fault: int, code: str
) -> None:
    stripe.simulator.fault(fault)
    refused = open_one(api)
    assert refused.json()["code"] == code
    with transaction() as session:
        assert {*session.scalars(select(col(Verification.opening_until)))} <= {None}


def test_an_open_verification_is_canceled_and_again_it_is_the_same(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api).json()
    canceled = [api.post(f"/verifications/{opened['id']}/cancel") for _ in range(2)]
    assert [(one.status_code, one.json()["status"]) for one in canceled] == [(200, "canceled")] * 2
    assert stripe.simulator.session(opened["session_id"])["status"] == "canceled"
    assert [(one.name, one.status) for one in facts.actions(opened["session_id"])] == [("email_canceled", "pending")]


def test_an_end_without_a_word_mails_nobody(api: TestClient) -> None:
    opened = open_one(api).json()
    assert api.post(f"/verifications/{opened['id']}/cancel?notify=false").status_code == 200
    [action_id] = facts.due_actions()
    perform(action_id)
    assert facts.action(action_id).reason == "its end is told to nobody"


@pytest.mark.parametrize(("story", "status"), [("submit", "processing"), ("passed", "verified")])
def test_what_is_past_canceling_is_told(api: TestClient, stripe: Stories, story: str, status: str) -> None:
    opened = open_one(api).json()
    getattr(stripe.simulator, story)(opened["session_id"])
    refused = api.post(f"/verifications/{opened['id']}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, status)


def test_a_mail_about_a_replaced_session_is_not_sent(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api).json()
    stripe.simulator.fail(opened["session_id"], "document_expired")
    open_one(api)
    [prompt] = facts.due_actions()
    open_one(api, replaces=opened["session_id"])
    perform(prompt)
    assert facts.action(prompt).reason in ("replaced", "superseded")


def test_a_person_is_forgotten_at_once_here_and_then_at_stripe(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api, return_url="https://app.example/done", locale="de").json()
    asked = [api.post(f"/verifications/{opened['id']}/redact") for _ in range(2)]
    assert [one.status_code for one in asked] == [202, 202]
    assert asked[0].json()["client_reference_id"] is None
    assert facts.record(opened["session_id"]).client_reference_id is None
    [owed] = facts.due_actions()
    perform(owed)
    assert stripe.simulator.session(opened["session_id"])["redaction"] is not None
    anew = open_one(api).json()
    assert anew["id"] != opened["id"]


def test_a_session_that_is_being_checked_is_redacted_later(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api).json()
    stripe.simulator.submit(opened["session_id"])
    api.post(f"/verifications/{opened['id']}/redact")
    [owed] = facts.due_actions()
    perform(owed)
    assert facts.action(owed).status == "pending"
    stripe.simulator.passed(opened["session_id"])
    facts.end_all_leases()
    perform(owed)
    assert facts.action(owed).status == "done"


@pytest.mark.parametrize("reference", ["a+b", "a&b", "a#b", "100%", "a b", "ü漢"])
def test_a_static_link_is_right_for_any_reference(
    api: TestClient, environment: pytest.MonkeyPatch, reference: str
) -> None:
    environment.setenv("STATIC_LINKS", "age=https://verify.stripe.com/x?a=b#c,plain=https://verify.stripe.com/y")
    settings.cache_clear()
    body = {"client_reference_id": reference, "email": "jenny+1@example.com"}
    url = api.post("/static-links/age", json=body).json()["url"]
    parts = urlsplit(url)
    assert (parts.fragment, parts.path) == ("c", "/x")
    assert dict(parse_qsl(parts.query)) == {
        "a": "b",
        "client_reference_id": reference,
        "prefilled_email": body["email"],
    }
    assert (
        api.post("/static-links/plain", json={"client_reference_id": "u"})
        .json()["url"]
        .endswith("/y?client_reference_id=u")
    )
    assert api.post("/static-links/none", json=body).status_code == 404


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {"Content-Type": "application/json"}, 400, "not-json"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "not-json"),
        (b"[]", {"Content-Type": "application/json"}, 400, "not-json"),
        (b"null", {"Content-Type": "application/json"}, 400, "not-json"),
        (b'{"type": "document", "type": "id_number"}', {"Content-Type": "application/json"}, 400, "not-json"),
        (b'{"metadata": {"k": "1", "k": "2"}}', {"Content-Type": "application/json"}, 400, "not-json"),
        (b'{"x":' * 1000 + b"1" + b"}" * 1000, {"Content-Type": "application/json"}, 422, "invalid"),
        (b'"' + b"x" * 70_000 + b'"', {"Content-Type": "application/json"}, 413, "too-large"),
    ],
)
def test_what_is_no_request_is_refused(
    api: TestClient, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    refused = api.post("/verifications", content=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.headers["content-type"] == "application/problem+json"


def _lose_the_answer(stripe: Stories) -> None:
    stripe.simulator.fault(500, path="/v1/identity/verification_sessions", method="POST", after=True)


def test_what_a_lost_answer_made_is_canceled_too(api: TestClient, stripe: Stories) -> None:
    _lose_the_answer(stripe)
    open_one(api)
    id_ = api.get("/verifications").json()["data"][0]["id"]
    assert api.post(f"/verifications/{id_}/cancel").json()["status"] == "canceled"
    assert [one["status"] for one in at_stripe(stripe)] == ["canceled"]


def test_nobody_enters_what_is_to_be_forgotten(api: TestClient) -> None:
    id_ = open_one(api).json()["id"]
    asked = api.post(f"/verifications/{id_}/redact")
    assert asked.json()["can_retry"] is False
    assert api.post(f"/verifications/{id_}/entry", json={}).json()["code"] == "redacted"


def test_a_session_is_not_adopted_beside_one_that_a_lost_answer_made(api: TestClient, stripe: Stories) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1")
    _lose_the_answer(stripe)
    open_one(api)
    assert open_one(api, adopt=theirs).json()["code"] == "not-adoptable"


def test_a_session_of_another_verification_is_not_adopted(api: TestClient) -> None:
    first = open_one(api).json()
    assert open_one(api, purpose="age", adopt=first["session_id"]).json()["code"] == "not-adoptable"


def test_a_try_that_made_nothing_binds_nobody_to_its_place_to_return_to(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.fault(500)
    assert open_one(api, return_url="https://app.example/1").status_code == 503
    assert open_one(api, return_url="https://app.example/2").status_code == 201
    assert open_one(api, return_url="https://app.example/2").status_code == 200


def test_who_has_lost_the_lease_writes_nothing_and_gives_nothing_back(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api).json()
    stale = take_turn(wanted())
    assert stale is not None
    with transaction() as session:
        session.connection().execute(update(Verification).values(opening_until=now()))
    current = take_turn(wanted())
    assert current is not None
    with pytest.raises(OpeningError):
        use_turn(stale, wanted())
    assert take_turn(wanted()) is None
    assert use_turn(current, wanted()).answer.id == opened["session_id"]
    assert len(at_stripe(stripe)) == 1


def test_at_the_daily_limit_the_open_session_is_left_as_it_is(api: TestClient, stripe: Stories) -> None:
    for _ in range(4):
        stripe.simulator.act(open_one(api).json()["session_id"], "cancel")
    last = open_one(api).json()
    assert open_one(api, replaces=last["session_id"]).json()["code"] == "too-many"
    assert stripe.simulator.session(last["session_id"])["status"] == "requires_input"


def test_at_the_limit_of_submissions_nobody_goes_in_again(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api).json()
    for _ in range(3):
        stripe.simulator.fail(opened["session_id"], "document_expired")
        open_one(api)
    assert open_one(api).json()["code"] == "submission-limit"
    assert api.post(f"/verifications/{opened['id']}/entry", json={}).json()["code"] == "submission-limit"


def _submit_as_often_as_allowed(api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch) -> Any:
    """An open session at its limit, whose events are late; its verification, as the application knows it."""
    environment.setenv("SUBMISSION_LIMIT", "1")
    settings.cache_clear()
    opened = open_one(api).json()
    stripe.later().simulator.fail(opened["session_id"], "document_expired")
    return opened


def _is_over_for(session_id: str, stripe: Stories) -> None:
    """Checks that the limit's actions are owed and performed, without any event of Stripe's."""
    assert {"cancel_session", "alert_review"} <= by_name(session_id).keys()
    perform_everything()
    assert stripe.simulator.session(session_id)["status"] == "canceled"


def test_the_limit_holds_at_an_entry_whose_sessions_events_are_late(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = _submit_as_often_as_allowed(api, stripe, environment)
    for _ in range(2):
        entered = api.post(f"/verifications/{opened['id']}/entry", json={"integration": "modal"})
        assert (entered.status_code, entered.json()["code"]) == (409, "submission-limit")
    _is_over_for(opened["session_id"], stripe)


def test_the_limit_holds_at_an_opening_whose_sessions_events_are_late(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = _submit_as_often_as_allowed(api, stripe, environment)
    assert [open_one(api).json()["code"] for _ in range(2)] == ["submission-limit"] * 2
    _is_over_for(opened["session_id"], stripe)


def test_the_limit_holds_after_an_end_whose_events_are_late(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = _submit_as_often_as_allowed(api, stripe, environment)
    stripe.later().simulator.act(opened["session_id"], "cancel")
    assert open_one(api).json()["code"] == "submission-limit"
    assert api.get(f"/verifications/{opened['id']}").json()["submissions"] == 1
    assert len(at_stripe(stripe)) == 1


def test_what_is_submitted_late_in_a_session_before_counts_in_the_next(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SUBMISSION_LIMIT", "2")
    settings.cache_clear()
    first = open_one(api).json()
    stripe.later().simulator.fail(first["session_id"], "document_expired")
    stripe.later().simulator.act(first["session_id"], "cancel")
    second = open_one(api).json()
    assert (second["generation"], second["submissions_left"]) == (2, 1)
    stripe.later().simulator.fail(second["session_id"], "document_expired")
    assert api.post(f"/verifications/{first['id']}/entry", json={}).json()["code"] == "submission-limit"


def test_what_was_replaced_counts_no_more_though_its_events_are_late(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = _submit_as_often_as_allowed(api, stripe, environment)
    assert open_one(api, replaces=opened["session_id"]).status_code == 201
    assert open_one(api).status_code == 200


def test_whoever_is_let_in_waits_for_nothing_to_be_written(api: TestClient) -> None:
    opened = open_one(api).json()
    before = len(facts.event_rows(opened["session_id"]))
    assert api.post(f"/verifications/{opened['id']}/entry", json={}).status_code == 200
    assert len(facts.event_rows(opened["session_id"])) == before


@pytest.mark.parametrize("steps", [0, 2])
def test_whoever_is_verified_is_not_billed_again_by_a_redaction_in_the_dashboard(
    api: TestClient, stripe: Stories, steps: int
) -> None:
    first = open_one(api).json()
    stripe.simulator.passed(first["session_id"])
    stripe.simulator.redact(first["session_id"], finish=False)
    for _ in range(steps):
        stripe.simulator.redact_step(first["session_id"])
    entered = api.post(f"/verifications/{first['id']}/entry", json={})
    assert (entered.status_code, entered.json()["code"]) == (409, "redacted")
    again = open_one(api, integration="redirect")
    assert (again.status_code, again.json()["status"], "entry" in again.json()) == (200, "verified", False)
    assert (again.json()["id"], again.json()["client_reference_id"]) == (first["id"], None)
    # From here on nobody knows the person again.
    new = open_one(api)
    assert (new.status_code, new.json()["generation"]) == (201, 1)
    assert new.json()["id"] != first["id"]


def test_an_entry_before_there_is_a_session_says_that_it_is_being_opened(api: TestClient, stripe: Stories) -> None:
    stripe.simulator.fault(500, **CREATING)
    assert open_one(api).status_code == 503
    id_ = api.get("/verifications").json()["data"][0]["id"]
    entered = api.post(f"/verifications/{id_}/entry", json={})
    assert (entered.status_code, entered.json()["code"], "retry-after" in entered.headers) == (503, "opening", True)


@pytest.mark.parametrize("id_", ["%00", "idv_%00", "x" * 300, "idv_%C3%BC", "idv_1%0A"])
def test_what_can_be_no_id_is_not_found(api: TestClient, id_: str) -> None:
    assert api.get(f"/verifications/{id_}").json()["code"] == "not-found"
    assert api.post(f"/verifications/{id_}/entry", json={}).json()["code"] == "not-found"
    assert api.post(f"/verifications/{id_}/cancel").json()["code"] == "not-found"
    assert api.post(f"/verifications/{id_}/redact").json()["code"] == "not-found"
    assert api.get("/verifications?purpose=%00").json()["code"] == "invalid"


def test_what_stripe_does_not_accept_is_not_waited_for(api: TestClient) -> None:
    refused = api.post("/verifications", json={"client_reference_id": "u", "verification_flow": "vf_unknown"})
    assert (refused.status_code, refused.json()["code"]) == (502, "stripe-refused")


@pytest.fixture
def here(environment: pytest.MonkeyPatch) -> Callable[..., Any]:
    environment.setenv("API_TOKENS", f"shop:{TOKEN}")

    def run(*words: str, capsys: pytest.CaptureFixture[str], expected: int = 0) -> Any:
        arguments = parser().parse_args([*words, "--json"])
        assert arguments.command.run(arguments) == expected
        said = capsys.readouterr().out
        return (
            json.loads(said[said.find("{\n") :]) if expected == 0 else said
        )  # the log stands before it, which else goes elsewhere

    return run


def test_an_open_session_keeps_its_type_unless_an_operator_says_another(
    here: Callable[..., Any], api: TestClient, stripe: Stories, capsys: pytest.CaptureFixture[str]
) -> None:
    open_one(api, type="id_number")
    with pytest.raises(SystemExit):
        here("open", "user-1", capsys=capsys)
    assert [one["type"] for one in at_stripe(stripe)] == ["id_number"]
    here("open", "user-1", "--type", "document", capsys=capsys)
    assert [one["type"] for one in at_stripe(stripe)] == ["document"]


def test_an_operator_opens_adopts_cancels_and_redacts(
    here: Callable[..., Any], stripe: Stories, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = here("open", "user-1", *DOCUMENT, capsys=capsys)
    assert here("verification", opened["session_id"], capsys=capsys)["id"] == opened["id"]
    again = here("open", "user-1", *DOCUMENT, "--replaces", opened["session_id"], capsys=capsys)
    assert (again["id"], again["generation"]) == (opened["id"], 2)
    canceled = here("cancel", opened["id"], "--quietly", capsys=capsys)
    assert (canceled["status"], "client_secret" in repr(opened)) == ("canceled", False)
    theirs = stripe.simulator.create(client_reference_id="user-2")
    adopted = here("adopt", theirs, "user-2", capsys=capsys)
    assert adopted["session_id"] == theirs
    assert here("redact", adopted["id"], capsys=capsys)["client_reference_id"] is None
    here("verification", "idv_unknown", capsys=capsys, expected=1)
    stripe.simulator.submit(here("open", "user-3", *DOCUMENT, capsys=capsys)["session_id"])
    here("cancel", here("open", "user-3", *DOCUMENT, capsys=capsys)["id"], capsys=capsys, expected=1)


@pytest.mark.parametrize(("key", "is_ours"), [("sk_live_simulator0000", False), ("sk_test_simulator0000", True)])
def test_with_a_live_key_the_applications_own_address_goes_through_where_ours_is_this_machine(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch, key: str, is_ours: bool
) -> None:
    given = {"STRIPE_API_KEY": key, "STRIPE_PUBLISHABLE_KEY": "", "PUBLIC_URL": "", "LINK_KEYS": "n" * 32}
    for name, value in given.items():
        environment.setenv(name, value)
    settings.cache_clear()
    create, asked = changing.create, list[str]()

    def created(params: dict[str, Any], *rest: Any) -> changing.Answer:
        asked.append(params["return_url"])
        return create(params, *rest)

    environment.setattr(changing, "create", created)
    opened = open_one(api, return_url="https://app.example/done")
    assert (opened.status_code, "url" in opened.json()["entry"], len(at_stripe(stripe))) == (201, is_ours, 1)
    assert asked[0].startswith("http://127.0.0.1:8000/return/" if is_ours else "https://app.example/done")


@pytest.mark.parametrize(
    ("words", "pointer"),
    [
        (("open", "", *DOCUMENT), "/client_reference_id"),
        (("open", "x" * 300, *DOCUMENT), "/client_reference_id"),
        (("open", "user\n1", *DOCUMENT), "/client_reference_id"),
        (("open", "user-1", *DOCUMENT, "--purpose", "jenny@example.com"), "/purpose"),
        (("open", "user-1", *DOCUMENT, "--purpose", "+4915112345678"), "/purpose"),
        (("open", "user-1", *DOCUMENT, "--replaces", "nonsense"), "/replaces"),
        (("open", "user-1", *DOCUMENT, "--account", "jenny"), "/account"),
        (("open", "user-1", "--flow", "jenny"), "/verification_flow"),
        (("adopt", "", "user-1"), "/adopt"),
        (("adopt", "vs_1", ""), "/client_reference_id"),
    ],
)
def test_a_command_asks_for_nothing_that_the_api_would_refuse(
    stripe: Stories, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], pointer: str
) -> None:
    arguments = parser().parse_args(words)
    assert arguments.command.run(arguments) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.startswith(f"Refused: {pointer} "), "jenny" in said.err) == ("", True, False)
    assert (at_stripe(stripe), listed(PageQuery())) == ([], ([], False))


def test_an_operator_opens_and_adopts_for_a_connected_account(
    here: Callable[..., Any], stripe: Stories, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = here("open", "user-1", *DOCUMENT, "--account", "acct_7", capsys=capsys)
    theirs = stripe.simulator.create(client_reference_id="user-2", account="acct_7")
    adopted = here("adopt", theirs, "user-2", "--account", "acct_7", capsys=capsys)
    assert [opened["account"], adopted["account"], adopted["session_id"]] == ["acct_7", "acct_7", theirs]


def test_where_an_adopted_session_stands_is_told_once_more_by_the_verifications_number(
    application: Application, api: TestClient, stripe: Stories
) -> None:
    first = open_one(api).json()["session_id"]
    stripe.simulator.act(first, "cancel")
    stripe.deliver(first)
    perform_everything()
    theirs = stripe.simulator.create(client_reference_id="user-1")
    stripe.later().simulator.fail(theirs, "document_expired")
    stripe.deliver(theirs)
    adopted = open_one(api, adopt=theirs).json()
    perform_everything()
    told = [caught.event["data"] for caught in application.caught]
    assert [(one["session_id"], one["change_number"], one["verification_id"]) for one in told] == [
        (first, 1, adopted["id"]),
        (first, 2, adopted["id"]),
        (theirs, 4, adopted["id"]),
    ]
    assert told[-1]["error_code"] == "document_expired"


def test_an_adoption_that_is_asked_again_changes_nothing_at_stripe(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1")
    open_one(api, adopt=theirs)
    updated: list[str] = []
    environment.setattr(changing, "update", lambda session_id, *_: updated.append(session_id))
    again = open_one(api, adopt=theirs)
    assert (again.status_code, again.json()["session_id"], updated) == (200, theirs, [])


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        ({"verification_flow": "vf_plain"}, "verification_flow"),
        ({"type": "id_number"}, "type"),
        ({"options": {"document": {"require_live_capture": True}}}, "options"),
        ({"metadata": {"order": "18"}}, "metadata"),
        ({"provided_details": {"email": "john@example.com"}}, "provided_details"),
        ({"related_customer": "cus_1", "type": "id_number"}, "related_customer, type"),
    ],
)
def test_a_refused_adoption_leaves_the_session_as_it_was_and_no_verification(
    api: TestClient, stripe: Stories, asked: dict[str, Any], detail: str
) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1", metadata={"order": "17"})
    before = stripe.simulator.session(theirs)
    refused = api.post("/verifications", json={"client_reference_id": "user-1", "adopt": theirs, **asked})
    assert (refused.json()["code"], refused.json()["detail"]) == ("configuration-differs", detail)
    assert stripe.simulator.session(theirs) == before
    assert api.get("/verifications").json()["data"] == []


def test_an_adoption_needs_no_type_and_is_refused_where_another_is_asked_for_later(
    api: TestClient, stripe: Stories
) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1", type="id_number", metadata={"order": "17"})
    adopting = {"client_reference_id": "user-1", "adopt": theirs, "return_url": "https://app.example/done"}
    for _ in range(2):
        adopted = api.post("/verifications", json={**adopting, "metadata": {"order": "17"}})
        assert (adopted.status_code, adopted.json()["session_id"]) == (200, theirs)
    assert open_one(api, adopt=theirs).json()["detail"] == "type"
    assert stripe.simulator.session(theirs)["type"] == "id_number"


@pytest.mark.parametrize("count", [49, 50])
def test_a_session_without_room_for_our_keys_is_not_adopted(api: TestClient, stripe: Stories, count: int) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1", metadata={f"key-{n}": "v" for n in range(count)})
    before = stripe.simulator.session(theirs)
    refused = open_one(api, adopt=theirs)
    assert (refused.json()["code"], "metadata" in refused.json()["detail"]) == ("not-adoptable", True)
    assert stripe.simulator.session(theirs) == before
    assert api.get("/verifications").json()["data"] == []


def test_a_session_with_room_for_our_keys_alone_is_adopted_without_mark_and_purpose(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1", metadata={f"key-{n}": "v" for n in range(48)})
    environment.setenv("OUR_SESSIONS", "app=onboarding")
    settings.cache_clear()
    for _ in range(2):
        assert open_one(api, adopt=theirs, purpose="age").status_code == 200
    metadata = stripe.simulator.session(theirs)["metadata"]
    assert (len(metadata), metadata.keys() & {"idv_id", "app", "idv_purpose"}) == (50, {"idv_id"})


def test_a_session_with_another_environments_mark_is_not_adopted(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    """Its own environment would no longer know it as its own, and leave its person alone."""
    environment.setenv("OUR_SESSIONS", "app=onboarding,app=before")
    settings.cache_clear()
    theirs, ours = (
        stripe.simulator.create(client_reference_id="user-1", metadata={"app": app}) for app in ("billing", "before")
    )
    refused = open_one(api, adopt=theirs)
    assert (refused.json()["code"], "OUR_SESSIONS" in refused.json()["detail"]) == ("not-adoptable", True)
    assert stripe.simulator.session(theirs)["metadata"] == {"app": "billing"}
    assert open_one(api, adopt=ours).status_code == 200


def test_a_mark_that_has_no_room_any_more_keeps_nobody_out(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    opened = open_one(api, metadata={f"key-{n}": "v" for n in range(48)}).json()
    environment.setenv("OUR_SESSIONS", "app=onboarding")
    settings.cache_clear()
    again = open_one(api)
    assert (again.status_code, again.json()["session_id"]) == (200, opened["session_id"])
    assert "app" not in at_stripe(stripe)[0]["metadata"]


def test_a_session_that_another_purpose_has_just_taken_is_adopted_once_and_leaves_no_other_verification(
    api: TestClient, stripe: Stories, environment: pytest.MonkeyPatch
) -> None:
    theirs = stripe.simulator.create(client_reference_id="user-1")
    with environment.context() as patch:
        patch.setattr(changing, "update", lambda *_: None)  # it dies before Stripe has our mark
        first = open_one(api, adopt=theirs).json()
    assert open_one(api, adopt=theirs, purpose="age").json()["code"] == "not-adoptable"
    assert [one["id"] for one in api.get("/verifications").json()["data"]] == [first["id"]]


def test_a_refused_adoption_begins_no_generation(api: TestClient, stripe: Stories) -> None:
    first = open_one(api).json()
    stripe.simulator.cancel(first["session_id"])
    assert open_one(api, adopt="vs_unknown").json()["code"] == "not-adoptable"
    assert api.get(f"/verifications/{first['id']}").json()["generation"] == 1
    theirs = stripe.simulator.create(client_reference_id="user-1")
    adopted = open_one(api, adopt=theirs).json()
    assert (adopted["id"], adopted["generation"], adopted["session_id"]) == (first["id"], 2, theirs)


@pytest.mark.parametrize(
    "asked", [{"adopt": "vs_unknown"}, {"replaces": "vs_unknown"}, {"verification_flow": "vf_unknown"}]
)
def test_a_first_opening_that_is_refused_leaves_no_verification_of_nobody(
    api: TestClient, stripe: Stories, asked: dict[str, str]
) -> None:
    assert open_one(api, **asked).status_code in (409, 422, 502)
    assert (api.get("/verifications").json()["data"], at_stripe(stripe)) == ([], [])
    assert open_one(api).status_code == 201


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_so_does_one_that_stripe_refuses(api: TestClient, stripe: Stories, status: int) -> None:
    stripe.simulator.fault(status, **CREATING)
    assert open_one(api).json()["code"] == "stripe-refused"
    assert api.get("/verifications").json()["data"] == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nonsense_in_the_place_of_an_answer_leaves_the_verification_whose_session_there_may_be(
    api: TestClient, stripe: Stories, kind: str
) -> None:
    stripe.simulator.fault(None, nonsense=kind, **CREATING)
    open_one(api)
    [shown] = api.get("/verifications").json()["data"]
    assert [session["metadata"]["idv_id"] for session in at_stripe(stripe)] == [shown["id"]]


def test_a_first_opening_without_an_answer_leaves_the_verification_whose_session_there_may_be(
    api: TestClient, stripe: Stories
) -> None:
    _lose_the_answer(stripe)
    assert open_one(api).status_code == 503
    assert len(api.get("/verifications").json()["data"]) == len(at_stripe(stripe)) == 1


def test_only_a_session_of_this_verification_is_replaced(api: TestClient, stripe: Stories) -> None:
    first, others = open_one(api).json(), open_one(api, client_reference_id="user-2").json()
    for session_id in ("vs_unknown", others["session_id"], stripe.simulator.create(client_reference_id="user-1")):
        refused = open_one(api, replaces=session_id)
        assert (refused.status_code, [one["pointer"] for one in refused.json()["faults"]]) == (422, ["/replaces"])
    assert api.get(f"/verifications/{first['id']}").json()["generation"] == 1


def test_an_entry_after_the_limit_says_what_opening_says(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api).json()
    for _ in range(3):
        stripe.later().simulator.fail(opened["session_id"], "document_expired")
        stripe.deliver(opened["session_id"])
    perform_everything()
    assert stripe.simulator.session(opened["session_id"])["status"] == "canceled"
    entered = api.post(f"/verifications/{opened['id']}/entry", json={})
    assert [entered.json()["code"], open_one(api).json()["code"]] == ["submission-limit"] * 2


@pytest.mark.parametrize("status", [500, 403])
def test_a_replacement_that_stripe_does_not_do_leaves_the_session_as_it_was(
    api: TestClient, stripe: Stories, status: int
) -> None:
    first = open_one(api).json()["session_id"]
    stripe.simulator.fault(status, path=f"/v1/identity/verification_sessions/{first}/cancel", method="POST")
    assert open_one(api, replaces=first).status_code in (502, 503)
    record = facts.record(first)
    assert (record.replaced_at, record.ends_quietly) == (None, None)
    stripe.simulator.clear_faults()
    stripe.later()
    assert open_one(api).json()["session_id"] == first
    assert facts.record(first).replacing_at is None
    stripe.simulator.passed(first)
    stripe.deliver(first)
    assert [(one.name, one.status) for one in facts.actions(first)] == [("email_verified", "pending")]


@pytest.mark.parametrize("status", [500, 403])
def test_an_end_that_stripe_does_not_do_is_told_when_it_comes(api: TestClient, stripe: Stories, status: int) -> None:
    opened = open_one(api).json()
    first = opened["session_id"]
    stripe.simulator.fault(status, path=f"/v1/identity/verification_sessions/{first}/cancel", method="POST")
    assert api.post(f"/verifications/{opened['id']}/cancel?notify=false").status_code in (502, 503)
    stripe.simulator.clear_faults()
    stripe.later()
    assert open_one(api).json()["session_id"] == first
    assert facts.record(first).ends_quietly is None


@pytest.mark.parametrize("status", [500, 401])
def test_a_person_is_forgotten_here_though_stripe_does_not_answer(
    api: TestClient, stripe: Stories, status: int
) -> None:
    _lose_the_answer(stripe)
    open_one(api, return_url="https://app.example/done")
    [lost] = at_stripe(stripe)
    id_ = api.get("/verifications").json()["data"][0]["id"]
    stripe.later()
    stripe.simulator.fault(status, count=None)
    asked = api.post(f"/verifications/{id_}/redact")
    assert (asked.status_code, asked.json()["client_reference_id"]) == (202, None)
    stripe.simulator.clear_faults()
    stripe.deliver(lost["id"])
    perform_everything()
    assert stripe.simulator.session(lost["id"])["redaction"] is not None
    assert facts.record(lost["id"]).client_reference_id is None


def test_a_verification_has_the_flow_of_its_session_whatever_was_tried_before(api: TestClient) -> None:
    by_flow = {"type": None, "verification_flow": "vf_none"}
    assert open_one(api, **by_flow).status_code == 502
    assert open_one(api).json()["verification_flow"] is None


def test_a_language_that_is_named_at_a_resume_is_the_persons(api: TestClient) -> None:
    id_ = open_one(api).json()["id"]
    for named, is_now in (({"locale": "de"}, "de"), ({}, "de"), ({"locale": "en"}, "en")):
        assert open_one(api, **named).status_code == 200
        assert verification(id_).locale == is_now
