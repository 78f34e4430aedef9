"""The dialog of the local Stripe's stand-in for Stripe.js, without a browser: tests/browser/ has it in one."""

import json
import re
import urllib.error
import urllib.request
from typing import Any, cast
from urllib.parse import urlencode

import pytest
from stripe import StripeClient

from tests.simulator.client import Simulator

PUBLISHABLE = "pk_test_simulator0000"


@pytest.fixture
def client(simulator: Simulator) -> StripeClient:
    return StripeClient(simulator.api_key, base_addresses={"api": simulator.base})


@pytest.mark.parametrize(
    ("outcome", "at_stripe", "said"),
    [
        ("pass", "verified", "verified"),
        ("submit", "processing", "processing"),
        ("fail", "document_unverified_other", "requires_input"),
        ("decline", "consent_declined", "consent_declined"),
        ("refuse-camera", "device_not_supported", "device_unsupported"),
        ("under-age", "under_supported_age", "under_supported_age"),
        ("decline-phone", "phone_verification_declined", "phone_otp_declined"),
        ("decline-email", "email_verification_declined", "email_verification_declined"),
        ("abandon", "abandoned", "session_cancelled"),
        ("close", "requires_input", "session_cancelled"),
        ("a_code_of_tomorrow", "requires_input", "a_code_of_tomorrow"),
    ],
)
def test_the_dialog_says_what_became_of_it(
    simulator: Simulator, client: StripeClient, outcome: str, at_stripe: str, said: str
) -> None:
    session = _session(client)
    page, url = _post(f"{simulator.base}/js/modal", client_secret=session.client_secret, publishable_key=PUBLISHABLE)
    assert f'value="{outcome}"' in page
    result = _said(_post(url, outcome=outcome)[0])
    error = result.get("error", {})
    assert said == (error.get("code") or result["verificationSession"]["status"])
    assert ("verificationSession" in result) != bool(error.get("message"))
    now = simulator.session(session.id)
    assert at_stripe == (now["last_error"] or {}).get("code", now["status"])
    with pytest.raises(urllib.error.HTTPError, match="Gone") as gone:
        _post(url, outcome="pass")
    gone.value.close()


def test_the_dialog_opens_for_a_fresh_secret_of_its_account_and_mode(
    simulator: Simulator, client: StripeClient
) -> None:
    def asked(secret: Any, key: str = PUBLISHABLE, account: str = "") -> dict[str, Any]:
        text, _ = _post(f"{simulator.base}/js/modal", client_secret=secret, publishable_key=key, account=account)
        return {} if "Pick how" in text else cast("dict[str, Any]", _said(text)["error"])

    secrets = [_session(client).client_secret for _ in range(3)]
    theirs = _session(client, "acct_1Shop").client_secret
    assert "Invalid API Key" in asked(secrets[0], "pk_live_simulator0000")["message"]
    assert asked(secrets[0], account="acct_1Shop")["code"] == "resource_missing"
    assert asked(theirs)["code"] == "resource_missing"
    assert asked(theirs, account="acct_1Shop") == {}
    assert asked(secrets[0]) == {}
    assert "was used" in asked(secrets[0])["message"]
    assert "never was one" in asked("vs_1_secret_made_up")["message"]
    simulator.clock(offset=86_400 + 60)
    assert "has expired" in asked(secrets[1])["message"]


def test_a_code_of_tomorrow_is_said_in_the_persons_language(simulator: Simulator, client: StripeClient) -> None:
    secret = _session(client).client_secret
    dialog = f"{simulator.base}/js/modal"
    _, url = _post(dialog, client_secret=secret, publishable_key=PUBLISHABLE, locale="de-AT")
    assert _said(_post(url, outcome="a_code_of_tomorrow")[0])["error"]["message"] == "Etwas Neues ist passiert."


def _session(client: StripeClient, account: str | None = None) -> Any:
    of = {"stripe_account": account} if account else {}
    return client.v1.identity.verification_sessions.create({"type": "document"}, of)  # type: ignore[arg-type]


def _post(url: str, **form: Any) -> tuple[str, str]:
    """The page that answers, and its address."""
    with urllib.request.urlopen(url, urlencode(form).encode()) as answer:
        return answer.read().decode(), answer.url


def _said(frame: str) -> dict[str, Any]:
    """The message of a frame to its page."""
    (message,) = re.findall(r"postMessage\(\{ result: (.*) \}, ", frame)
    return cast("dict[str, Any]", json.loads(message))
