"""The console's page of a person: found by any of their ids, and mended by a button, with a reason."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from config.database import transaction, true_now
from handlers.inbox.receive import receive
from handlers.operator import persons
from handlers.operator.audit import audited
from handlers.outbox.perform import perform
from handlers.record.events import Status
from handlers.tables.models import ActionStatus, OutboxAction, Verification, VerificationRecord
from receiver.app import app
from receiver.console import changes
from tests.integration import visits
from tests.integration.openings import open_wanted
from tests.integration.operators import HERE, KEYS, OURS, hidden_in, send, sign_in
from tests.integration.stories import Stories, by_name, perform_everything
from tests.property.outside import PostBox
from tests.support import databases, facts
from tests.support.facts import NOON, event

pytestmark = pytest.mark.usefixtures("database_url", "stripe")
REASON = "told by phone"


@pytest.fixture
def console(environment: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser with anna, who may mend, signed in; links may be made."""
    for name, value in (visits.KEYS | KEYS).items():
        environment.setenv(name, value)
    databases.forget_process_state()
    with TestClient(app, HERE, follow_redirects=False) as client:
        sign_in(client)
        yield client


def _find(console: TestClient, word: str) -> str | None:
    answer = send(console, "/console/find", word=word)
    assert answer.status_code in (303, 404)
    return answer.headers.get("location")


def _press(console: TestClient, what: str, id_: object, of: str, reason: str = REASON) -> tuple[int, str]:
    path = f"/console/change/{what}/{id_}?of={of}"
    answer = send(console, path, on=path, reason=reason)
    return answer.status_code, answer.headers.get("location") or answer.text


def _changed() -> list[tuple[str, str, str, str, str | None]]:
    return [(row.who, row.way, row.what, row.about, row.reason) for row in audited()]


def test_a_person_is_found_by_whatever_is_known_of_them(console: TestClient, stripe: Stories) -> None:
    opened = open_wanted()
    session_id = opened.answer.id
    stripe.simulator.fail(session_id, "document_expired")
    action_id, *_ = stripe.deliver(session_id)
    received = facts.event_rows(session_id)[0].id
    there = f"/console/persons/{session_id}"
    for word in (session_id, f" {opened.verification_id} ", "user-1", received, str(action_id)):
        assert _find(console, word) == there
    for word in ("user-2", "vs_none", "999999999999999999", "9" * 40, "nobody@example.com", "nul\0", "", "é"):
        assert _find(console, word) is None
    assert "No mail address is stored here" in send(console, "/console/find", word="nobody@example.com").text


def test_a_number_that_is_a_person_and_an_action_leads_to_either(console: TestClient) -> None:
    [action_id] = facts.applied(event("verified"))
    assert _find(console, str(action_id)) == "/console/persons/vs_1"
    facts.applied(event("verified", NOON, "vs_2", user=str(action_id)))
    answer = send(console, "/console/find", word=str(action_id))
    assert answer.status_code == 200
    assert re.findall(r'<a href="(/console/persons/\w+)', answer.text) == [
        "/console/persons/vs_2",
        "/console/persons/vs_1",
    ]
    with transaction() as session:
        for session_id, user in (("vs_1", str(action_id)), ("vs_2", None)):
            session.get_one(VerificationRecord, session_id).user_id = user
    assert _find(console, str(action_id)) == "/console/persons/vs_1"


def test_the_page_tells_the_story_of_all_their_sessions(console: TestClient, stripe: Stories) -> None:
    opened = open_wanted()
    stripe.simulator.fail(opened.answer.id, "document_expired")
    for action_id in stripe.deliver(opened.answer.id):
        perform(action_id)
    stripe.later()
    again = open_wanted(replaces=opened.answer.id)
    page = console.get(f"/console/persons/{opened.answer.id}").text
    assert f"<h1>{opened.verification_id}</h1>" in page
    assert page.index(f'<h2 id="session-1">{again.answer.id}, generation 2') < page.index(
        f'<h2 id="session-2">{opened.answer.id}, generation 1'
    )
    assert f"https://dashboard.stripe.com/test/identity/verification-sessions/{again.answer.id}" in page
    assert "email_retry_prompt" in page
    assert "no address" in page


