"""Any requests to the person's pages, also by links of ours: each is answered, and tells nothing of any person."""

import random
import sqlite3
import string
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
from itsdangerous import Signer
from sqlmodel import Session, create_engine

from handlers.record.events import Status
from handlers.tables.models import Verification, VerificationRecord
from tests.browser.application import DAY, token

LINK_KEY = "of-the-links-of-the-fuzz-0123456789"
SETTINGS = {"LINK_KEYS": LINK_KEY, "STRIPE_PUBLISHABLE_KEY": "pk_test_fuzz", "TRUSTED_PROXIES": "1"}
# Texts that no answer may show. Stripe's own sentence may be shown, in English, after a failure without fraud.
_NOBODYS = (b"pers0nal", LINK_KEY.encode(), b"whsec_", b"sk_test", b"Traceback")
_REASON = "The reas0n that Stripe gave."
_STATES = {
    "todo": (Status.REQUIRES_INPUT, None),
    "failed": (Status.REQUIRES_INPUT, "document_expired"),
    "declined": (Status.REQUIRES_INPUT, "consent_declined"),
    "fraud": (Status.REQUIRES_INPUT, "selfie_manipulated"),
    "processing": (Status.PROCESSING, None),
    "verified": (Status.VERIFIED, None),
    "ended": (Status.CANCELED, None),
}
_LOOKS = {200, 303, 304, 404, 410, 429}
_ALLOWED = {
    **dict.fromkeys(("GET", "HEAD"), _LOOKS),
    "POST": _LOOKS | {403, 405, 409, 413, 503},  # Stripe is away
    **{method: {404, 405} for method in ("PUT", "DELETE", "OPTIONS", "PATCH")},
}
_BELOW = ("", "", "", "/status", "/status", "/link", "/x", "/")
_QUERIES = (
    "",
    "",
    "?lang=de",
    "?lang=en&lang=de",
    "?after=1.0.0",
    "?lang=../../x&times=39",
    "?after=%00&lang=%ff",
    "?a=b" * 300,
)
_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"Accept": "application/json"},
    {"Accept": "application/json", "If-None-Match": '"todo-1.0.0", *'},
    {"Accept-Language": "de-AT;q=0.9," * 700},
    {"Accept-Language": "../../x, *;q=x"},
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
    {"Host": "evil.example", "X-Forwarded-Host": "evil.example"},
    {"X-Forwarded-Prefix": "/evil.example", "Forwarded": "host=evil.example"},
    {"Purpose": "prefetch", "Sec-Purpose": "prefetch"},
)
_senders = count(1)


def fuzz_pages(port: int, database: Path, number: int, seed: int) -> list[str]:
    """Sends so many requests, first those that may change nothing, then any. Returns the problems of the answers."""
    dice, problems, answers = random.Random(seed), list[str](), Counter[int]()
    subjects = _plant(database)
    before = _dump(database)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30.0) as visitor:
        for place in range(number):
            changes = place >= number // 2
            if place == number // 2 and _dump(database) != before:
                problems.append("what was only looked at has changed")
            request = _request(visitor, dice, subjects, changes=changes)
            answer = visitor.send(request)
            answers[answer.status_code] += 1
            problems += [f"{what}: {_told(request)}" for what in _wrong(request, answer)]
            if request.method == "HEAD":
                request.method = "GET"
                shown = visitor.send(request)
                is_same = (shown.status_code, len(shown.content)) == (answer.status_code, _length(answer))
                if not (changes or is_same or shown.status_code == 429):
                    problems.append(f"HEAD is not GET without its body: {_told(request)}")
    if not {200, 303, 404, 405, 410, 503} <= answers.keys():
        problems.append(f"these are not all answers that there are: {answers}")
    return problems


def _plant(database: Path) -> list[str]:
    """Writes a person in each state, half of them opened here. Returns the ids for their links."""
    made = list[str]()
    engine, now = create_engine(f"sqlite:///{database}"), datetime(2026, 11, 20, tzinfo=UTC)
    with Session(engine) as session:
        for place, (name, (status, code)) in enumerate(_STATES.items()):
            of_ours = f"idv_{name}" if place % 2 == 0 else None
            about: dict[str, Any] = {"livemode": False, "created_at": now, "updated_at": now}
            about["client_reference_id"] = f"pers0nal-{name}"
            if of_ours:
                session.add(Verification(id=of_ours, session_id=f"vs_{name}", locale="de", **about))
            about |= {"last_error_code": code, "last_error_reason": _REASON if code else None, "user_id": "pers0nal"}
            about |= {"verification_id": of_ours, "generation": 1 if of_ours else None}
            session.add(VerificationRecord(session_id=f"vs_{name}", status=status, submissions=1, **about))
            made.append(of_ours or f"vs_{name}")
        session.commit()
    engine.dispose()
    return made


