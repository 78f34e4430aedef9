"""The local Stripe, seen through the official SDK and from a webhook endpoint."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from tests.simulator import reasons
from tests.simulator.catcher import Catcher
from tests.simulator.client import ROOT, Simulator, SimulatorError

PREFIX = "identity.verification_session."
CONNECTED = "acct_1Connected"


@pytest.fixture(scope="module")
def started() -> Iterator[Simulator]:
    with Simulator.start(speed=1000.0, seed=7) as simulator:
        yield simulator


@pytest.fixture
def simulator(started: Simulator) -> Simulator:
    started.reset()
    return started


@pytest.fixture
def catcher() -> Iterator[Catcher]:
    with Catcher() as catcher:
        yield catcher


@pytest.fixture
def client(simulator: Simulator) -> StripeClient:
    return _client(simulator, simulator.api_key)


def _client(simulator: Simulator, key: str, **options: Any) -> StripeClient:
    return StripeClient(key, base_addresses={"api": simulator.base}, max_network_retries=0, **options)


def _sessions(client: StripeClient) -> Any:
    """Untyped: nearly every field of the SDK's is optional."""
    return client.v1.identity.verification_sessions


def _endpoints(client: StripeClient) -> Any:
    return client.v1.webhook_endpoints


def _create(client: StripeClient, **params: Any) -> Any:
    return _sessions(client).create({"type": "document", **params})


def _retrieve(client: StripeClient, session_id: str, *expand: str) -> Any:
    return _sessions(client).retrieve(session_id, {"expand": list(expand)} if expand else {})


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix(PREFIX) for event in events]


# The object


def test_a_new_session_requires_input_and_has_a_secret_and_a_url(client: StripeClient) -> None:
    session = _create(client, metadata={"user_id": "42"}, options={"document": {"require_matching_selfie": True}})
    assert re.fullmatch(r"vs_1\w{23}", session.id)
    assert (session.object, session.status, session.type) == (PREFIX[:-1], "requires_input", "document")
    assert session.client_secret.startswith(f"{session.id}_secret_test_")
    assert session.url.startswith("http://127.0.0.1:")
    assert session.metadata.to_dict() == {"user_id": "42"}
    assert session.options.document.require_matching_selfie is True
    assert (session.livemode, session.last_error, session.redaction) == (False, None, None)


def test_every_retrieve_gives_a_fresh_secret_and_url_until_input_is_no_longer_required(
    simulator: Simulator, client: StripeClient
) -> None:
    session = _create(client)
    first, second = _retrieve(client, session.id), _retrieve(client, session.id)
    assert len({session.client_secret, first.client_secret, second.client_secret}) == 3
    assert len({session.url, first.url, second.url}) == 3
    simulator.submit(session.id)
    assert (_retrieve(client, session.id).client_secret, _retrieve(client, session.id).url) == (None, None)


def test_details_and_outputs_appear_only_when_expanded(simulator: Simulator, client: StripeClient) -> None:
    session = _create(client, provided_details={"email": "jenny@example.com", "phone": "+15550100"})
    assert "provided_details" not in session
    simulator.passed(session.id)
    plain = _retrieve(client, session.id)
    assert "verified_outputs" not in plain
    assert isinstance(plain.last_verification_report, str)
    full = _retrieve(client, session.id, "provided_details", "verified_outputs", "last_verification_report")
    assert full.provided_details.email == "jenny@example.com"
    assert (full.verified_outputs.first_name, full.verified_outputs.address.country) == ("Jenny", "US")
    assert "dob" not in full.verified_outputs
    assert full.last_verification_report.id == plain.last_verification_report
    assert "number" not in full.last_verification_report.document


def test_sensitive_fields_need_a_restricted_key_and_their_own_expand(
    simulator: Simulator, client: StripeClient
) -> None:
    session_id = simulator.create()
    simulator.passed(session_id)
    paths = ("verified_outputs.dob", "last_verification_report.document.number")
    with pytest.raises(stripe.PermissionError):
        _retrieve(client, session_id, *paths)
    restricted = _client(simulator, simulator.restricted_key)
    seen = _retrieve(restricted, session_id, *paths)
    assert seen.verified_outputs.dob.year == 1901
    assert seen.last_verification_report.document.number == "DL1234567"
    assert "expiration_date" not in seen.last_verification_report.document
    assert "dob" not in _retrieve(restricted, session_id, "verified_outputs").verified_outputs