def test_a_long_story_says_that_there_is_more_and_where(console: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persons, "MOST_SHOWN", 2)
    monkeypatch.setattr(persons, "_MOST_OF_OTHERS", 1)
    monkeypatch.setattr(persons, "_STORIES", 1)
    for number in (1, 2):
        facts.applied(*(event("canceled", NOON + second, f"vs_{number}") for second in range(3)))
    with transaction() as session:
        at = true_now()
        session.add(Verification(id="idv_1", livemode=False, session_id="vs_2", created_at=at, updated_at=at))
        session.connection().execute(update(VerificationRecord).values(verification_id="idv_1"))
    page = console.get("/console/persons/vs_1").text
    assert re.findall(r'<h2 id="session-\d">(vs_\d)', page) == ["vs_2", "vs_1"]
    assert "the latest 2 events" in page
    assert "python -m worker session vs_1" in page
    assert 'href="/console/persons/vs_2">More of this session' in page
    assert page.count(">canceled<") - page.count("<dd>canceled<") == 3


def test_other_sessions_of_the_same_person_are_named_and_how_that_is_known(console: TestClient) -> None:
    told = event("verified", user="user-1", reference="c-1")
    facts.applied(told, event("verified", NOON, "vs_2", user="user-1"), event("verified", NOON, "vs_3"))
    typed = event("verified", NOON, "vs_4", reference="c-1")
    assert typed.state
    facts.applied(replace(typed, state=replace(typed.state, has_flow=True)))
    page = console.get("/console/persons/vs_1").text
    assert "Other sessions that may be theirs" in page
    assert "the same user id or reference" in page
    assert "which anybody may have typed" in page
    assert [f"/console/persons/vs_{number}" in page for number in (2, 3, 4)] == [True, False, True]
    assert "Other sessions" not in console.get("/console/persons/vs_3").text


def test_what_only_events_tell_of_has_a_page_with_them(console: TestClient) -> None:
    receive([event("verified", event_id="evt_waits")])
    there = "/console/persons/vs_1"
    for word in ("vs_1", "evt_waits"):
        assert _find(console, word) == there
    page = console.get(there).text
    assert "Nothing is held of this session but the events" in page
    assert "evt_waits" in page
    assert "/console/change/redact/" not in page
    assert "/console/change/discard/evt_waits?of=vs_1" in page


@pytest.mark.parametrize("path", ["vs_none", "x" * 300, "%00", "idv_1", "..%2Fx"])
def test_what_is_not_there_is_not_found(console: TestClient, path: str) -> None:
    assert console.get(f"/console/persons/{path}").status_code == 404
    assert console.get(f"/console/change/{path}/1?of=vs_1").status_code == 404
    assert console.get(f"/console/change/retry/{path}?of=é").status_code == 404


def test_a_button_mends_for_a_reason_which_is_written_down_with_who(console: TestClient) -> None:
    [action_id] = facts.applied(event("verified"))
    there = "/console/persons/vs_1"
    assert f"/console/change/retry/{action_id}?of=vs_1" in console.get(there).text
    assert _press(console, "retry", action_id, "vs_1")[0] == 409  # nobody has tried it
    assert _press(console, "discard", action_id, "vs_1") == (303, f"{there}?did=discard")
    assert "It is ended, and kept." in console.get(f"{there}?did=discard").text
    assert _press(console, "resend", action_id, "vs_1") == (303, f"{there}?did=resend")
    assert by_name("vs_1") == {"email_verified": ["pending"]}
    assert _changed() == [
        ("anna", "console", "resend", f"vs_1 {action_id}", REASON),
        ("anna", "console", "discard", f"vs_1 {action_id}", REASON),
    ]
    assert REASON in console.get(there).text
    assert REASON in console.get("/console/audit").text
    twice = [_press(console, "discard", action_id, "vs_1")[0] for _ in range(2)]  # two operators at once
    assert twice == [303, 409]