def _dump(database: Path) -> list[object]:
    with closing(sqlite3.connect(database)) as connection:
        tables = ("verification", "verification_record", "outbox_action", "inbox_event")
        return [connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables]  # noqa: S608  # ours


def _request(visitor: httpx.Client, dice: random.Random, subjects: list[str], *, changes: bool) -> httpx.Request:
    """A request from another address each time, so that only a link's own tries are counted."""
    methods = (
        ("GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH") if changes else ("GET", "GET", "HEAD")
    )
    method, subject = dice.choice(methods), dice.choice(subjects)
    path = f"/verify/{dice.choice(_SPELLINGS)(dice, token(subject, key=LINK_KEY))}{dice.choice(_BELOW)}"
    if dice.random() < 0.1:
        path = f"/verify/{token(subject, age=dice.choice((8, 400, -1)) * DAY, key=LINK_KEY)}{dice.choice(_BELOW)}"
    elif dice.random() < 0.1 and changes:  # a return has Stripe asked
        path = f"/return/{dice.choice(_SPELLINGS)(dice, _sealed(subject))}"
    number = next(_senders)
    headers = {"X-Forwarded-For": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"} | dice.choice(_HEADERS)
    bodies = (
        b"",
        b"",
        b"a=b",
        b"x" * 1024,
        "&".join(f"field-{n}=x" for n in range(10_000)).encode(),
        dice.randbytes(900),
    )
    body = dice.choice(bodies) if method == "POST" else b""
    return visitor.build_request(method, path + dice.choice(_QUERIES), headers=headers, content=body)


_SPELLINGS: tuple[Callable[[random.Random, str], str], ...] = (
    *[lambda _, text: text] * 14,
    lambda _, text: text + ".",
    lambda _, text: text + quote(" \n"),
    lambda _, text: quote(text.replace(".", "%2E")),
    lambda _, text: text.replace("_", "%5F").replace(".", "%2e"),
    lambda _, text: text + "%00",
    lambda _, text: text + "=",
    lambda dice, text: text[:-1] + dice.choice(string.ascii_letters),
    lambda dice, text: text[: dice.randrange(len(text))],
    lambda _, text: text.swapcase(),
    lambda _, text: text + "A" * 10_000,
    lambda dice, _: quote(dice.randbytes(20)),
)


def _sealed(subject: str) -> str:
    signer = Signer([LINK_KEY], salt="identity-events.return", key_derivation="hmac", digest_method=sha256)
    return signer.sign(subject).decode()


def _wrong(request: httpx.Request, answer: httpx.Response) -> list[str]:
    """The problems of one answer."""
    if dict(answer.headers) == {"content-length": "0", "connection": "close"}:  # the answer to a head that is too long
        return [] if answer.status_code == 431 else [str(answer.status_code)]
    said = b"\n".join([*(name + b": " + value for name, value in answer.headers.raw), answer.content])
    found = [f"it says {one.decode()}" for one in (*_NOBODYS, b"evil.example") if one in said]
    if answer.status_code not in _ALLOWED[request.method]:
        found.append(str(answer.status_code))
    policy, kept = (answer.headers.get(name, "") for name in ("content-security-policy", "cache-control"))
    if not policy.startswith("default-src 'none'; ") or kept != "no-store":
        found.append("without headers of a page")
    if _REASON.encode() in said and not (b'lang="en"' in said and "/vs_failed" in request.url.path):
        found.append("it says why")
    if request.method == "HEAD" and answer.content:
        found.append("a body")
    return found


def _length(answer: httpx.Response) -> int:
    return int(answer.headers.get("content-length", 0))


def _told(request: httpx.Request) -> str:
    return f"{request.method} {request.url.raw_path[:200]!r} {dict(request.headers)!r:.300}"
