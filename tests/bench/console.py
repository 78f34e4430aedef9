"""The cost of each page of the console with two months of work in the database, and a flood that waits or is dead."""

import re
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import httpx2 as httpx

from handlers.operator.console_users import hash_of
from tests.bench import store
from tests.bench.report import Report, judged
from tests.bench.servers import House

_PASSWORD = "measured by the bench"
_LIMIT = 100.0  # milliseconds
_GOOD_FOR = 1.1  # seconds: one look at the tables answers all requests within a second
_LISTS = ("dead-events", "dead-actions", "waiting-events", "waiting-actions", "skipped-actions", "ignored-events")


def console(report: Report, house: House, *, events: int, rounds: int) -> None:
    """Measures each page once a round, over HTTP; the first round connects, and compiles.

    It counts seconds of the processor, web's and PostgreSQL's, which other load on the machine disturbs least.
    """
    url = house.database("console")
    store.fill(url, events, events * 3 // 10)
    store.fill_undone(url, events * 3 // 10)
    store.fill_console(url, events // 10)
    seen: dict[str, list[tuple[float, float]]] = {}
    users = {"CONSOLE_USERS": f"anna:mend:{hash_of(_PASSWORD)}", "CONSOLE_KEYS": "c" * 32}
    with house.web(url, **users) as (port, web), store.processor(url) as theirs, _visitor(port) as visitor:
        looks = _looks(visitor, _sign_in(visitor), store.a_dead_action(url))
        for _ in range(rounds + 1):
            for what, look in looks.items():
                if what.startswith("overview"):
                    time.sleep(_GOOD_FOR)
                seen.setdefault(what, []).append(_milliseconds(look, lambda: web.processor() + theirs()))
    report.keep("console", seen)
    for what, taken in seen.items():
        ours, waited = zip(*taken[1:], strict=True)
        report.add(
            f"console: {events:,} events",
            what,
            f"{median(ours):.1f} ms",
            beside=f"who asks waits for {median(waited):.1f} ms",
            target=f"≤ {_LIMIT:.0f} ms",
            met=judged([*ours], most=_LIMIT),
        )


def _looks(visitor: httpx.Client, token: str, action_id: int) -> dict[str, Callable[[], httpx.Response]]:
    """Each page, and its narrowest filters."""
    paths = {
        "sign-in": "/sign-in",
        **{f"overview, the last {span}": f"?span={span}" for span in ("hour", "day", "month")},
        "overview, what changes of it": "?live",
        "a person": "/persons/vs_1Old7",
        "a person of 300 events and actions each": "/persons/vs_1Busy",
        "a person of 300 sessions": "/persons/vs_1Again300",
        "a person whose reference thousands have": "/persons/vs_1Shared1",
        "a mail": "/mails/1000007",
        "a form of a change": f"/change/discard/{action_id}?of=vs_1Wait1",
        "a form to do it once more": f"/change/resend/{action_id}?of=vs_1Wait1",
        "a form to forget, whose reference thousands have": "/change/redact/vs_1Shared1?of=vs_1Shared1",
        "a form to forget a person of 300 sessions": "/change/redact/idv_1Again?of=vs_1Again1",
        **{f"{name}": f"/lists/{name}" for name in _LISTS},
        "dead-actions, a reason that most have": "/lists/dead-actions?error=server",
        "dead-actions, a reason that none has": "/lists/dead-actions?error=of+none",
        "dead-events, older than thirty days": "/lists/dead-events?older=30d",
        "ignored-events, a type that none has": "/lists/ignored-events?kind=of+none",
        "skipped-actions, a name that most have": "/lists/skipped-actions?kind=email_verified&older=7d",
        "a form for all of a list": "/lists/dead-actions/discard?error=server",
        "audit": "/audit",
        "checks, before anybody asks": "/checks",
    }
    looks: dict[str, Callable[[], httpx.Response]] = {what: partial(visitor.get, path) for what, path in paths.items()}
    for what, word in {
        "session": "vs_1Old8",
        "user id": "user_9",
        "reference that thousands have": "shared",
        "event": "evt_1Old10",
        "action": "1000011",
        "nobody": "none",
    }.items():
        looks[f"find: {what}"] = partial(visitor.post, "/find", data={"token": token, "word": word})
    return looks


def _visitor(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}/console", trust_env=False, timeout=30.0)


def _sign_in(visitor: httpx.Client) -> str:
    """Signs in; returns the token of its forms."""
    sent = {"name": "anna", "password": _PASSWORD, "token": _token(visitor.get("/sign-in"))}
    visitor.post("/sign-in", data=sent)
    return _token(visitor.get("/audit"))


def _token(page: httpx.Response) -> str:
    found = re.search(r'name="token" value="([\w-]+)"', page.text)
    return found[1] if found else ""


def _milliseconds(look: Callable[[], httpx.Response], processor: Callable[[], float]) -> tuple[float, float]:
    """The milliseconds of the processor, and those of the visitor's wait."""
    before, begun = processor(), time.perf_counter()
    answer = look()
    waited = time.perf_counter() - begun
    taken = (processor() - before) * 1000, waited * 1000
    if answer.status_code not in (200, 303, 404):
        raise RuntimeError(f"{answer.url}: {answer.status_code}")
    return taken