def test_a_form_that_is_sent_twice_has_it_done_once(console: TestClient, post_box: PostBox) -> None:
    action_id, *_ = facts.applied(event("verified"))
    perform_everything()
    path = f"/console/change/resend/{action_id}?of=vs_1"
    form = hidden_in(console.get(path).text) | {"reason": REASON}
    sent = []
    for _ in range(2):  # as by a double click, or by two operators
        sent.append(console.post(path, data=form, headers=OURS))
        perform_everything()
    assert [answer.status_code for answer in sent] == [303, 409]
    assert "somebody may have done it before you" in sent[1].text
    assert [what for _, _, what, *_ in _changed()] == ["resend"]
    assert len(post_box.told["vs_1"]) == 2
    assert console.post(path, data=form | {"tries": "é"}, headers=OURS).status_code == 409
    assert console.post(path, data=hidden_in(console.get(path).text) | {"reason": REASON}, headers=OURS).is_redirect


def test_what_is_dead_is_tried_again(console: TestClient) -> None:
    [action_id] = facts.applied(event("verified"))
    with transaction() as session:
        session.get_one(OutboxAction, action_id).status = ActionStatus.DEAD
    assert _press(console, "retry", action_id, "vs_1")[0] == 303
    assert by_name("vs_1") == {"email_verified": ["pending"]}


def test_nothing_is_changed_without_a_reason(console: TestClient) -> None:
    [action_id] = facts.applied(event("verified"))
    for reason in ("", " ", "x" * 81, "her mail is a@example.com"):
        code, page = _press(console, "discard", action_id, "vs_1", reason)
        assert code == 400
        assert "Give a reason" in page
    assert _changed() == []


def test_a_verification_is_canceled_forgotten_and_let_in_again(console: TestClient) -> None:
    one, other = open_wanted(), open_wanted(client_reference_id="user-2")
    code, page = _press(console, "link", one.verification_id, one.answer.id)
    assert code == 200
    assert f"{HERE}/verify/{one.verification_id}." in page
    assert _press(console, "cancel", one.verification_id, one.answer.id)[0] == 303
    assert facts.record(one.answer.id).status == Status.CANCELED
    assert _press(console, "redact", other.verification_id, other.answer.id)[0] == 303
    assert facts.record(other.answer.id).client_reference_id is None
    code, page = _press(console, "link", other.verification_id, other.answer.id)
    assert (code, "redacted" in page) == (409, True)
    assert _press(console, "cancel", "idv_none", one.answer.id)[0] == 409
    assert [(who, way, what) for who, way, what, *_ in _changed()] == [
        ("anna", "console", what) for what in ("redact", "cancel", "link")
    ]


@pytest.mark.parametrize("what", ["cancel", "redact"])
def test_what_was_made_elsewhere_is_ended_and_forgotten_as_what_was_made_here(
    console: TestClient, stripe: Stories, what: str
) -> None:
    session_id = stripe.simulator.create(client_reference_id="user-1")
    stripe.deliver(session_id)
    there = f"/console/persons/{session_id}"
    assert f"/console/change/{what}/{session_id}?of={session_id}" in console.get(there).text
    assert _press(console, what, session_id, session_id) == (303, f"{there}?did={what}")
    assert _changed() == [("anna", "console", what, session_id, REASON)]
    if what == "cancel":
        assert facts.record(session_id).status == Status.CANCELED
    else:
        assert facts.record(session_id).client_reference_id is None
        perform_everything()
        assert stripe.simulator.session(session_id)["redaction"]


