"""The API's words for each fault of a request, and for Stripe's refusals: they are its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from config.settings import settings
from handlers.queue.failures import NotNowError
from handlers.sessions import views
from handlers.stripe_api import changing, client
from receiver.app import app
from tests.integration.stories import Stories
from tests.simulator.client import Simulator
from tests.simulator.nonsense import KINDS, PARTLY
from tests.support import databases
from tests.support.documented import must_be_documented
from tests.support.servers import FakeStripe
from worker.__main__ import parser

pytestmark = pytest.mark.usefixtures("database_url", "simulator")

TOKEN = "t" * 32
LEAST = {"client_reference_id": "user-1", "type": "document"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def api(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    environment.setenv("STRIPE_WEBHOOK_SECRET", "whsec_0123456789")
    environment.setenv("API_TOKENS", f"shop:{TOKEN}")
    databases.forget_process_state()
    with TestClient(app, "https://verify.example", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        client.event_hooks = {"response": [must_be_documented]}
        yield client


def test_another_method_is_told_all_that_there_are(api: TestClient) -> None:
    reading, acting = {"GET", "HEAD"}, {"POST"}
    one = "/verifications/idv_1"
    paths = {"/verifications": reading | acting, one: reading, "/openapi.json": reading, "/static-links/age": acting}
    paths |= {f"{one}/entry": acting, f"{one}/link": acting, f"{one}/cancel": acting, f"{one}/redact": acting}
    for path, allowed in paths.items():
        for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "GET", "POST", "BREW"):
            answer = api.request(method, path)
            assert (answer.status_code == 405) is (method not in allowed), (method, path)
            if answer.status_code == 405:
                assert {*answer.headers["allow"].split(", ")} == allowed
                _is_problem(method, answer, "method-not-allowed")


@pytest.mark.parametrize(
    "path", ["/verifications/idv_1/other", "/static-links", "/static-links/", "/verifications/a/b/c"]
)
def test_a_path_that_there_is_not_is_a_problem_too(api: TestClient, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS", "BREW"):
        answer = api.request(method, path)
        assert answer.status_code == 404, (method, path)
        _is_problem(method, answer, "not-found")


def test_the_document_is_kept_by_nobody_either(api: TestClient) -> None:
    assert api.get("/openapi.json").headers["cache-control"] == "no-store"


def test_an_error_that_nobody_meant_is_a_problem_and_its_words_are_in_no_log(
    api: TestClient, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("c4nary")

    environment.setattr(views, "listed", fail)
    answer = api.get("/verifications?client_reference_id=c4nary")
    assert answer.status_code == 500
    _is_problem("GET", answer, "internal")
    said = capsys.readouterr()
    assert "c4nary" not in answer.text + said.out + said.err
    assert "api.failed" in said.out + said.err
    assert "test_api.py" in said.out + said.err, "it says where"


def _is_problem(method: str, answer: Any, code: str) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert method == "HEAD" or (answer.json()["code"], answer.json()["status"]) == (code, answer.status_code)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"client_reference_id": NaN}', 400),
        (b'{"client_reference_id": 1e400}', 400),
        (b'{"client_reference_id": "\\ud800"}', 400),
        (b'{"client_reference_id": "\xff"}', 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"[" * 30_000 + b"]" * 30_000, 400),
        (b'{"options": ' * 900 + b"1" + b"}" * 900, 422),
        (b'{"return_url": ' + b"[" * 1000 + b"]" * 1000 + b"}", 422),
        (b'{"client_reference_id": %s}' % (b"9" * 200), 422),
        (b'{"client_reference_id": %s}' % (b"9" * 5000), 400),
        (b'{"client_reference_id": "u", "type": "document", "client_reference\\u005fid": "v"}', 400),
        (b'{"client_reference_id": "a\\u0000", "type": "document"}', 422),
        (b'{"client_reference_id": "u", "type": "document", "metadata": {"\\u0000": "v"}}', 422),
        (b'{"client_reference_id": "u", "type": "document", "type": "library_card"}', 400),
    ],
)
def test_json_that_nobody_means_is_refused(api: TestClient, simulator: Simulator, body: bytes, status: int) -> None:
    refused = api.post("/verifications", content=body, headers=JSON)
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")
    assert simulator.truth()["sessions"] == []


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON;charset=latin-1"])
def test_what_charset_is_claimed_makes_no_difference(api: TestClient, content_type: str) -> None:
    body = json.dumps(LEAST | {"client_reference_id": "zoë"}, ensure_ascii=False).encode()
    opened = api.post("/verifications", content=body, headers={"Content-Type": content_type})
    assert (opened.status_code, opened.json()["client_reference_id"]) == (201, "zoë")


def test_a_reference_of_200_characters_and_48_keys_reach_stripe(api: TestClient, simulator: Simulator) -> None:
    metadata = {f"{number:040}": "漢" * 500 for number in range(45)}
    reference = "漢" * 200
    opened = api.post("/verifications", json=LEAST | {"client_reference_id": reference, "metadata": metadata})
    assert opened.status_code == 413  # bytes are counted, not characters
    metadata = {f"{number:040}": "v" * 500 for number in range(48)}
    opened = api.post("/verifications", json=LEAST | {"client_reference_id": reference, "metadata": metadata})
    assert opened.status_code == 201
    [session] = simulator.truth()["sessions"]
    assert (session["client_reference_id"], len(session["metadata"])) == (reference, 50)


def test_a_modal_without_a_publishable_key_is_refused_at_once(api: TestClient, simulator: Simulator) -> None:
    opened = api.post("/verifications", json=LEAST).json()
    for path in ("/verifications", f"/verifications/{opened['id']}/entry"):
        refused = api.post(path, json=(LEAST if path == "/verifications" else {}) | {"integration": "modal"})
        assert [fault["pointer"] for fault in refused.json()["faults"]] == ["/integration"]
    assert len(simulator.truth()["sessions"]) == 1


ON_ACCOUNT = (
    "The provided key 'rk_test_*1234' does not have the required permissions for this endpoint on account 'acct_1'"
)


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        (
            403,
            {"message": f"{ON_ACCOUNT}. Having the 'rak_ephemeral_key_write' permission would allow this to continue."},
            "the key lacks the permission rak_ephemeral_key_write",
        ),
        (403, {"message": "'acct_1' or 'rak_c4nary'", "code": "account_invalid"}, "the key does not reach the account"),
        (403, {"message": "c4nary"}, ""),
        (
            401,
            {"message": "Expired API Key provided: c4nary", "code": "api_key_expired"},
            "it knows no such key, or it was revoked",
        ),
        (
            400,
            {"message": "Your account is not set up to use Identity. Please have an admin visit c4nary"},
            "Identity is not enabled for the account",
        ),
        (400, {"message": "c4nary", "param": "options[document][c4nary]"}, "Stripe does not accept options"),
        (400, {"message": "c4nary", "param": "metadata[c4nary]"}, "Stripe does not accept metadata"),
        (400, {"message": "c4nary", "param": "c4nary"}, ""),
        (400, {"message": ["c4nary"], "param": {"c4nary": 1}, "code": []}, ""),
    ],
)
def test_what_stripe_has_against_it_is_said_in_words_of_our_own(
    stripe_server: FakeStripe, environment: pytest.MonkeyPatch, status: int, error: dict[str, Any], why: str
) -> None:
    environment.setattr(stripe_server, "answer", lambda _: (status, {"error": error}))
    with pytest.raises(NotNowError) as raised:
        changing.retrieve("vs_1", None)
    assert raised.value.why == why
    assert "c4nary" not in str(raised.value)


def test_a_refusal_says_what_the_key_lacks(api: TestClient, simulator: Simulator) -> None:
    api.post("/verifications", json=LEAST)
    simulator.fault(403)
    assert "detail" not in api.post("/verifications", json=LEAST).json()
    flow = api.post("/verifications", json={"client_reference_id": "user-2", "verification_flow": "vf_none"})
    assert (flow.status_code, flow.json()["detail"]) == (502, "Stripe does not accept verification_flow")


@pytest.mark.parametrize(
    ("proxies", "client", "headers", "status"),
    [
        (0, "127.0.0.1", {}, 200),
        (0, "::1", {}, 200),
        (0, "203.0.113.9", {}, 403),
        (0, "203.0.113.9", {"X-Forwarded-Proto": "https"}, 403),
        (0, "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        (0, "127.0.0.1", {"Forwarded": "for=127.0.0.1;proto=https"}, 403),
        (1, "10.0.0.1", {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, 200),
        (1, "10.0.0.1", {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}, 403),
        (1, "10.0.0.1", {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https, http"}, 403),
        (1, "10.0.0.1", {"X-Forwarded-For": "127.0.0.1, 203.0.113.9"}, 403),
        (1, "10.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
    ],
)
def test_secrets_go_out_over_https_or_to_this_machine(
    api: TestClient,
    environment: pytest.MonkeyPatch,
    proxies: int,
    client: str,
    headers: dict[str, str],
    status: int,
) -> None:
    environment.setenv("TRUSTED_PROXIES", str(proxies))
    settings.cache_clear()
    there = TestClient(api.app, "http://verify.example", client=(client, 50_000))
    answer = there.get("/verifications", headers={"Authorization": f"Bearer {TOKEN}", **headers})
    assert answer.status_code == status


def test_each_of_stripes_parameters_reaches_it_as_it_was_given(api: TestClient, simulator: Simulator) -> None:
    simulator.flow("vf_1")
    given = {
        "type": "id_number",
        "options": {"document": {"allowed_types": ["passport", "id_card"], "require_live_capture": False}},
        "provided_details": {"email": "zoë+1@example.com", "phone": "5555551212"},
        "metadata": {"plan & sum": "+ 3 = [x]"},
        "related_customer": "cus_1",
        "related_customer_account": "acct_2",
        "related_person": {"account": "ct_1", "person": "cpt_1"},
        "verification_flow": "vf_1",
    }
    opened = api.post("/verifications", json=given | {"client_reference_id": "user/1?&"}).json()
    [session] = simulator.truth()["sessions"]
    given["metadata"] = {"plan & sum": "+ 3 = [x]", "idv_id": opened["id"], "idv_generation": "1"}
    assert {name: session[name] for name in given} == given
    assert session["client_reference_id"] == "user/1?&"


@pytest.mark.parametrize("what", [*KINDS, *PARTLY])
def test_an_answer_that_is_not_stripes_is_waited_for_and_is_no_error_of_ours(
    api: TestClient, stripe: Stories, what: str
) -> None:
    opened = api.post("/verifications", json=LEAST).json()
    one, native = f"/verifications/{opened['id']}", {"integration": "native", "stripe_version": "2026-10-28.endive"}
    changed = {"metadata": {"a": "1"}, "options": {"document": {"require_live_capture": True}}}
    for path, body in (
        ("/verifications", LEAST | changed),
        ("/verifications", LEAST | changed | {"client_reference_id": "user-2"}),
        ("/verifications", LEAST | {"replaces": opened["session_id"]}),
        ("/verifications", LEAST | {"integration": "redirect"}),
        (f"{one}/entry", {"integration": "redirect"}),
        (f"{one}/entry", native),
        (f"{one}/cancel", {}),
    ):
        stripe.simulator.fault(nonsense=what, count=None)
        answer = api.post(path, json=body)
        assert answer.status_code != 500, answer.text
        assert all(isinstance(value, str) for value in answer.json().get("entry", {}).values())
        stripe.simulator.clear_faults()
        client.client.cache_clear()  # and with it the quiet that was asked for


def test_without_a_key_for_stripe_it_says_so(api: TestClient, environment: pytest.MonkeyPatch) -> None:
    environment.delenv("STRIPE_API_KEY")
    settings.cache_clear()
    refused = api.post("/verifications", json=LEAST)
    assert (refused.status_code, refused.json()["code"]) == (502, "stripe-refused")


def test_an_answer_says_what_stripe_says_where_the_record_is_a_second_behind(api: TestClient, stripe: Stories) -> None:
    """The stamp of Stripe's answer is at the earliest the second in which it was asked."""
    session_id = api.post("/verifications", json=LEAST).json()["session_id"]
    stripe.simulator.clock(frozen=True)
    stripe.simulator.submit(session_id)
    stripe.deliver(session_id)
    stripe.simulator.clock(offset=0)
    stripe.simulator.fail(session_id, "document_expired")
    resumed = api.post("/verifications", json=LEAST).json()
    assert (resumed["status"], resumed["error_code"], resumed["can_retry"], resumed["entry"]) == (
        "requires_input",
        "document_expired",
        True,
        {},
    )


