"""The stand-in for Stripe.js, on a page with the policy that Stripe's guides ask for, at Stripe's own addresses."""

from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Error, Route, expect

from tests.browser.conftest import Visits
from tests.browser.visitor import Visitor
from tests.simulator.client import Simulator

pytestmark = pytest.mark.browser

KEY = "pk_test_simulator0000000000000000"
SHOP = "http://127.0.0.1:9/"
POLICY = "default-src 'none'; script-src https://js.stripe.com; frame-src https://js.stripe.com; base-uri 'none'"
PAGE = "<!doctype html><title>Shop</title><button>Pay</button><script src='https://js.stripe.com/v3/'></script>"


@pytest.fixture
def shop(visitor: Visitor) -> Visitor:
    return _at_the_shop(visitor)


def _at_the_shop(visitor: Visitor) -> Visitor:
    visitor.context.grant_permissions(["local-network-access"])  # the test's own answers come from no network
    visitor.page.route(SHOP, lambda route: _serve(route))
    visitor.page.goto(SHOP)
    return visitor


def _serve(route: Route, page: str = PAGE) -> None:
    route.fulfill(body=page, content_type="text/html", headers={"Content-Security-Policy": POLICY})


def _secret(simulator: Simulator, **params: Any) -> tuple[str, str]:
    session_id = simulator.create(**params)
    return session_id, str(simulator.post(f"/sessions/{session_id}/enter", {})["client_secret"])


def _verify(shop: Visitor, *arguments: Any, key: str = KEY, **options: Any) -> None:
    """Begins a verification; `_result` waits for its result."""
    shop.page.evaluate(
        "([key, options, given]) => { window.result = Stripe(key, options).verifyIdentity(...given); }",
        [key, options, arguments],
    )


def _result(shop: Visitor) -> Any:
    return shop.page.evaluate("window.result")


def test_the_dialog_takes_the_focus_and_gives_it_back(shop: Visitor, simulator: Simulator) -> None:
    session_id, secret = _secret(simulator)
    shop.page.get_by_role("button").focus()
    _verify(shop, secret)
    expect(shop.page.get_by_role("dialog")).to_be_visible()
    expect(shop.dialog.locator("#session")).to_have_text(session_id)
    assert shop.page.evaluate("document.activeElement.tagName") == "IFRAME"
    shop.pick("pass")
    assert _result(shop)["verificationSession"]["id"] == session_id
    expect(shop.page.get_by_role("dialog")).to_have_count(0)
    expect(shop.page.get_by_role("button")).to_be_focused()


def test_that_something_was_submitted_does_not_say_how_it_ends(shop: Visitor, simulator: Simulator) -> None:
    session_id, secret = _secret(simulator)
    _verify(shop, secret)
    shop.pick("fail", "document_expired")
    assert _result(shop)["verificationSession"]["status"] == "requires_input"
    assert simulator.session(session_id)["last_error"]["code"] == "document_expired"


def test_a_dialog_that_is_closed_is_an_error_and_nothing_at_stripe(shop: Visitor, simulator: Simulator) -> None:
    session_id, secret = _secret(simulator)
    before = [event["id"] for event in simulator.events(session_id)]
    _verify(shop, secret)
    shop.pick("close")
    assert _result(shop)["error"]["code"] == "session_cancelled"
    assert [event["id"] for event in simulator.events(session_id)] == before


def test_an_unknown_code_has_a_message_in_the_persons_language(shop: Visitor, simulator: Simulator) -> None:
    _verify(shop, _secret(simulator)[1], locale="de")
    shop.pick("a_code_of_tomorrow")
    assert _result(shop)["error"]["message"] == "Etwas Neues ist passiert."


def test_a_secret_is_refused_a_second_time_and_with_another_key_or_account(shop: Visitor, simulator: Simulator) -> None:
    _, secret = _secret(simulator)
    _, theirs = _secret(simulator, account="acct_1Shop")
    _verify(shop, secret, key=KEY.replace("test", "live"))
    assert "Invalid API Key" in _result(shop)["error"]["message"]
    _verify(shop, theirs)
    assert _result(shop)["error"]["code"] == "resource_missing"
    _verify(shop, theirs, stripeAccount="acct_1Shop")
    shop.pick("close")
    assert _result(shop)["error"]["code"] == "session_cancelled"
    _verify(shop, secret)
    shop.pick("close")
    _verify(shop, secret)
    assert "was used" in _result(shop)["error"]["message"]


@pytest.mark.parametrize("given", [(), (None,), ("",), ("vs_1_secret",), (7,)])
def test_no_secret_is_an_exception_as_it_is_of_the_real_one(shop: Visitor, given: tuple[Any, ...]) -> None:
    with pytest.raises(Error, match="should be a client_secret"):
        _verify(shop, *given)


def test_no_publishable_key_is_an_exception(shop: Visitor) -> None:
    with pytest.raises(Error, match="publishable key"):
        _verify(shop, "vs_1_secret_test", key="sk_test_simulator0000")


def test_two_windows_have_a_dialog_each(visits: Visits, simulator: Simulator) -> None:
    one, other = _at_the_shop(visits()), _at_the_shop(visits())
    for shop in (one, other):
        _verify(shop, _secret(simulator)[1])
    other.pick("close")
    one.pick("pass")
    assert ("error" in _result(other), "error" in _result(one)) == (True, False)


def test_as_soon_as_it_is_loaded_it_tells_the_pages_address_unless_that_is_forbidden(shop: Visitor) -> None:
    def told() -> list[str]:
        return [frame.url for frame in shop.page.frames if "#url=" in frame.url]

    assert told() == [f"https://js.stripe.com/js/m-outer#url={quote(SHOP, safe='')}"]
    shop.page.route(SHOP, lambda route: _serve(route, PAGE.replace("/v3/", "/v3/?advancedFraudSignals=false")))
    shop.page.reload()
    assert shop.page.evaluate("typeof Stripe") == "function"
    assert told() == []
