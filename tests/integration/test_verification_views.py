"""Verifications as the application sees them: one by one with their story, and in pages whose order is stable."""

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import update
from starlette.testclient import TestClient

from config.database import transaction
from handlers.operator.audit import By, Way
from handlers.operator.queries import Filter
from handlers.operator.retry_discard import discard_rows
from handlers.tables.models import OutboxAction, Verification
from receiver.api.openapi import Opened, Page, VerificationInTime
from receiver.api.openapi import Verification as Shown
from tests.integration.openings import open_one
from tests.integration.stories import Stories, perform_everything
from tests.property.outside import PostBox
from tests.support import facts
from tests.support.facts import NOON, event

pytestmark = pytest.mark.usefixtures("database_url", "stripe")


def _pages(api: TestClient, **filters: Any) -> list[list[str]]:
    """The ids of every page, one after the other."""
    pages: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        answer = api.get("/verifications", params={**filters, **after}).json()
        TypeAdapter(Page).validate_python(answer)
        pages.append([one["id"] for one in answer["data"]])
        if not answer["has_more"]:
            return pages
        after = {"starting_after": pages[-1][-1]}


def _many(api: TestClient, count: int) -> list[str]:
    """Opens so many verifications; their ids, newest first."""
    return [open_one(api, client_reference_id=f"user-{n}").json()["id"] for n in range(count)][::-1]


def test_pages_are_newest_first_and_hold_each_verification_once(api: TestClient) -> None:
    ids = _many(api, 5)
    assert _pages(api, limit=2) == [ids[:2], ids[2:4], ids[4:]]
    assert _pages(api, limit=5) == [ids]
    assert _pages(api) == [ids]


def test_of_one_moment_the_order_is_stable_too(api: TestClient) -> None:
    ids = _many(api, 5)
    with transaction() as session:
        session.connection().execute(update(Verification).values(created_at=datetime.now(UTC)))
    expected = sorted(ids, reverse=True)
    for limit in (1, 2, 3):
        assert [one for page in _pages(api, limit=limit) for one in page] == expected


def test_what_is_opened_meanwhile_moves_nothing(api: TestClient) -> None:
    ids = _many(api, 4)
    first = api.get("/verifications", params={"limit": 2}).json()["data"]
    open_one(api, client_reference_id="later")
    rest = api.get("/verifications", params={"limit": 2, "starting_after": first[-1]["id"]}).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)


def test_after_the_last_one_there_is_nothing_and_after_none_of_ours_is_no_place(api: TestClient) -> None:
    [only] = _many(api, 1)
    assert api.get("/verifications", params={"starting_after": only}).json() == {"data": [], "has_more": False}
    refused = api.get("/verifications", params={"starting_after": "idv_unknown"})
    assert (refused.status_code, refused.json()["code"]) == (404, "not-found")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5", ""])
def test_a_limit_that_is_none_is_refused(api: TestClient, limit: str) -> None:
    refused = api.get("/verifications", params={"limit": limit})
    assert (refused.status_code, refused.json()["faults"][0]["pointer"]) == (422, "/limit")


def test_what_is_asked_twice_in_a_query_is_refused(api: TestClient) -> None:
    twice = (("GET", "/verifications", "limit", ("1", "2")), ("POST", "/verifications/idv_1/cancel", "notify", (0, 1)))
    for method, path, name, values in twice:
        refused = api.request(method, path, params=[(name, str(value)) for value in values])
        assert (refused.status_code, refused.json()["faults"][0]["pointer"]) == (422, f"/{name}")


def test_filters_hold_together(api: TestClient, stripe: Stories) -> None:
    for flow in ("vf_a", "vf_b"):
        stripe.simulator.flow(flow)
    shown = []
    for reference, purpose, flow in product(("user-1", "user-2"), ("", "age"), ("vf_a", "vf_b")):
        # A person and a purpose are one verification, with any flow.
        whose = {"client_reference_id": f"{reference}-{flow}", "purpose": purpose}
        opened = open_one(api, **whose, verification_flow=flow, type=None).json()
        if reference == "user-2":
            stripe.simulator.passed(opened["session_id"])
            opened = open_one(api, **whose, verification_flow=flow, type=None).json()
        shown.append(opened)
    names = ("client_reference_id", "purpose", "status", "verification_flow")
    for chosen in product((False, True), repeat=len(names)):
        for like in shown:
            filters = {name: like[name] for name, is_chosen in zip(names, chosen, strict=True) if is_chosen}
            expected = {one["id"] for one in shown if all(one[name] == value for name, value in filters.items())}
            found = api.get("/verifications", params={**filters, "limit": 100}).json()
            assert ({one["id"] for one in found["data"]}, found["has_more"]) == (expected, False)
    assert _pages(api, purpose="age", status="verified", limit=1) == [
        [one["id"]] for one in shown[::-1] if (one["purpose"], one["status"]) == ("age", "verified")
    ]