def test_the_log_has_the_tokens_name_beside_what_was_done_with_it(
    api: TestClient, environment: pytest.MonkeyPatch
) -> None:
    with capture_logs([merge_contextvars]) as lines:
        id_ = api.post("/verifications", json=LEAST).json()["id"]
        environment.setenv("LINK_KEYS", "n" * 32)
        settings.cache_clear()
        for what in ("entry", "link", "cancel", "redact"):
            api.post(f"/verifications/{id_}/{what}", json={})
    said = [line for line in lines if line.get("token") == "shop"]
    done = [line["event"].removeprefix("verification.") for line in said]
    assert done == ["opened", "entered", "linked", "canceled", "redaction_asked"]
    assert all(id_ in str(line) and "user-1" not in str(line) for line in said)


def test_how_long_stripe_wants_to_be_left_alone_is_passed_on(api: TestClient, simulator: Simulator) -> None:
    simulator.fault(429, retry_after=40)
    refused = [api.post("/verifications", json=LEAST) for _ in range(2)]
    assert [(one.status_code, one.json()["code"]) for one in refused] == [(503, "stripe-unavailable")] * 2
    assert refused[0].headers["retry-after"] == "40"
    assert 0 < int(refused[1].headers["retry-after"]) <= 40


def test_an_operator_is_told_what_the_key_lacks(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    simulator.fault(401)
    arguments = parser().parse_args(["open", "user-1", "--type", "document"])
    assert arguments.command.run(arguments) == 1
    assert "Stripe answered 401: it knows no such key, or it was revoked" in capsys.readouterr().err
