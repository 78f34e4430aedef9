"""Answers of the person's half: pages, redirects and JSON, each with its headers, in the person's language."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import Response

from config.settings import settings
from handlers.catalogue.pages import REFUSALS, Shown, write_page, write_refusal
from handlers.catalogue.words import language_for, offered
from receiver.headers import headers
from receiver.pages.headers import PLAIN, entering

_STATUS = {"no_link": 404, "foreign": 403, "too_long": 413, "busy": 429, "away": 503}
_STATUS |= dict.fromkeys(("ended", "limit", "redacted", "expired"), 410)
_RETRY_SECONDS = {429: "60", 503: "5"}
_REFRESHES = 40  # of 15 seconds: ten minutes, as the script has them
_NOTHING = Shown()


def page(request: Request, name: str, shown: Shown = _NOTHING, locale: str | None = None) -> Response:
    """Answers with one of handlers.catalogue.pages.PAGES; with the button, Stripe's origins are allowed."""
    chosen, logo_url, language_url = language(request, locale), request.state.logo_url, _in_another_language(request)
    if name in REFUSALS:
        text = write_refusal(name, chosen, logo_url, language_url)
    else:
        shown = replace(
            shown,
            again_url=page_address(request),
            refresh_url=_once_more(request, shown.status_url),
            language_url=language_url,
            logo_url=logo_url,
            link_days=settings().link_days,
        )
        text = write_page(name, chosen, shown)
    # rule: a page without the button loads nothing of Stripe's
    policy = entering() if shown.action_url else PLAIN
    return _answer(request, _STATUS.get(name, 200), text.encode(), "text/html; charset=utf-8", policy)


def language(request: Request, locale: str | None = None) -> str:
    """The language that was asked for, else the verification's, the browser's, or LOCALES' first."""
    asked, accepted = request.query_params.get("lang"), request.headers.get("accept-language", "")
    return language_for(asked, locale, accepted=accepted)


def picked_language(request: Request, locale: str | None) -> str | None:
    """The language that was asked for, if the page would have another one without that."""
    accepted, chosen = request.headers.get("accept-language", ""), language(request, locale)
    return chosen if chosen != language_for(locale, accepted=accepted) else None


def redirect(request: Request, url: str) -> Response:
    """Leads to another page by GET, after any method."""
    return _answer(request, 303, more={"Location": url})


def refusal(request: Request, name: str, shown: Shown = _NOTHING, locale: str | None = None) -> Response:
    """Refuses with the page of this name; a script gets the name, and the page to load, unless the reason passes."""
    if not wants_json(request):
        return page(request, name, shown, locale)
    status = _STATUS[name]
    return data(
        request, {"error": name, **({} if status in _RETRY_SECONDS else {"location": page_address(request)})}, status
    )


def data(request: Request, content: Mapping[str, Any], status: int = 200, tag: str = "") -> Response:
    """Answers a script; without the content if it has the one with this tag already."""
    more = {"ETag": f'"{tag}"'} if tag else {}
    if tag and more["ETag"] in request.headers.get("if-none-match", ""):
        return _answer(request, 304, more=more)
    return _answer(request, status, orjson.dumps(content), "application/json", more=more)


def refused_method(request: Request, allowed: Iterable[str]) -> Response:
    """Refuses a method of a path that has others."""
    return _answer(request, 405, more={"Allow": ", ".join(sorted(allowed))})


def page_address(request: Request, below: str = "", **query: str) -> str:
    """The address of this link's page, or of one below it, in the language that was asked for."""
    token, asked = request.path_params.get("token"), offered(request.query_params.get("lang", ""))
    if token is None:
        return ""
    if asked:
        query["lang"] = asked
    return f"{base()}/verify/{quote(token)}{below}{'?' if query else ''}{urlencode(query)}"


def _in_another_language(request: Request) -> str:
    """The address to which a language is added: this page's, or for the answer to a form the form's page's."""
    after = request.query_params.get("after", "")
    kept = "?" + urlencode({**({"after": after} if re.fullmatch(r"[\d.]{1,40}", after, re.ASCII) else {}), "lang": ""})
    return kept if request.method in ("GET", "HEAD") else page_address(request).partition("?")[0] + kept


def _once_more(request: Request, url: str) -> str | None:
    """The address by which the page loads itself again, with the number of times; None after the last."""
    times = request.query_params.get("times", "")
    number = int(times) if re.fullmatch(r"\d{1,3}", times, re.ASCII) else 0
    return f"{url}{'&' if '?' in url else '?'}times={number + 1}" if number < _REFRESHES else None


def base() -> str:
    """The path of PUBLIC_URL, which stands before our paths."""
    return urlsplit(settings().base_url).path.rstrip("/")


def wants_json(request: Request) -> bool:
    """Whether a script asks, and not the browser itself."""
    return "application/json" in request.headers.get("accept", "")


def _answer(
    request: Request,
    status: int,
    content: bytes = b"",
    media_type: str | None = None,
    policy: str = PLAIN,
    more: dict[str, str] | None = None,
) -> Response:
    found = headers(request.scope["scheme"], policy) | (more or {})
    if seconds := _RETRY_SECONDS.get(status):
        found["Retry-After"] = seconds
    return Response(content, status, found, media_type)