def test_a_person_is_forgotten_with_all_that_the_application_says_is_theirs(
    console: TestClient, stripe: Stories
) -> None:
    one, other = open_wanted(), open_wanted(purpose="age")
    made_elsewhere = stripe.simulator.create(client_reference_id="user-1")
    typed, another = stripe.simulator.create_from_link("user-1"), open_wanted(client_reference_id="user-2")
    for session_id in (one.answer.id, other.answer.id, made_elsewhere, typed):
        stripe.deliver(session_id)
    path = f"/console/change/redact/{one.verification_id}?of={one.answer.id}"
    page = console.get(path).text
    assert 'name="others"' not in console.get(f"/console/change/redact/{typed}?of={typed}").text
    named = re.search(r'name="others" value="([\w ]+)" checked', page)
    assert named
    assert named[1].split() == sorted([other.verification_id, made_elsewhere])
    assert send(console, path, on=path, reason=REASON, others=f"{named[1]} {another.verification_id}").is_redirect
    ids = (one.answer.id, other.answer.id, made_elsewhere, typed, another.answer.id)
    assert [facts.record(id_).client_reference_id for id_ in ids] == [None, None, None, "user-1", "user-2"]
    assert [about for *_, what, about, _ in _changed() if what == "redact"] == [
        one.verification_id,
        *reversed(named[1].split()),
    ]


def test_others_are_left_if_so_chosen_and_if_there_are_many(
    console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = open_wanted(), open_wanted(purpose="age")
    path = f"/console/change/redact/{one.verification_id}?of={one.answer.id}"
    monkeypatch.setattr(changes, "_MOST_FORGOTTEN", 0)
    page = console.get(path).text
    assert ("are left" in page, 'name="others"' in page) == (True, False)
    assert send(console, path, on=path, reason=REASON).is_redirect
    assert facts.record(one.answer.id).client_reference_id is None
    assert facts.record(other.answer.id).client_reference_id == "user-1"
    assert "are left" not in console.get(path).text


def test_who_may_look_changes_nothing(console: TestClient) -> None:
    [action_id] = facts.applied(event("verified"))
    send(console, "/console/sign-out")
    sign_in(console, "otto")
    path = f"/console/change/discard/{action_id}?of=vs_1"
    assert "/console/change/" not in console.get("/console/persons/vs_1").text
    assert console.get(path).status_code == 403
    assert send(console, path, reason=REASON).status_code == 403
    assert _changed() == []


def test_a_form_of_another_site_changes_nothing(console: TestClient) -> None:
    [action_id] = facts.applied(event("verified"))
    path = f"/console/change/discard/{action_id}?of=vs_1"
    assert send(console, path, headers={"Sec-Fetch-Site": "cross-site"}, reason=REASON).status_code == 403
    assert console.post(path, data={"reason": REASON}, headers=visits.OURS).status_code == 403
    assert _changed() == []


def test_no_reason_of_stripes_and_no_secret_is_shown(console: TestClient) -> None:
    facts.applied(event("requires_input", code="document_expired", report="vr_1"))
    reason, shown = facts.record().last_error_reason, console.get("/console/persons/vs_1").text
    assert reason
    assert reason not in shown
    assert "document_expired" in shown
    assert "c4nary" not in shown


def test_a_mail_is_shown_as_it_reads_and_leads_nowhere(console: TestClient, stripe: Stories) -> None:
    opened = open_wanted()
    stripe.simulator.fail(opened.answer.id, "document_expired")
    for action_id in stripe.deliver(opened.answer.id):
        perform(action_id)
    [mail] = [one for one in facts.actions(opened.answer.id) if one.name == "email_retry_prompt"]
    assert f"/console/mails/{mail.id}" in console.get(f"/console/persons/{opened.answer.id}").text
    page = console.get(f"/console/mails/{mail.id}").text
    assert "Written once more just now" in page
    assert f"{HERE}/…" in page
    assert "/verify/" not in page
    reason = facts.record(opened.answer.id).last_error_reason
    assert reason
    assert reason not in page
    for path in ("0", "999", "x", "1" * 40, "é"):
        assert console.get(f"/console/mails/{path}").status_code == 404


def test_a_mail_is_in_the_language_that_it_was_sent_in_and_says_so(console: TestClient, stripe: Stories) -> None:
    opened = open_wanted(locale="de")
    stripe.simulator.fail(opened.answer.id, "document_expired")
    stripe.deliver(opened.answer.id)
    [mail] = [one for one in facts.actions(opened.answer.id) if one.name == "email_retry_prompt"]
    page = console.get(f"/console/mails/{mail.id}").text
    assert page.count('lang="de" dir="auto"') == 2  # a screen reader's voice: subject and text
    assert "Bitte" in page