def test_what_happened_is_shown_in_time(post_box: PostBox, api: TestClient, stripe: Stories) -> None:
    first = open_one(api).json()
    stripe.later().simulator.fail(first["session_id"], "document_expired")
    stripe.deliver(first["session_id"])
    perform_everything()
    second = open_one(api, replaces=first["session_id"]).json()
    stripe.later().simulator.passed(second["session_id"])
    stripe.deliver(second["session_id"])
    perform_everything()
    answer = api.get(f"/verifications/{first['session_id']}").json()
    VerificationInTime.model_validate(answer)
    assert [(one["generation"], one["status"], bool(one["replaced_at"])) for one in answer["sessions"]] == [
        (1, "canceled", True),
        (2, "verified", False),
    ]
    timeline = answer["timeline"]
    assert [line["at"] for line in timeline] == sorted(line["at"] for line in timeline)
    seen = {(line["session_id"], line["what"], line["name"], line["status"]) for line in timeline}
    assert seen >= {
        (first["session_id"], "opened", None, None),
        (first["session_id"], "replaced", None, None),
        (first["session_id"], "event", "requires_input", "applied"),
        (first["session_id"], "action", "email_retry_prompt", "done"),
        (second["session_id"], "opened", None, None),
        (second["session_id"], "event", "verified", "applied"),
        (second["session_id"], "action", "email_verified", "done"),
    }
    assert all(line["ended_at"] for line in timeline if line["what"] in ("event", "action"))
    assert len(post_box.told[second["session_id"]]) == 1


def test_what_changed_nothing_is_shown_with_its_reason(api: TestClient) -> None:
    session_id = open_one(api).json()["session_id"]
    facts.applied(event("canceled", NOON + 2_000_000_000, session_id), event("processing", NOON, session_id))
    lines = api.get(f"/verifications/{session_id}").json()["timeline"]
    assert [line["status"] for line in lines if line["name"] == "processing"] == ["stale"]
    [mail] = [line for line in lines if line["name"] == "email_canceled"]
    assert (mail["status"], mail["reason"], mail["ended_at"]) == ("pending", None, None)


def test_nothing_personal_is_shown_of_what_happened(api: TestClient) -> None:
    session_id = open_one(api, provided_details={"email": "c4nary@example.com"}, metadata={"user_id": "c4nary"}).json()[
        "session_id"
    ]
    told = event(
        "requires_input", NOON + 2_000_000_000, session_id, code="abandoned", user="c4nary", reference="c4nary"
    )
    facts.applied(told)
    prompt = Filter(session_id=session_id, kind="email_retry_prompt", ids=facts.due_actions())
    assert list(discard_rows(OutboxAction, prompt, By(who="a test", way=Way.COMMAND, reason="c4nary")))
    answer = api.get(f"/verifications/{session_id}")
    assert "c4nary" not in answer.text
    assert [line["reason"] for line in answer.json()["timeline"] if line["name"] == "email_retry_prompt"] == [
        "discarded"
    ]


def test_a_redaction_is_shown(api: TestClient) -> None:
    opened = open_one(api).json()
    api.post(f"/verifications/{opened['id']}/redact")
    lines = api.get(f"/verifications/{opened['id']}").json()["timeline"]
    assert {(line["what"], line["name"]) for line in lines} >= {("redaction_asked", None), ("action", "redact_session")}


def test_every_answer_is_as_it_is_documented(api: TestClient, stripe: Stories) -> None:
    opened = open_one(api, integration="modal").json()
    Opened.model_validate(opened)
    VerificationInTime.model_validate(api.get(f"/verifications/{opened['id']}").json())
    Shown.model_validate(api.post(f"/verifications/{opened['id']}/cancel").json())
    Shown.model_validate(api.post(f"/verifications/{opened['id']}/redact").json())
    stripe.simulator.clear_faults()
