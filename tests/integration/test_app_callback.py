"""The main application is told of every change: signed, in order, again until it has taken it, and nothing personal."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from handlers.outbox import application as application_call
from handlers.outbox.perform import perform
from handlers.outbox.turns import release_next
from handlers.queue import claims, failures
from handlers.tables.models import ActionStatus, OutboxAction
from tests.integration.stories import perform_all, perform_everything
from tests.property.outside import SECRET, Application
from tests.support import databases, facts
from tests.support.facts import NOON, event
from tests.support.wire import saying

pytestmark = pytest.mark.usefixtures("database_url", "post_box")


def _changes(*kinds: str) -> list[OutboxAction]:
    """Applies one event for each change; the rows that tell of them."""
    report = {"verified": "vr_1", "requires_input": "vr_1"}
    code = {"requires_input": "abandoned"}
    for number, kind in enumerate(kinds):
        told = event(
            kind, NOON + number, report=report.get(kind), code=code.get(kind), user="c4nary", reference="c4nary"
        )
        facts.applied(told)
    return _tellings()


def _tellings() -> list[OutboxAction]:
    return [action for action in facts.actions() if action.name == "notify_app"]


def _id(action: OutboxAction) -> int:
    assert action.id is not None
    return action.id


def test_a_change_is_told_as_the_standard_webhooks_library_verifies_it(application: Application) -> None:
    (telling,) = _changes("verified")
    perform_all([_id(telling)])
    (caught,) = application.caught
    message: dict[str, Any] = Webhook(SECRET).verify(caught.body, caught.headers)
    assert message == {
        "type": "verification.status_changed",
        "timestamp": telling.created_at.isoformat(),
        "data": {
            "session_id": "vs_1",
            "change_number": 1,
            "status": "verified",
            "error_code": None,
            "account": None,
            "livemode": False,
            **dict.fromkeys(("verification_id", "purpose", "generation", "client_reference_id", "replaced")),
        },
    }
    assert facts.action(_id(telling)).status == ActionStatus.DONE


def test_a_changed_body_or_another_secret_is_noticed(application: Application) -> None:
    perform_all([_id(telling) for telling in _changes("verified")])
    (caught,) = application.caught
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(caught.body.replace(b"verified", b"canceled"), caught.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(caught.body, caught.headers)


def test_every_change_tells_how_it_was_then_whatever_has_come_since(application: Application) -> None:
    _changes("created", "processing", "requires_input", "processing", "verified")
    perform_everything()
    told = [caught.event["data"] for caught in application.caught]
    assert [change["change_number"] for change in told] == [1, 2, 3, 4, 5]
    assert [(change["status"], change["error_code"]) for change in told] == [
        ("requires_input", None),
        ("processing", None),
        ("requires_input", "abandoned"),
        ("processing", None),
        ("verified", None),
    ]


def test_nothing_personal_is_told(application: Application) -> None:
    _changes("created", "requires_input", "verified")
    perform_everything()
    assert len(application.caught) == 3
    for caught in application.caught:
        assert b"c4nary" not in caught.body
        assert not any("c4nary" in value for value in caught.headers.values())


def test_a_change_that_arrived_too_late_is_not_told(application: Application) -> None:
    facts.applied(event("verified", NOON + 5, report="vr_1"), event("processing", NOON + 1), event("created"))
    perform_everything()
    assert application.taken["vs_1"] == [1]


def test_a_second_failure_for_the_same_reason_is_no_change_of_the_status(application: Application) -> None:
    """The event in between has not come; the person is asked again nevertheless."""
    for number in (1, 2):
        facts.applied(event("requires_input", NOON + number, code="document_expired", report=f"vr_{number}"))
    perform_everything()
    assert application.taken["vs_1"] == [1]
    assert [one.name for one in facts.actions()].count("email_retry_prompt") == 2


def test_every_try_carries_the_same_message_id_and_its_own_timestamp(application: Application) -> None:
    (telling,) = _changes("verified")
    for status in (500, 302, 404, 200):
        application.status = status
        perform_everything()
    assert len({caught.headers["webhook-id"] for caught in application.caught}) == 1
    assert len(application.caught) == 4
    for caught in application.caught:
        Webhook(SECRET).verify(caught.body, caught.headers)
    assert facts.action(_id(telling)).status == ActionStatus.DONE


def test_a_change_that_somebody_else_has_claimed_meanwhile_is_not_told(
    application: Application, environment: pytest.MonkeyPatch
) -> None:
    (telling,) = _changes("verified")

    def be_late(*_: object) -> str:
        facts.end_all_leases()
        assert claims.claim(OutboxAction, [_id(telling)])
        return "{}"

    environment.setattr(application_call, "_message", be_late)
    perform_all([_id(telling)])
    assert application.caught == []
    assert facts.action(_id(telling)).status == ActionStatus.PENDING


def test_two_changes_and_two_sessions_have_message_ids_of_their_own(application: Application) -> None:
    _changes("created", "verified")
    facts.applied(event("verified", session_id="vs_2", report="vr_1"))
    perform_everything()
    assert len({caught.headers["webhook-id"] for caught in application.caught}) == 3


def test_a_refused_change_is_tried_again_with_a_delay_and_then_dead(
    application: Application, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ACTION_ATTEMPTS", "3")
    databases.forget_process_state()
    application.status = 500
    (telling,) = _changes("verified")
    for attempt in (1, 2, 3):
        assert facts.action(_id(telling)).status == ActionStatus.PENDING
        perform_everything()
        row = facts.action(_id(telling))
        assert (row.attempts, row.waits, row.last_error) == (attempt, 0, "the application answered 500")
    assert facts.action(_id(telling)).status == ActionStatus.DEAD


def test_a_refused_change_is_not_due_at_once(application: Application, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(failures, "backoff", lambda _: timedelta(seconds=40))
    application.status = 503
    (telling,) = _changes("verified")
    assert perform(_id(telling)) == []
    assert perform(_id(telling)) == []
    assert len(application.caught) == 1
    assert facts.action(_id(telling)).due_at > datetime.now(UTC) + timedelta(seconds=30)


def test_an_application_that_cannot_be_reached_is_waited_for_and_nothing_is_buried(
    application: Application, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ACTION_ATTEMPTS", "1")
    environment.setenv("APP_CALLBACK_URL", "http://127.0.0.1:9/")
    databases.forget_process_state()
    (telling,) = _changes("verified")
    for _ in range(3):
        perform_everything()
    row = facts.action(_id(telling))
    assert (row.status, row.attempts, row.waits) == (ActionStatus.PENDING, 3, 3)
    assert row.last_error == "the application was not reached: nobody listens there"
    environment.setenv("APP_CALLBACK_URL", application.catcher.url)
    databases.forget_process_state()
    perform_everything()
    assert application.taken["vs_1"] == [1]


@pytest.mark.parametrize("status", [400, 409, 410, 422, 500])
def test_what_the_application_says_of_a_change_counts(
    application: Application, environment: pytest.MonkeyPatch, status: int
) -> None:
    environment.setenv("ACTION_ATTEMPTS", "1")
    databases.forget_process_state()
    application.status = status
    (telling,) = _changes("verified")
    perform_everything()
    assert facts.action(_id(telling)).status == ActionStatus.DEAD


@pytest.mark.parametrize("status", [302, 401, 403, 404, 407, 429, 502, 503, 504, 530])
def test_what_a_proxy_may_have_said_does_not_count(
    application: Application, environment: pytest.MonkeyPatch, status: int
) -> None:
    environment.setenv("ACTION_ATTEMPTS", "1")
    (telling,) = _changes("verified")
    application.status = status
    for waits in (1, 2):
        databases.forget_process_state()
        perform_everything()
        row = facts.action(_id(telling))
        assert (row.status, row.waits, row.last_error) == (
            ActionStatus.PENDING,
            waits,
            f"the application answered {status}",
        )
    application.status = 200
    databases.forget_process_state()
    perform_everything()
    assert application.taken["vs_1"] == [1]


def test_an_application_that_wants_quiet_gets_it(environment: pytest.MonkeyPatch) -> None:
    says = b"HTTP/1.1 503 No\r\nRetry-After: 300\r\nContent-Length: 0\r\n\r\n"
    with saying(lambda _: iter([says])) as wire:
        environment.setenv("APP_CALLBACK_URL", wire.url)
        databases.forget_process_state()
        began = datetime.now(UTC)
        for number in range(5):
            facts.applied(event("verified", session_id=f"vs_{number}", report="vr_1"))
        perform_everything()
        assert wire.connections == 1
    assert {one.waits for one in facts.actions("vs_4") if one.name == "notify_app"} == {1}
    assert all(one.due_at > began + timedelta(seconds=295) for one in facts.actions() if one.name == "notify_app")


_HTML = b"Content-Type: text/html; charset=utf-8\r\n"


@pytest.mark.parametrize(
    ("head", "body", "is_taken"),
    [
        (_HTML, b"<!doctype html><title>Sign in</title>", False),
        (_HTML, b"\xef\xbb\xbf\n<!-- app -->\n<HTML lang=en>", False),
        (_HTML, b"<!DOCTYPE html>" + b"x" * 200_000, False),
        (_HTML, b"<head><title>Document Moved</title></head>", False),
        (_HTML, b'<META http-equiv="refresh" content="0; url=http://portal/">', False),
        (_HTML, b"<script>location='/login'</script>", False),
        (b"Content-Type: text/html; charset=utf-16\r\n", "<html lang=en>".encode("utf-16"), False),
        (_HTML, b"<p>taken by <b>headquarters</b></p>", True),
        (_HTML, b"ok", True),
        (_HTML, b"", True),
        (b"Content-Type: application/json\r\n", b'{"html": "<html>"}', True),
        (b"", b"<html>", True),
    ],
    ids=[
        *("sign-in", "comment", "large", "no html", "refresh", "script", "utf-16"),
        *("words", "ok", "empty", "json", "no type"),
    ],
)
def test_a_web_page_is_no_word_of_the_application(
    environment: pytest.MonkeyPatch, application: Application, head: bytes, body: bytes, is_taken: bool
) -> None:
    """The sign-in page of a proxy, or the start page that a website shows for each path that it does not know."""
    assert application.caught == []
    says = b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with saying(lambda _: iter([says])) as wire:
        environment.setenv("APP_CALLBACK_URL", wire.url)
        databases.forget_process_state()
        (telling,) = _changes("verified")
        perform_all([_id(telling)])
    row = facts.action(_id(telling))
    if is_taken:
        assert row.status == ActionStatus.DONE
    else:
        assert (row.status, row.attempts, row.waits) == (ActionStatus.PENDING, 1, 1)
        assert row.last_error == "the application answered 200 with a web page"


def test_an_answer_counts_whose_body_never_comes(environment: pytest.MonkeyPatch, application: Application) -> None:
    assert application.caught == []
    with saying(lambda _: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])) as wire:
        environment.setenv("APP_CALLBACK_URL", wire.url)
        databases.forget_process_state()
        (telling,) = _changes("verified")
        perform_all([_id(telling)])
    assert facts.action(_id(telling)).status == ActionStatus.DONE


@pytest.mark.parametrize("status", [300, 302, 307])
def test_a_redirect_is_not_followed(application: Application, environment: pytest.MonkeyPatch, status: int) -> None:
    with _redirecting_to(application.catcher.url, status) as url:
        environment.setenv("APP_CALLBACK_URL", url)
        databases.forget_process_state()
        (telling,) = _changes("verified")
        perform_everything()
    assert application.caught == []
    assert facts.action(_id(telling)).last_error == f"the application answered {status}"


def test_a_lower_number_that_is_pending_holds_the_higher_ones(application: Application) -> None:
    first, second, third = _changes("created", "processing", "verified")
    perform_all([_id(third), _id(second)])
    assert application.caught == []
    waiting = facts.action(_id(second))
    assert (waiting.status, waiting.waits) == (ActionStatus.PENDING, 1)
    perform_all([_id(first)])
    assert application.taken["vs_1"] == [1, 2, 3]


def test_a_lower_number_that_is_tried_again_holds_the_higher_ones_without_a_rush(application: Application) -> None:
    first, second = _changes("created", "verified")
    application.status = 500
    assert perform(_id(first)) == []
    assert perform(_id(second)) == [], "it would be performed again and again"
    application.status = 200
    perform_everything()
    perform_everything()
    assert application.taken["vs_1"] == [1, 2]


def test_a_dead_one_blocks_nobody(application: Application, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ACTION_ATTEMPTS", "1")
    databases.forget_process_state()
    application.status = 500
    first, second = _changes("created", "verified")
    perform_all([_id(second)])
    released = perform(_id(first))
    assert facts.action(_id(first)).status == ActionStatus.DEAD
    assert released == [_id(second)]
    application.status = 200
    perform_all(released)
    assert application.taken["vs_1"] == [2]


def test_another_session_is_not_held(application: Application) -> None:
    application.status = 500
    perform_all([_id(telling) for telling in _changes("created")])
    application.status = 200
    perform_all(facts.applied(event("verified", session_id="vs_2", report="vr_1")))
    assert application.taken == {"vs_2": [1]}


def test_what_is_on_its_way_is_not_released_to_somebody_else(application: Application) -> None:
    first, second = _changes("created", "verified")
    perform_all([_id(second)])
    released_meanwhile: list[int] = []
    perform(_id(first))
    application.meanwhile = lambda: released_meanwhile.extend(release_next(facts.action(_id(first))))
    perform_all([_id(second)])
    assert released_meanwhile == []
    assert application.taken["vs_1"] == [1, 2]


def test_one_that_finds_a_lower_number_pending_just_before_that_is_done_is_not_left_to_its_delay(
    application: Application, environment: pytest.MonkeyPatch
) -> None:
    first, second = _changes("created", "verified")

    give_up = claims.give_up

    def give_up_late(claim: claims.Claim, error: Exception) -> None:
        environment.setattr(claims, "give_up", give_up)
        perform_all([_id(first)])
        give_up(claim, error)

    environment.setattr(claims, "give_up", give_up_late)
    perform_all([_id(second)])
    assert application.taken["vs_1"] == [1, 2]


def test_ten_changes_are_told_in_the_order_of_their_numbers_not_of_their_digits(application: Application) -> None:
    _changes("created", *("processing", "requires_input") * 5)
    for telling in reversed(_tellings()):
        perform_all([_id(telling)])
    assert application.taken["vs_1"] == list(range(1, 12))


@contextmanager
def _redirecting_to(url: str, status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Location", url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