def test_an_unknown_expand_is_refused(client: StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        _create(client, expand=["everything"])


@pytest.mark.parametrize("code", sorted(reasons.REASONS))
def test_every_failure_has_its_code_and_a_sentence(simulator: Simulator, client: StripeClient, code: str) -> None:
    session_id = simulator.create()
    simulator.fail(session_id, code)
    session = _retrieve(client, session_id)
    assert (session.status, session.last_error.code) == ("requires_input", code)
    assert session.last_error.reason.endswith(".")
    assert (session.last_verification_report is None) == (code in reasons.BEFORE_SUBMISSION)


def test_every_submission_leaves_a_new_report(simulator: Simulator, client: StripeClient) -> None:
    session_id = simulator.create(client_reference_id="user-1")
    simulator.fail(session_id, "selfie_face_mismatch")
    first = _retrieve(client, session_id).last_verification_report
    simulator.passed(session_id)
    second = _retrieve(client, session_id).last_verification_report
    reports = client.v1.identity.verification_reports.list({"verification_session": session_id})
    assert [report.id for report in reports.data] == [second, first]
    failed: Any = client.v1.identity.verification_reports.retrieve(first)
    assert (failed.selfie.status, failed.selfie.error.code) == ("unverified", "selfie_face_mismatch")
    assert client.v1.identity.verification_reports.list({"client_reference_id": "user-2"}).data == []


def test_update_merges_metadata_and_an_empty_value_unsets(client: StripeClient) -> None:
    session = _create(client, metadata={"a": "1", "b": "2"})
    sessions = _sessions(client)
    updated = sessions.update(
        session.id, {"metadata": {"a": "", "c": "3"}, "provided_details": {"email": "x@example.com"}}
    )
    assert updated.metadata.to_dict() == {"b": "2", "c": "3"}
    assert _retrieve(client, session.id, "provided_details").provided_details.email == "x@example.com"


@pytest.mark.parametrize("key", ["0", "1", "\N{SUPERSCRIPT TWO}"])
def test_a_number_is_a_key_of_metadata_like_any_other(client: StripeClient, key: str) -> None:
    assert _create(client, metadata={key: "a"}).metadata.to_dict() == {key: "a"}


def test_a_static_link_makes_a_session_with_a_reference_and_no_metadata(
    simulator: Simulator, client: StripeClient
) -> None:
    link = simulator.flow("vf_1Flow", options={"document": {"require_id_number": True}})
    with urllib.request.urlopen(f"{link}?client_reference_id=typed-by-anyone&prefilled_email=a%40example.com") as page:
        assert b"Verify your identity" in page.read()
    [session] = _sessions(client).list({"expand": ["data.provided_details"]}).data
    assert (session.client_reference_id, session.metadata.to_dict()) == ("typed-by-anyone", {})
    assert (session.verification_flow, session.provided_details.email) == ("vf_1Flow", "a@example.com")
    assert session.options.to_dict() == {"document": {"require_id_number": True}}
    assert simulator.session(simulator.create_from_link("u-9"))["client_reference_id"] == "u-9"


def test_a_static_link_without_an_address_asks_for_it(simulator: Simulator, client: StripeClient) -> None:
    link = simulator.flow("vf_1Flow", name="Drivers") + "?client_reference_id=u-1"
    with urllib.request.urlopen(link) as page:
        assert b"Your email address" in page.read()
    assert _sessions(client).list().data == []
    with urllib.request.urlopen(link, b"email=b%40example.com") as page:
        assert b"Verify your identity" in page.read()
    [session] = _sessions(client).list({"expand": ["data.provided_details"]}).data
    assert (session.client_reference_id, session.provided_details.email) == ("u-1", "b@example.com")


def test_a_flow_works_in_the_api_while_its_link_is_off(simulator: Simulator, client: StripeClient) -> None:
    link = simulator.flow("vf_1Flow", link=False)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(link)
    assert (raised.value.code, b"not active" in raised.value.read()) == (404, True)
    raised.value.close()
    assert _sessions(client).create({"verification_flow": "vf_1Flow"}).verification_flow == "vf_1Flow"


def test_an_edited_flow_touches_later_sessions_only(simulator: Simulator, client: StripeClient) -> None:
    simulator.flow("vf_1Flow", options={"document": {"require_id_number": True}})
    earlier = _sessions(client).create({"verification_flow": "vf_1Flow"})
    simulator.flow("vf_1Flow", options={"document": {"require_id_number": False}})
    later = _sessions(client).create({"verification_flow": "vf_1Flow"})
    asked = [_retrieve(client, one.id).options.to_dict()["document"]["require_id_number"] for one in (earlier, later)]
    assert asked == [True, False]


# Transitions


def test_only_a_session_that_requires_input_can_be_canceled(simulator: Simulator, client: StripeClient) -> None:
    session_id = simulator.create()
    simulator.submit(session_id)
    with pytest.raises(stripe.InvalidRequestError, match="processing"):
        _sessions(client).cancel(session_id)
    with pytest.raises(stripe.InvalidRequestError, match="processing"):
        _sessions(client).redact(session_id)
    simulator.fail(session_id, "document_expired")
    canceled = _sessions(client).cancel(session_id)
    assert (canceled.status, canceled.url, canceled.client_secret) == ("canceled", None, None)
    with pytest.raises(SimulatorError, match="canceled"):
        simulator.submit(session_id)


def test_redaction_takes_its_steps_and_wipes(simulator: Simulator, client: StripeClient) -> None:
    simulator.settings(redaction_step=None)
    session_id = simulator.create(email="jenny@example.com", metadata={"user_id": "42"})
    simulator.passed(session_id)
    redacting = _sessions(client).redact(session_id)
    assert (redacting.status, redacting.redaction.status) == ("verified", "processing")
    assert simulator.redact_step(session_id)["redaction"] == {"status": "validated"}
    simulator.redact_step(session_id)
    redacted = _retrieve(client, session_id, "provided_details", "verified_outputs")
    assert (redacted.status, redacted.redaction.status, redacted.metadata.to_dict()) == ("verified", "redacted", {})
    assert redacted.provided_details.email == "[redacted]"
    assert (redacted.verified_outputs.first_name, redacted.verified_outputs.address.country) == ("[redacted]", "US")
    dob = _retrieve(
        _client(simulator, simulator.restricted_key), session_id, "verified_outputs.dob"
    ).verified_outputs.dob
    assert (dob.year, dob.month, dob.day) == (1, 1, 1)


def test_redacting_an_open_session_cancels_it_too(simulator: Simulator, client: StripeClient, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url)
    session_id = simulator.create()
    assert _sessions(client).redact(session_id).status == "canceled"
    simulator.wait_settled()
    assert _types(simulator.events(session_id)) == ["created", "canceled", "redacted"]


def test_a_reviewer_can_override_either_way(simulator: Simulator) -> None:
    session_id = simulator.create()
    simulator.passed(session_id)
    report = simulator.session(session_id)["last_verification_report"]
    assert simulator.override(session_id)["status"] == "requires_input"
    overridden = simulator.override(session_id)
    assert (overridden["status"], overridden["last_verification_report"]) == ("verified", report)
    assert _types(simulator.events(session_id))[-3:] == ["verified", "requires_input", "verified"]


def test_leaving_or_declining_is_a_failure_without_a_submission(simulator: Simulator) -> None:
    abandoned, declined = simulator.create(), simulator.create()
    assert simulator.abandon(abandoned)["last_error"]["code"] == "abandoned"
    assert simulator.decline(declined)["last_error"]["code"] == "consent_declined"
    assert _types(simulator.events(declined)) == ["created", "requires_input"]


# Errors, keys, accounts


def test_a_missing_or_bad_key_is_a_401(simulator: Simulator) -> None:
    for key in ("sk_test", "whatever", "pk_test_1234567890"):
        with pytest.raises((stripe.AuthenticationError, stripe.PermissionError)):
            _create(_client(simulator, key))
    simulator.keys(key="sk_test_leaked00000", revoked=True)
    with pytest.raises(stripe.AuthenticationError, match="Expired") as raised:
        _create(_client(simulator, "sk_test_leaked00000"))
    assert "sk_test_leaked00000" not in str(raised.value)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{simulator.base}/v1/events")
    refused.value.close()
    assert (refused.value.code, refused.value.headers["WWW-Authenticate"]) == (401, 'Bearer realm="Stripe"')


def test_what_does_not_exist_is_a_404_with_a_code(client: StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        _retrieve(client, "vs_missing")
    assert (raised.value.http_status, raised.value.code, raised.value.param) == (404, "resource_missing", "session")
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        client.v1.customers.list()


def test_objects_of_the_other_mode_do_not_exist(simulator: Simulator, client: StripeClient) -> None:
    live = _client(simulator, simulator.live_api_key)
    session_id = simulator.create(livemode=True)
    assert _retrieve(live, session_id).livemode is True
    with pytest.raises(stripe.InvalidRequestError, match="exists in live mode, but a test mode key") as raised:
        _retrieve(client, session_id)
    assert raised.value.http_status == 404
    assert (client.v1.balance.retrieve().livemode, live.v1.balance.retrieve().livemode) == (False, True)


def test_a_connected_account_has_its_own_objects(simulator: Simulator, client: StripeClient) -> None:
    session_id = simulator.create(account=CONNECTED)
    sessions = _sessions(client)
    assert sessions.retrieve(session_id, options={"stripe_account": CONNECTED}).id == session_id
    in_context = _client(simulator, simulator.api_key, stripe_context=CONNECTED)
    assert _retrieve(in_context, session_id).id == session_id
    with pytest.raises(stripe.InvalidRequestError, match="No such"):
        sessions.retrieve(session_id)
    simulator.keys(account=CONNECTED, reachable=False)
    with pytest.raises(stripe.PermissionError, match="does not have access to account"):
        sessions.retrieve(session_id, options={"stripe_account": CONNECTED})


def test_a_restricted_key_without_the_permission_gets_a_403(simulator: Simulator) -> None:
    simulator.keys(key=simulator.restricted_key, permissions=["event_read"])
    restricted = _client(simulator, simulator.restricted_key)
    assert restricted.v1.events.list().data == []
    with pytest.raises(stripe.PermissionError, match="rak_identity_product_write"):
        _create(restricted)
    simulator.keys(key=simulator.restricted_key, permissions=None)
    assert _create(restricted).status == "requires_input"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "parameter_missing"),
        ({"type": "face"}, "parameter_invalid"),
        ({"type": "document", "x": "1"}, "parameter_unknown"),
        ({"type": "document", "options": {"email": {"require_verification": True}}}, "parameter_unknown"),
        ({"type": "document", "options": {"phone": {"check": "otp"}}}, "parameter_unknown"),
        ({"type": "document", "options": {"matching": {"name": "x"}}}, "parameter_unknown"),
        ({"type": "document", "options": {"document": {"require_smile": True}}}, "parameter_unknown"),
        ({"type": "document", "options": {"document": {"allowed_types": ["library_card"]}}}, "parameter_invalid"),
        ({"type": "document", "related_person": {"account": "acct_1"}}, "parameter_missing"),
        ({"type": "document", "related_person": {"person": "person_1"}}, "parameter_missing"),
        ({"type": "document", "client_reference_id": "u" * 201}, "parameter_invalid"),
        ({"type": "document", "return_url": "nowhere"}, "url_invalid"),
        ({"type": "document", "return_url": "https://a.example/" + "x" * 5000}, "parameter_invalid"),
        ({"type": "document", "metadata": {f"key-{n}": "x" for n in range(51)}}, "parameter_invalid"),
        ({"type": "document", "metadata": {"k" * 41: "x"}}, "parameter_invalid"),
        ({"type": "document", "metadata": {"k": "x" * 501}}, "parameter_invalid"),
        ({"verification_flow": "vf_unknown"}, "resource_missing"),
    ],
)
def test_bad_parameters_are_a_400(client: StripeClient, params: dict[str, Any], code: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        _sessions(client).create(params)
    assert (raised.value.http_status, raised.value.code) == (400, code)


def test_parameters_of_a_strange_shape_are_a_400_too(client: StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.raw_request("post", "/v1/identity/verification_sessions", type="document", provided_details="x")
    assert raised.value.http_status == 400


def test_answers_carry_request_id_date_and_version(client: StripeClient) -> None:
    response = client.raw_request("get", "/v1/account")
    assert response.headers["Request-Id"].startswith("req_")
    assert response.headers["Stripe-Version"] == stripe.api_version
    assert abs(parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()) < 5
    assert client.v1.accounts.retrieve_current().id == Simulator.account


# Idempotency


def test_the_same_key_replays_the_stored_body(simulator: Simulator, client: StripeClient) -> None:
    sessions = _sessions(client)
    first = sessions.create({"type": "document"}, {"idempotency_key": "user-1-1"})
    simulator.submit(first.id)
    again = sessions.create({"type": "document"}, {"idempotency_key": "user-1-1"})
    assert (again.id, again.client_secret, again.status) == (first.id, first.client_secret, "requires_input")
    headers = again.last_response.headers
    assert headers["Idempotent-Replayed"] == "true"
    assert headers["Original-Request"] == first.last_response.request_id
    assert len(simulator.truth()["sessions"]) == 1


def test_a_key_is_forgotten_after_a_day(simulator: Simulator, client: StripeClient) -> None:
    sessions = _sessions(client)
    first = sessions.create({"type": "document"}, {"idempotency_key": "k"})
    simulator.clock(offset=86_400 - 60)
    assert sessions.create({"type": "document"}, {"idempotency_key": "k"}).id == first.id
    simulator.clock(offset=86_400 + 60)
    assert sessions.create({"type": "document"}, {"idempotency_key": "k"}).id != first.id


def test_a_key_with_other_parameters_or_elsewhere_is_refused(client: StripeClient) -> None:
    sessions = _sessions(client)
    session = sessions.create({"type": "document"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        sessions.create({"type": "id_number"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError, match="same endpoint"):
        sessions.cancel(session.id, {}, {"idempotency_key": "k"})


def test_a_key_still_in_use_is_a_409(simulator: Simulator, client: StripeClient) -> None:
    simulator.fault(delay=1.0, path="/verification_sessions")
    sessions = _sessions(client)
    slow = threading.Thread(target=sessions.create, args=({"type": "document"}, {"idempotency_key": "k"}))
    slow.start()
    _until(lambda: simulator.faults()[0]["hits"] == 1)
    with pytest.raises(stripe.APIError, match="another in-progress request") as raised:
        sessions.create({"type": "document"}, {"idempotency_key": "k"})
    slow.join()
    assert raised.value.error is not None
    assert (raised.value.http_status, raised.value.error.code) == (409, "idempotency_key_in_use")
    assert len(simulator.truth()["sessions"]) == 1


def test_what_failed_validation_can_be_tried_again_under_its_key(client: StripeClient) -> None:
    sessions = _sessions(client)
    with pytest.raises(stripe.InvalidRequestError):
        sessions.create({"type": "face"}, {"idempotency_key": "k"})
    assert sessions.create({"type": "document"}, {"idempotency_key": "k"}).status == "requires_input"


# Lists


def test_lists_are_filtered_and_paged_newest_first(simulator: Simulator, client: StripeClient) -> None:
    ids = simulator.run(25, steps=[], session={"client_reference_id": "u{n}"})
    simulator.passed(ids[3])
    sessions = _sessions(client)
    page = sessions.list({"limit": 10})
    assert ([session.id for session in page.data], page.has_more) == (ids[:-11:-1], True)
    assert [session.id for session in sessions.list({"limit": 10}).auto_paging_iter()] == ids[::-1]
    assert [session.id for session in sessions.list({"status": "verified"}).data] == [ids[3]]
    assert [session.id for session in sessions.list({"client_reference_id": "u7"}).data] == [ids[7]]
    before = sessions.list({"ending_before": ids[20], "limit": 2})
    assert ([session.id for session in before.data], before.has_more) == ([ids[22], ids[21]], True)
    assert page.data[0].client_secret is None
    with pytest.raises(stripe.InvalidRequestError) as raised:
        sessions.list({"starting_after": "vs_gone"})
    assert raised.value.param == "starting_after"


def test_lists_can_be_cut_by_time(simulator: Simulator, client: StripeClient) -> None:
    simulator.clock(offset=-3600)
    old = simulator.create()
    simulator.clock(offset=0)
    new, hour = simulator.create(), int(time.time()) - 1800
    sessions = _sessions(client)
    assert [session.id for session in sessions.list({"created": {"gte": hour}}).data] == [new]
    assert [session.id for session in sessions.list({"created": {"lt": hour}}).data] == [old]


def test_events_before_a_cursor_come_in_chronological_order(simulator: Simulator, client: StripeClient) -> None:
    session_id = simulator.create()
    simulator.fail(session_id, "document_expired")
    simulator.passed(session_id)
    made = [event["id"] for event in simulator.events()]
    listed = client.v1.events.list({"ending_before": made[0], "limit": 2})
    assert [event.id for event in listed.auto_paging_iter()] == made[1:]


def test_events_are_filtered_by_type_and_delivery(simulator: Simulator, client: StripeClient, catcher: Catcher) -> None:
    catcher.answer = lambda caught: 500 if b"session.verified" in caught.body else 200
    simulator.endpoint(catcher.url, schedule=[])
    simulator.passed(simulator.create())
    simulator.wait_settled()
    verified = client.v1.events.list({"types": [PREFIX + "verified", PREFIX + "canceled"]}).data
    assert [event.type for event in verified] == [PREFIX + "verified"]
    assert client.v1.events.list({"delivery_success": False}).data[0].id == verified[0].id
    assert len(client.v1.events.list({"delivery_success": True, "type": PREFIX + "*"}).data) == 2
    assert client.v1.events.retrieve(verified[0].id).pending_webhooks == 1


def test_events_are_kept_for_thirty_days(simulator: Simulator, client: StripeClient) -> None:
    simulator.clock(offset=-31 * 86_400)
    simulator.create()
    simulator.clock(offset=0)
    assert client.v1.events.list().data == []
    assert len(_sessions(client).list().data) == 1


def test_an_ephemeral_key_belongs_to_one_session(simulator: Simulator, client: StripeClient) -> None:
    session = _create(client)
    key = client.v1.ephemeral_keys.create({"verification_session": session.id}, {"stripe_version": "2025-01-27.acacia"})
    assert [kept["stripe_version"] for kept in simulator.truth()["ephemeral_keys"]] == ["2025-01-27.acacia"]
    assert key.secret is not None
    assert key.secret.startswith("ek_test_")
    assert key.expires - key.created == 3600
    with pytest.raises(stripe.InvalidRequestError, match="No such"):
        client.v1.ephemeral_keys.create({"verification_session": "vs_gone"}, {"stripe_version": "2026-10-28.endive"})


def test_a_secret_opens_the_dialog_once_within_a_day_with_a_key_of_its_mode(
    simulator: Simulator, client: StripeClient
) -> None:
    secrets = [_retrieve(client, _create(client).id).client_secret for _ in range(2)]
    with pytest.raises(SimulatorError, match="Invalid API Key"):
        simulator.enter(secrets[0], "pk_live_simulator0000")
    with urllib.request.urlopen(simulator.enter(secrets[0])) as page:
        assert b"Verify your identity" in page.read()
    with pytest.raises(SimulatorError, match="was used"):
        simulator.enter(secrets[0])
    simulator.clock(offset=86_400 + 60)
    with pytest.raises(SimulatorError, match="has expired"):
        simulator.enter(secrets[1])


# Deliveries


def test_a_delivery_is_what_the_sdk_verifies(simulator: Simulator, catcher: Catcher) -> None:
    secret = simulator.endpoint(catcher.url)
    simulator.create(email="secret@example.com", metadata={"user_id": "42"})
    [caught] = catcher.wait_for(1)
    event = stripe.Webhook.construct_event(caught.body, caught.signature, secret)
    assert (event.type, event.api_version) == (PREFIX + "created", "2026-10-28.endive")
    assert event.data.object.metadata.to_dict() == {"user_id": "42"}
    assert (event.data.object.client_secret, event.data.object.url) == (None, None)
    assert b"secret@example.com" not in caught.body
    assert caught.headers["user-agent"].startswith("Stripe/1.0")
    assert ",v0=" in caught.signature


def test_a_thin_notification_leads_to_its_event_and_its_session(
    simulator: Simulator, client: StripeClient, catcher: Catcher
) -> None:
    secret = simulator.endpoint(catcher.url, payload="thin")
    session_id = simulator.create()
    [caught] = catcher.wait_for(1)
    notification = client.parse_event_notification(caught.body, caught.signature, secret)
    assert notification.type == "v1.identity.verification_session.created"
    assert notification.related_object.id == session_id
    assert notification.fetch_event().id == notification.id
    assert notification.fetch_related_object().id == session_id
    assert [event.id for event in client.v2.core.events.list({"object_id": session_id}).data] == [notification.id]


def test_both_forms_of_one_change_have_different_ids(simulator: Simulator, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url, payload="both")
    simulator.create()
    catcher.wait_for(2)
    assert {event["object"] for event in catcher.events()} == {"event", "v2.core.event"}
    assert len({event["id"] for event in catcher.events()}) == 2


def test_a_failed_delivery_is_tried_again_with_a_new_signature(simulator: Simulator, catcher: Catcher) -> None:
    catcher.answer = lambda _: 200 if len(catcher.caught) > 2 else (302, 400)[len(catcher.caught) - 1]
    secret = simulator.endpoint(catcher.url, schedule=[1.1, 1.1])
    simulator.create()
    state = simulator.wait_settled()
    assert state["delivered"] == 1
    assert len({caught.signature for caught in catcher.caught}) == 3
    assert len({caught.event["id"] for caught in catcher.caught}) == 1
    for caught in catcher.caught:
        assert stripe.WebhookSignature.verify_header(caught.body, caught.signature, secret)
    [delivery] = simulator.deliveries()
    assert [attempt["code"] for attempt in delivery["attempts"]] == [302, 400, 200]


def test_attempts_end_with_the_schedule(simulator: Simulator, client: StripeClient, catcher: Catcher) -> None:
    catcher.answer = lambda _caught: 500
    simulator.endpoint(catcher.url, schedule=[0.01, 0.01])
    simulator.create()
    assert simulator.wait_settled()["failed"] == 1
    assert len(catcher.caught) == 3
    assert client.v1.events.list({"delivery_success": False}).data[0].pending_webhooks == 1


def test_an_endpoint_that_is_not_there_or_silent_is_a_failed_attempt(simulator: Simulator, catcher: Catcher) -> None:
    silent = threading.Event()
    catcher.answer = lambda _caught: 200 + silent.wait(10)
    simulator.endpoint("http://127.0.0.1:9/none", schedule=[])
    simulator.endpoint(catcher.url, schedule=[], timeout=0.2)
    simulator.create()
    simulator.wait_settled()
    silent.set()
    attempts = [delivery["attempts"][0] for delivery in simulator.deliveries()]
    assert all(attempt["code"] is None and attempt["error"] for attempt in attempts)
    assert len(attempts) == 2


def test_pending_webhooks_counts_down(simulator: Simulator, client: StripeClient, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url)
    simulator.endpoint(catcher.url + "/2", hold=True)
    simulator.create()
    simulator.wait_settled()
    [event] = client.v1.events.list().data
    assert (catcher.events()[0]["pending_webhooks"], event.pending_webhooks) == (2, 1)
    simulator.release()
    simulator.wait_settled()
    assert (catcher.events()[1]["pending_webhooks"], client.v1.events.retrieve(event.id).pending_webhooks) == (1, 0)


def test_copies_are_the_same_event_signed_apart(simulator: Simulator, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url, copies=3)
    simulator.create()
    catcher.wait_for(3)
    assert len({event["id"] for event in catcher.events()}) == 1


def test_twins_are_two_events_for_one_change(simulator: Simulator, catcher: Catcher) -> None:
    simulator.settings(twins=True)
    simulator.endpoint(catcher.url)
    simulator.passed(simulator.create())
    catcher.wait_for(6)
    assert len({event["id"] for event in catcher.events()}) == 6
    assert Counter(_types(catcher.events())) == {"created": 2, "processing": 2, "verified": 2}


def test_held_deliveries_go_in_the_order_asked_for(simulator: Simulator, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url, hold=True, concurrency=1)
    simulator.passed(simulator.create())
    assert simulator.settled() | {"held": 3} == simulator.settled()
    assert simulator.release("reversed") == 3
    catcher.wait_for(3)
    assert _types(catcher.events()) == ["verified", "processing", "created"]


def test_deliveries_can_be_delayed_and_shuffled(simulator: Simulator, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url, delay=0.3, shuffle=0.3)
    asked_at = time.time()
    simulator.run(30, steps=[])
    caught = catcher.wait_for(30)
    made = [event["id"] for event in simulator.events()]
    assert min(one.at for one in caught) - asked_at >= 0.3
    assert [one.event["id"] for one in caught] != made
    assert sorted(one.event["id"] for one in caught) == sorted(made)


@pytest.mark.parametrize(("offset", "verdict"), [(-86_400.0, "outside the tolerance zone"), (86_400.0, None)])
def test_a_signature_can_lie_in_the_past_or_the_future(
    simulator: Simulator, catcher: Catcher, offset: float, verdict: str | None
) -> None:
    secret = simulator.endpoint(catcher.url, signed_at=offset)
    simulator.create()
    [caught] = catcher.wait_for(1)
    if verdict is None:  # the SDK's own check accepts times in the future
        assert stripe.WebhookSignature.verify_header(caught.body, caught.signature, secret, 300)
    else:
        with pytest.raises(stripe.SignatureVerificationError, match=verdict):
            stripe.WebhookSignature.verify_header(caught.body, caught.signature, secret, 300)


def test_what_an_endpoint_answers_is_noted(simulator: Simulator, catcher: Catcher) -> None:
    catcher.said = b'{"outcome": "accepted"}'
    simulator.endpoint(catcher.url)
    simulator.create()
    simulator.wait_settled()
    [delivery] = simulator.deliveries()
    assert delivery["attempts"][0]["body"] == '{"outcome": "accepted"}'


def test_a_forged_delivery_does_not_verify(simulator: Simulator, catcher: Catcher) -> None:
    secret = simulator.endpoint(catcher.url, forged=True)
    simulator.create()
    [caught] = catcher.wait_for(1)
    with pytest.raises(stripe.SignatureVerificationError, match="No signatures found matching"):
        stripe.WebhookSignature.verify_header(caught.body, caught.signature, secret)


def test_both_secrets_sign_while_a_secret_rolls(simulator: Simulator, catcher: Catcher) -> None:
    old = simulator.endpoint(catcher.url)
    new = simulator.roll_secret(catcher.url)
    simulator.create()
    [caught] = catcher.wait_for(1)
    assert caught.signature.count("v1=") == 2
    assert stripe.WebhookSignature.verify_header(caught.body, caught.signature, old)
    assert stripe.WebhookSignature.verify_header(caught.body, caught.signature, new)
    simulator.remove_endpoint(catcher.url)
    secret = simulator.endpoint(catcher.url)
    simulator.roll_secret(catcher.url, overlap=0)
    simulator.create()
    after = catcher.wait_for(2)[1]
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(after.body, after.signature, secret)


def test_connected_and_live_events_say_so_and_reach_who_asked_for_them(simulator: Simulator, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url + "/own", connect=False)
    simulator.endpoint(catcher.url + "/connect", connect=True)
    simulator.endpoint(catcher.url + "/live", livemode=True)
    own, connected = simulator.create(), simulator.create(account=CONNECTED)
    live = simulator.create(livemode=True)
    simulator.wait_settled()
    assert len(catcher.caught) == 3
    by_session = {event["data"]["object"]["id"]: event for event in catcher.events()}
    assert "account" not in by_session[own]
    assert by_session[connected]["account"] == CONNECTED
    assert by_session[live]["livemode"] is True
    urls = {delivery["event"]: delivery["url"] for delivery in simulator.deliveries()}
    assert urls[by_session[connected]["id"]].endswith("/connect")


def test_redacted_is_not_even_made_unless_selected_by_name(
    simulator: Simulator, client: StripeClient, catcher: Catcher
) -> None:
    endpoints = _endpoints(client)
    endpoint = endpoints.create({"url": catcher.url, "enabled_events": ["*"]})
    first, second = simulator.create(), simulator.create()
    simulator.redact(first)
    assert _types(simulator.events(first)) == ["created", "canceled"]
    endpoints.update(endpoint.id, {"enabled_events": ["*", PREFIX + "redacted"]})
    simulator.redact(second)
    assert _types(simulator.events(second)) == ["created", "canceled", "redacted"]
    redacted = simulator.events(second)[-1]["body"]["data"]["object"]
    assert (redacted["metadata"], redacted["redaction"]) == ({}, {"status": "redacted"})


def test_a_webhook_endpoint_shows_its_secret_once(simulator: Simulator, client: StripeClient, catcher: Catcher) -> None:
    endpoints = _endpoints(client)
    made = endpoints.create({"url": catcher.url, "enabled_events": [PREFIX + "created"]})
    assert made.secret is not None
    assert "secret" not in endpoints.retrieve(made.id)
    assert [endpoint.id for endpoint in endpoints.list().data] == [made.id]
    simulator.passed(simulator.create())
    simulator.wait_settled()
    [caught] = catcher.caught
    assert stripe.Webhook.construct_event(caught.body, caught.signature, made.secret).type == PREFIX + "created"
    endpoints.update(made.id, {"disabled": True})
    simulator.create()
    assert endpoints.delete(made.id).deleted is True
    assert len(catcher.caught) == 1


def test_a_retry_over_the_api_is_the_same_event_again(
    simulator: Simulator, client: StripeClient, catcher: Catcher
) -> None:
    endpoint = _endpoints(client).create({"url": catcher.url, "enabled_events": ["*"]})
    simulator.create()
    [first] = catcher.wait_for(1)
    path = f"/v1/events/{first.event['id']}/retry"
    client.raw_request("post", path, webhook_endpoint=endpoint.id)
    again = catcher.wait_for(2)[1]
    assert again.event["id"] == first.event["id"]
    with pytest.raises(stripe.InvalidRequestError, match="No such"):
        client.raw_request("post", path, webhook_endpoint="we_gone")


def test_events_can_be_dated_in_the_same_second(simulator: Simulator) -> None:
    simulator.run(20, steps=["processing", "pass"], same_second=True)
    assert len({event["created"] for event in simulator.events()}) == 1
    simulator.clock(frozen=1_700_000_000, offset=0)
    assert simulator.session(simulator.create())["created"] == 1_700_000_000


def test_an_event_names_the_request_that_caused_it(simulator: Simulator, client: StripeClient) -> None:
    session = _sessions(client).create({"type": "document"}, {"idempotency_key": "k-1"})
    simulator.submit(session.id)
    created, processing = (event["body"]["request"] for event in simulator.events())
    assert created == {"id": session.last_response.request_id, "idempotency_key": "k-1"}
    assert processing == {"id": None, "idempotency_key": None}


def test_events_can_carry_secrets_and_fields_nobody_knows(simulator: Simulator) -> None:
    simulator.settings(secrets_in_events=True, extra_fields={"from_the_future": {"x": 1}})
    simulator.create()
    seen = simulator.events()[0]["body"]["data"]["object"]
    assert "_secret_" in seen["client_secret"]
    assert seen["url"]
    assert seen["from_the_future"] == {"x": 1}


# Faults and the clock


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, stripe.RateLimitError),
        (500, stripe.APIError),
        (403, stripe.PermissionError),
        (404, stripe.InvalidRequestError),
    ],
)
def test_the_next_calls_fail_as_asked(
    simulator: Simulator, client: StripeClient, status: int, error: type[stripe.StripeError]
) -> None:
    session_id = simulator.create()
    simulator.fault(status, count=2, path="/verification_sessions")
    for _ in range(2):
        with pytest.raises(error) as raised:
            _retrieve(client, session_id)
        assert raised.value.http_status == status
        assert raised.value.headers is not None
        assert (raised.value.headers.get("Retry-After") == "1") == (status == 429)
    assert _retrieve(client, session_id).id == session_id


def test_all_calls_fail_until_the_fault_is_cleared(simulator: Simulator, client: StripeClient) -> None:
    simulator.fault(500, count=None)
    for _ in range(3):
        with pytest.raises(stripe.APIError):
            client.v1.events.list()
    simulator.clear_faults()
    assert client.v1.events.list().data == []


def test_a_hanging_call_runs_into_the_callers_timeout(simulator: Simulator) -> None:
    simulator.fault(hang=True)
    impatient = _client(simulator, simulator.api_key, http_client=stripe.RequestsClient(timeout=0.3))
    with pytest.raises(stripe.APIConnectionError):
        impatient.v1.events.list()
    assert impatient.v1.events.list().data == []


def test_an_answer_can_be_lost_after_its_effect(simulator: Simulator) -> None:
    simulator.fault(500, after=True)
    patient = StripeClient(simulator.api_key, base_addresses={"api": simulator.base}, max_network_retries=1)
    session = _create(patient)
    assert [found["id"] for found in simulator.truth()["sessions"]] == [session.id]
    assert session.last_response.headers["Idempotent-Replayed"] == "true"


def test_whoever_hangs_is_named_and_goes_on_when_a_fault_is_taken_back(simulator: Simulator) -> None:
    simulator.fault(name="asked", hang=True, path="/verification_sessions$", method="POST")
    stripe_ = _sessions(_client(simulator, simulator.api_key))
    made: list[Any] = []
    params, options = {"type": "document"}, {"idempotency_key": "open-1"}
    maker = threading.Thread(target=lambda: made.append(stripe_.create(params, options)))
    maker.start()
    stripe_.cancel(simulator.create())  # its path goes on
    _until(lambda: len(simulator.faults()[0]["callers"]) == 1)
    [caller] = simulator.faults()[0]["callers"]
    assert (caller["idempotency_key"], caller["port"] > 0) == ("open-1", True)
    simulator.clear_faults()
    assert [fault["name"] for fault in simulator.faults()] == ["asked"]
    assert not made
    simulator.take_back("asked")
    maker.join()
    assert (len(made), simulator.faults()) == (1, [])


@pytest.mark.parametrize("trouble", [{"nonsense": "a page"}, {"status": 500, "holding": "vs_"}])
def test_what_is_done_is_saved_under_its_key_whatever_becomes_of_its_answer(
    simulator: Simulator, client: StripeClient, trouble: dict[str, Any]
) -> None:
    simulator.fault(**trouble)
    with pytest.raises(stripe.StripeError):
        _sessions(client).create({"type": "document"}, {"idempotency_key": "k"})
    assert _sessions(client).create({"type": "document"}, {"idempotency_key": "k"}).id == simulator.last()
    simulator.forget_idempotency_keys()
    assert _sessions(client).create({"type": "document"}, {"idempotency_key": "k"}).id == simulator.last()
    assert len(simulator.truth()["sessions"]) == 2


def test_the_clock_moves_dates_and_headers_together(simulator: Simulator, client: StripeClient) -> None:
    simulator.clock(offset=7200)
    response = client.raw_request("get", "/v1/balance")
    ahead = parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()
    assert 7100 < ahead < 7300
    assert 7100 < simulator.session(simulator.create())["created"] - time.time() < 7300


# Many people, the page, the command line


def test_hundreds_of_people_are_driven_by_one_call(simulator: Simulator, catcher: Catcher) -> None:
    simulator.endpoint(catcher.url)
    ids = simulator.run(
        200,
        steps=["processing", "pass"],
        session={"metadata": {"user_id": "{n}"}, "provided_details": {"email": "u{n}@example.com"}},
    )
    state = simulator.wait_settled(60)
    truth = simulator.truth()
    assert (len(set(ids)), state["delivered"], state["failed"]) == (200, 600, 0)
    assert {session["status"] for session in truth["sessions"]} == {"verified"}
    assert truth["sessions"][7]["metadata"] == {"user_id": "7"}
    assert {event["id"] for event in catcher.events()} == {event["id"] for event in truth["events"]}


def test_mixed_scenarios_end_in_every_status(simulator: Simulator) -> None:
    simulator.settings(redaction_step=None)
    simulator.run(32, "mixed", interleave=True)
    statuses = {session["status"] for session in simulator.truth()["sessions"]}
    assert statuses == {"requires_input", "processing", "verified", "canceled"}
    with pytest.raises(SimulatorError, match="Unknown scenario"):
        simulator.run(1, "nonsense")


def _choose(url: str, **form: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode()) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({"outcome": "pass"}, "verified", None),
        ({"outcome": "submit"}, "processing", None),
        ({"outcome": "fail", "code": "selfie_face_mismatch"}, "requires_input", "selfie_face_mismatch"),
        ({"outcome": "decline"}, "requires_input", "consent_declined"),
        ({"outcome": "refuse-camera"}, "requires_input", "device_not_supported"),
        ({"outcome": "under-age"}, "requires_input", "under_supported_age"),
        ({"outcome": "decline-phone"}, "requires_input", "phone_verification_declined"),
        ({"outcome": "decline-email"}, "requires_input", "email_verification_declined"),
        ({"outcome": "abandon"}, "requires_input", "abandoned"),
        ({"outcome": "close"}, "requires_input", None),
    ],
)
def test_a_person_picks_the_outcome_on_the_page(
    simulator: Simulator, client: StripeClient, form: dict[str, str], status: str, code: str | None
) -> None:
    url = _create(client).url
    with urllib.request.urlopen(url) as page:
        shown = page.read().decode()
    assert f'value="{form["outcome"]}"' in shown
    answered, text = _choose(url, **form)
    assert (answered, "Done" in text) == (200, True)
    [session] = simulator.truth()["sessions"]
    assert (session["status"], (session["last_error"] or {}).get("code")) == (status, code)


