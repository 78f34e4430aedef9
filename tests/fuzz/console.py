"""Any requests to the console, signed in or not: each is answered, and none makes it fail."""

import random
import re
import string
from collections import Counter
from collections.abc import Callable
from urllib.parse import quote, urlencode

import httpx2 as httpx

from handlers.operator.console_users import hash_of

_PASSWORD = "a password of the fuzz"
SETTINGS = {
    "CONSOLE_USERS": f"anna:mend:{hash_of(_PASSWORD)},otto:look:{hash_of(_PASSWORD)}",
    "CONSOLE_KEYS": "c" * 32,
    "LINK_KEYS": "l" * 32,
}
_LISTS = ("dead-events", "dead-actions", "waiting-events", "waiting-actions", "skipped-actions", "ignored-events")
_CHANGES = ("resend", "retry", "discard", "cancel", "redact", "link")
_PATHS: tuple[str, ...] = (
    "",
    "/",
    "/sign-in",
    "/sign-out",
    "/find",
    "/persons/{}",
    "/mails/{}",
    "/change/{}/{}",
    "/lists/{}",
)
_PATHS += (
    "/lists/{}/{}",
    "/audit",
    "/console.css",
    "/console.js",
    "/{}",
    "/{}/{}/{}/{}",
)  # checks would ask mail servers
_METHODS = ("GET", "GET", "GET", "POST", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
_NAMES: tuple[str, ...] = (
    "of",
    "kind",
    "error",
    "older",
    "after",
    "count",
    "span",
    "live",
    "did",
    "ended",
    "token",
    "reason",
    "word",
)
_NAMES += ("name", "password", "notify", "\0", "")
_WORDS: tuple[str, ...] = (
    "vs_1",
    "idv_1",
    "evt_1",
    "1",
    "0",
    "9" * 40,
    "anna",
    "told by phone",
    "hour",
    "30d",
    "",
    "\0",
    "'",
    "<b>",
)
_WORDS += ("a@example.com", "2026-11-26T05:00:00+00:00_1", "9999-12-31T23:59:59-23:59_1", "٣", "é" * 90, "x" * 5000)
_SITES = ("same-origin", "none", "cross-site", "x")
_ALLOWED = {200, 303, 400, 403, 404, 405, 409, 413, 429}


def fuzz_console(port: int, number: int, seed: int) -> list[str]:
    """Sends so many requests. Returns the problems of their answers."""
    dice, problems, answers = random.Random(seed), list[str](), Counter[int]()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/console", trust_env=False, timeout=30.0) as visitor:
        tokens = {name: _sign_in(visitor, name) for name in ("otto", "anna")}
        cookies = dict(visitor.cookies)
        visitor.cookies.clear()
        for _ in range(number):
            request = _request(visitor, dice, tokens, cookies)
            answer = visitor.send(request)
            visitor.cookies.clear()
            answers[answer.status_code] += 1
            is_kept = answer.headers.get("cache-control") != "no-store"
            if answer.status_code not in _ALLOWED or is_kept:
                said = f"{answer.status_code}, kept: {is_kept}, to {request.method} {request.url}"
                problems.append(f"{said} {request.content[:200]!r}")
    if not {200, 303, 403, 404, 405} <= answers.keys():
        problems.append(f"these are not all answers that there are: {answers}")
    return problems


def _sign_in(visitor: httpx.Client, name: str) -> str:
    visitor.cookies.clear()
    visitor.post("/sign-in", data={"name": name, "password": _PASSWORD, "token": _token(visitor.get("/sign-in"))})
    return _token(visitor.get("/audit"))


def _token(page: httpx.Response) -> str:
    found = re.search(r'name="token" value="([\w-]+)"', page.text)
    assert found, page.text
    return found[1]


def _request(
    visitor: httpx.Client, dice: random.Random, tokens: dict[str, str], cookies: dict[str, str]
) -> httpx.Request:
    """A request of anna, who signed in last and may mend, or of a browser whose cookie is spoiled."""
    path = re.sub(r"\{\}", lambda _: quote(_word(dice, (*_LISTS, *_CHANGES, *_WORDS)), safe=""), dice.choice(_PATHS))
    query = {dice.choice(_NAMES): _word(dice) for _ in range(dice.randint(0, 3))}
    form = {dice.choice(_NAMES): _word(dice) for _ in range(dice.choice((0, 1, 3, 30)))}
    if dice.random() < 0.7:
        form["token"] = dice.choice(list(tokens.values()))
    body = urlencode(form).encode() if dice.random() < 0.9 else dice.randbytes(dice.choice((1, 100, 70_000)))
    sent = cookies if dice.random() < 0.7 else {name: _spoiled(dice, value) for name, value in cookies.items()}
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in sent.items())}
    headers |= {"Sec-Fetch-Site": dice.choice(_SITES[:1] * 5 + _SITES)}
    headers |= {"Content-Type": "application/x-www-form-urlencoded"}
    method = dice.choice(_METHODS)
    return visitor.build_request(
        method, f"{path}?{urlencode(query)}", headers=headers, content=body if method == "POST" else b""
    )


def _word(dice: random.Random, words: tuple[str, ...] = _WORDS) -> str:
    made: list[Callable[[], str]] = [
        lambda: dice.choice(words),
        lambda: dice.choice(words),
        lambda: "".join(dice.choices(string.printable, k=dice.randint(0, 20))),
        lambda: "".join(chr(dice.randint(1, 0xD7FF)) for _ in range(dice.randint(1, 10))),
    ]
    return dice.choice(made)()


def _spoiled(dice: random.Random, value: str) -> str:
    place = dice.randrange(len(value) or 1)
    return value[:place] + dice.choice(string.ascii_letters) + value[place + 1 :]