def test_a_link_works_once_and_leads_back(simulator: Simulator, client: StripeClient) -> None:
    back = f"{simulator.base}/_control/ready"
    session = _create(client, return_url=back)
    assert _choose(session.url, outcome="nonsense")[0] == 400
    answered, text = _choose(session.url, outcome="fail", code="document_expired")
    assert (answered, '"ready": true' in text) == (200, True)
    assert _choose(session.url, outcome="pass")[0] == 410
    assert _choose(simulator.url(session.id), outcome="pass")[0] == 200
    assert simulator.session(session.id)["status"] == "verified"


def test_a_link_expires_after_two_days(simulator: Simulator, client: StripeClient) -> None:
    url = _create(client).url
    simulator.clock(offset=49 * 3600)
    assert _choose(url, outcome="pass")[0] == 410


def test_a_page_may_be_elsewhere_than_the_api(simulator: Simulator, client: StripeClient) -> None:
    simulator.settings(pages="https://verify.example")
    assert str(_create(client).url).startswith("https://verify.example/start/test_")
    simulator.reset()
    assert str(_create(client).url).startswith(f"{simulator.base}/start/test_")


def _command(simulator: Simulator, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.simulator", *arguments, "--base", simulator.base]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_people_are_driven_from_the_command_line(simulator: Simulator) -> None:
    made = _command(simulator, "create", "--email", "a@example.com", "--metadata", "user_id=42")
    assert made.returncode == 0, made.stderr
    [session] = simulator.truth()["sessions"]
    for arguments, status in [
        (("submit", session["id"]), "processing"),
        (("fail", session["id"], "document_expired"), "requires_input"),
        (("pass", session["id"]), "verified"),
        (("override", session["id"]), "requires_input"),
        (("redact", session["id"]), "canceled"),
    ]:
        ran = _command(simulator, *arguments)
        assert ran.returncode == 0, ran.stderr
        assert simulator.session(session["id"])["status"] == status
    other = simulator.create()
    assert _command(simulator, "decline-consent", "last").returncode == 0
    assert simulator.session(other)["last_error"]["code"] == "consent_declined"
    refused = _command(simulator, "submit", session["id"])
    assert (refused.returncode, "redacted" in refused.stderr) == (1, True)


def test_each_command_answers_in_a_line(simulator: Simulator) -> None:
    made = _command(simulator, "create", "--email", "a@example.com").stdout
    (name, next_step) = re.fullmatch(
        r"(vs_\w+)  requires_input  \(next: \S+python -m tests.simulator (.+)\)\n", made
    ).groups()  # type: ignore[union-attr]  # it matches
    assert next_step == f"pass {name}"
    assert _command(simulator, "fail", "last", "document_expired").stdout.startswith(
        f"{name}  requires_input  document_expired  (next: "
    )
    assert _command(simulator, "redact", "last").stdout == f"{name}  canceled  document_expired  redacted\n"
    assert _command(simulator, "url", _command(simulator, "create").stdout.split()[0]).stdout.startswith("http")
    assert json.loads(_command(simulator, "create", "--json").stdout)["object"] == "identity.verification_session"


def test_a_command_without_a_local_stripe_says_so() -> None:
    asked = _command(Simulator("http://127.0.0.1:9"), "create")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert (
        asked.stderr == "No local Stripe answers at http://127.0.0.1:9 ([Errno 111] Connection refused): make stripe\n"
    )


def test_a_busy_port_is_a_sentence(simulator: Simulator) -> None:
    port = simulator.base.rpartition(":")[2]
    refused = subprocess.run(
        [sys.executable, "-m", "tests.simulator", "--port", port], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Port {port} cannot be listened on (Address already in use")
    assert refused.stderr.endswith("choose another --port (of make stripe: STRIPE_PORT=…)\n")
    assert refused.stderr.count("\n") == 1


def test_changes_of_a_session_lie_a_second_apart_for_who_wants_to_see_them(simulator: Simulator) -> None:
    simulator.settings(spaced=True)
    sessions = simulator.run(2, "passes", same_second=True)
    times = [
        [event["created"] for event in simulator.truth()["events"] if event["session"] == session]
        for session in sessions
    ]
    assert times == [[times[0][0] + second for second in range(3)]] * 2  # each session's own times


def test_serve_is_the_default_command_and_prints_what_an_env_needs() -> None:
    arguments = ["--port", "0", "--forward-to", "http://127.0.0.1:9/x", "--secret", "whsec_given"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.simulator", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        lines = [process.stdout.readline().strip() for _ in range(9)]
        process.terminate()
    (base,) = re.fullmatch(r"STRIPE_API_BASE=(http://127\.0\.0\.1:\d+)", lines[0]).groups()  # type: ignore[union-attr]
    assert lines[1:3] == [f"STRIPE_API_KEY={Simulator.api_key}", f"STRIPE_PUBLISHABLE_KEY={Simulator.publishable_key}"]
    assert lines[3:6] == [f"STRIPE_JS_URL={base}/js/stripe.js", "STRIPE_WEBHOOK_SECRET=whsec_given", "ready"]
    assert lines[6] == f"In a second terminal: {' '.join(lines[:5])} make run"
    assert lines[7].startswith("In a third: .venv/bin/python -m tests.simulator create ")
    assert "worker link $(" in lines[8]


def _until(condition: Any, timeout: float = 10.0) -> None:
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("it did not come true")
        time.sleep(0.01)
