"""The routes of the console: the sign-in, and the content of each page."""

import asyncio
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from limits import RateLimitItemPerMinute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from config import broker
from config.database import DATABASE_TROUBLE, hurry
from handlers.catalogue.console import console_script, console_stylesheet
from handlers.catalogue.pictures import Picture, picture
from handlers.metrics import history, tallies
from handlers.operator import endpoints, queries
from handlers.operator.audit import REASON, By, Way, audited
from handlers.operator.console_users import Role, judge
from handlers.operator.figures import Figures
from handlers.operator.findings import FINDING_SECONDS, in_order, judged
from handlers.operator.lists import LISTS, LOOKED_AT, page_of
from handlers.operator.persons import mail_as_shown, person, sessions_of
from handlers.tables.models import OutboxAction
from receiver.console.answers import SorryError, console_page, console_redirect, fields, is_safe
from receiver.console.bulk import AGE_FILTERS, MAY, AskedRows, change_all, cursor
from receiver.console.changes import CHANGES, OF_STATUS, RefusedChangeError, make, told
from receiver.console.checks import PAUSE_SECONDS, Checks
from receiver.console.visits import Visit, form_key, keep_form_key, known_as, sign_in, sign_out, visit_of
from receiver.headers import headers
from receiver.mishaps import Endpoint, note_failure, note_success, work
from receiver.pages.answers import refused_method
from receiver.pages.headers import PLAIN
from receiver.pages.tries import TooOftenError, Tries
from receiver.threads import BusyError, Threads
from receiver.unmatched import Unmatched

log = structlog.stdlib.get_logger(__name__)

_OF_ONE = RateLimitItemPerMinute(5)  # sign-ins of a name from an address, or in a browser that has signed in before
_OF_AN_ADDRESS = RateLimitItemPerMinute(20)
_OF_A_NAME = RateLimitItemPerMinute(30)  # from all addresses, against guessing
_LOOKERS = 2  # threads for questions to the database
_ID = re.compile(r"\w{1,255}", re.ASCII)  # of a session, a verification, an event or an action
_CHANGES_LOOKED_AT = 100_000  # the latest ones, of which a person's page shows its own
_KINDS = {
    "deliveries": ["accepted", "duplicate", "ignored", "refused"],
    "events": ["applied", "stale", "ignored", "dead"],
    "actions": ["done", "skipped", "dead"],
}
_MOST_OF = 0.95
_SPANS = {"hour": tallies.HOUR, "day": tallies.DAY}


class Room:
    """The threads of the console, and the counts of tries."""

    def __init__(self) -> None:
        # One password at a time, since each takes 16 MiB.
        self._judging = Threads("console-judge", 1, "a password")
        self._looking = Threads("console-looks", _LOOKERS, "the database")
        self._asking = Threads("console-asks", 1, "Stripe")
        self._checks = Checks()
        self._tries = Tries()
        self._styles = console_stylesheet()
        self._live = console_script()

    def routes(self) -> list[BaseRoute]:
        """All routes, and one that refuses the rest."""
        routes = [
            Route("/console/console.css", self._stylesheet),
            Route("/console/console.js", self._script),
            Route("/console/sign-in", self._answering(self._sign_in, to_all=True), methods=["GET", "POST"]),
            Route("/console/sign-out", self._answering(self._sign_out), methods=["POST"]),
            Route("/console", self._answering(self._overview)),
            Route("/console/find", self._answering(self._find), methods=["POST"]),
            Route("/console/persons/{id}", self._answering(self._person)),
            Route("/console/mails/{id}", self._answering(self._mail)),
            Route("/console/change/{what}/{id}", self._answering(self._change), methods=["GET", "POST"]),
            Route("/console/lists/{name}", self._answering(self._list)),
            Route("/console/lists/{name}/{what}", self._answering(self._change_all), methods=["GET", "POST"]),
            Route("/console/checks", self._answering(self._check), methods=["GET", "POST"]),
            Route("/console/audit", self._answering(self._audit)),
        ]
        return [*routes, Unmatched(routes, self._refuse)]

    async def close(self) -> None:
        """Ends the threads after the requests that are under way."""
        for threads in (self._judging, self._looking, self._asking, self._checks):
            await asyncio.to_thread(threads.end)

    async def _stylesheet(self, request: Request) -> Response:
        return Response(self._styles, 200, headers(request.scope["scheme"], PLAIN), "text/css")

    async def _script(self, request: Request) -> Response:
        return Response(self._live, 200, headers(request.scope["scheme"], PLAIN), "text/javascript")

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "POST":
            return console_redirect(request) if request.state.visit else self._form(request)
        sent = await fields(request)
        name = sent.get("name", "")
        self._count(request, name[:80])
        user = await self._judging.do(judge, name, sent.get("password", ""))
        if user is None:
            log.warning("console.sign_in_refused")  # no name: some type their password there
            return self._form(request, 403, is_wrong=True)
        log.info("console.signed_in", user=user.name, role=user.role)
        answer = console_redirect(request)
        sign_in(request, answer, user)
        return answer

    def _count(self, request: Request, name: str) -> None:
        """Counts one more try to sign in. Raises TooOftenError."""
        # rule: no stranger's tries keep out a browser in which that name has signed in before
        if known := known_as(request, name):
            self._tries.of_link(_OF_ONE, known)
            return
        client = request.scope["client"]
        self._tries.of_address(client, _OF_AN_ADDRESS)
        self._tries.of_address(client, _OF_ONE, name=name)
        self._tries.of_link(_OF_A_NAME, name)

    async def _sign_out(self, request: Request) -> Response:
        await fields(request)
        answer = console_redirect(request, "/sign-in")
        sign_out(request, answer)
        return answer

    def _form(self, request: Request, status: int = 200, *, is_wrong: bool = False) -> Response:
        key = form_key(request) or secrets.token_urlsafe(16)
        answer = console_page(
            request, "sign_in", status, key=key, is_wrong=is_wrong, is_ended="ended" in request.query_params
        )
        keep_form_key(request, answer, key)
        return answer

    async def _overview(self, request: Request) -> Response:
        """The whole overview, or only its live part, for the script that asks again."""
        span = request.query_params.get("span", "")
        span = span if span in history.PICTURE_SPANS else "hour"
        shown = await self._looking.do(_overview, span)
        return console_page(request, "live" if "live" in request.query_params else "overview", **shown)

    async def _find(self, request: Request) -> Response:
        """Finds a person, by POST: so the application's reference for them is in no address, and in no log."""
        word = (await fields(request)).get("word", "").strip()
        found = await self._looking.do(sessions_of, word) if word and "\0" not in word else []
        if not found:
            return console_page(request, "not_found", 404, is_address="@" in word)
        return (
            console_redirect(request, f"/persons/{found[0]}")
            if len(found) == 1
            else console_page(request, "which", found=found)
        )

    async def _person(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        found = await self._looking.do(person, session_id) if _ID.fullmatch(session_id) else None
        if found is None:
            return console_page(request, "not_found", 404, is_address=False)
        about = found.verification_id or session_id
        return console_page(
            request,
            "person",
            person=found,
            session_id=session_id,
            may=OF_STATUS,
            did=request.query_params.get("did"),
            audit=await self._looking.do(partial(audited, about, among=_CHANGES_LOOKED_AT)),
            changes_looked_at=_CHANGES_LOOKED_AT,
        )

    async def _mail(self, request: Request) -> Response:
        number = OutboxAction.id_of(request.path_params["id"])
        found = await self._looking.do(mail_as_shown, number) if number is not None else None
        if found is None:
            return console_page(request, "not_found", 404, is_address=False)
        return console_page(request, "mail", action=found[0], written=found[1])

    async def _change(self, request: Request) -> Response:
        """Asks for a reason, then makes the change, and leads back to `of`, the person's page."""
        what, id_, of = request.path_params["what"], request.path_params["id"], request.query_params.get("of", "")
        if what not in CHANGES or not (_ID.fullmatch(id_) and _ID.fullmatch(of)):
            raise SorryError("unknown", 404)
        _who_mends(request)
        change = CHANGES[what]

        async def ask(status: int = 200, why: str | None = None, reason: str | None = "") -> Response:
            values = await self._looking.do(told, what, id_)
            return console_page(request, "change", status, what=what, id=id_, of=of, why=why, reason=reason, **values)

        if request.method != "POST":
            return await ask()
        sent = await fields(request)
        by = _by(request, sent)
        if by is None:
            return await ask(400, "reason", sent.get("reason", ""))
        try:
            link = await (self._asking if change.asks else self._looking).do(make, change, id_, sent, by)
        except RefusedChangeError as error:
            return await ask(409, str(error), by.reason)
        if link:
            return console_page(request, "link", link=link, of=of)
        return console_redirect(request, f"/persons/{of}?did={what}")

    async def _list(self, request: Request) -> Response:
        name, query = _listed(request), request.query_params
        asked = AskedRows.of(query)
        rows, last = await self._looking.do(page_of, name, asked.wanted, cursor(name, query.get("after", "")))
        count = query.get("count", "")
        return console_page(
            request,
            "list",
            **_about(name, asked),
            rows=rows,
            last=last,
            is_further="after" in query,
            looked_at=LOOKED_AT,
            of=LISTS[name].table,
            count=_number(count),
        )

    async def _change_all(self, request: Request) -> Response:
        name, what = _listed(request), request.path_params["what"]
        if what not in MAY.get(name, ()):
            raise SorryError("unknown", 404)
        _who_mends(request)
        asked = AskedRows.of(request.query_params)
        about = _about(name, asked) | {"what": what}
        shown = partial(console_page, request, "change_all")
        if request.method != "POST":
            return shown(**about, is_wrong=False, reason="", after="")
        sent = await fields(request)
        by = _by(request, sent)
        if by is None:
            return shown(400, **about, is_wrong=True, reason=sent.get("reason", ""), after="")
        count, after = await self._looking.do(
            change_all, what, name, asked, by, sent.get("after", "").replace("\0", "")
        )
        count += _number(sent.get("count", "")) or 0
        if after:
            return shown(**about, is_wrong=False, reason=by.reason, after=after, count=count)
        return console_redirect(request, f"/lists/{name}?{asked.query}&count={count}")

    async def _check(self, request: Request) -> Response:
        """Answers a POST with the page itself: a redirect may lead to another process, which keeps another outcome."""
        is_too_soon = False
        if request.method == "POST":
            await fields(request)
            is_too_soon = not await self._checks.ask()
        status, last = 429 if is_too_soon else 200, self._checks.last
        return console_page(request, "checks", status, last=last, is_too_soon=is_too_soon, pause=round(PAUSE_SECONDS))

    async def _audit(self, request: Request) -> Response:
        return console_page(request, "audit", audit=await self._looking.do(audited))

    async def _refuse(self, request: Request, allowed: set[str]) -> Response:
        return refused_method(request, allowed) if allowed else await self._answering(_unknown)(request)

    def _answering(self, endpoint: Endpoint, *, to_all: bool = False) -> Endpoint:
        """The endpoint for signed-in users, with its failures as pages."""

        async def answer(request: Request) -> Response:
            request.state.visit = visit_of(request)
            doing = work(request, endpoint, "the console")
            try:
                if not is_safe(request):
                    raise SorryError("unsafe", 403)
                # rule: a browser that has not signed in sees nothing
                if request.state.visit is None and not to_all:
                    is_lost = request.method == "POST" and endpoint != self._sign_out
                    return console_redirect(request, "/sign-in?ended" if is_lost else "/sign-in")
                answer = await endpoint(request)
                note_success(doing)
                return answer
            except SorryError as error:
                return console_page(request, "sorry", error.status, word=error.word)
            except TooOftenError:
                return console_page(request, "sorry", 429, word="often")
            except (BusyError, *DATABASE_TROUBLE):
                return console_page(request, "sorry", 503, word="away")
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:  # the server's own answer is no page
                note_failure("console", error, doing)
                return console_page(request, "sorry", 500, word="failed")

        return answer


async def _unknown(_request: Request) -> Response:
    raise SorryError("unknown", 404)


def _who_mends(request: Request) -> None:
    """Raises SorryError for a user who may only look."""
    visit: Visit = request.state.visit
    # rule: a user who may only look changes nothing
    if visit.user.role != Role.MEND:
        raise SorryError("look", 403)


def _by(request: Request, sent: Mapping[str, str]) -> By | None:
    """The author of a change, and the reason; None if that reason cannot be kept."""
    visit: Visit = request.state.visit
    reason = sent.get("reason", "").strip()
    return By(who=visit.user.name, way=Way.CONSOLE, reason=reason) if REASON.fullmatch(reason) else None


def _listed(request: Request) -> str:
    """The name of the list in the path. Raises SorryError."""
    name: str = request.path_params["name"]
    if name not in LISTS:
        raise SorryError("unknown", 404)
    return name


def _number(text: str) -> int | None:
    """A number of rows, or None."""
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def _about(name: str, asked: AskedRows) -> dict[str, Any]:
    """The values that all pages of a list show."""
    return {"name": name, "names": list(LISTS), "asked": asked, "ages": AGE_FILTERS, "may": MAY.get(name, ())}


def _overview(span: str) -> dict[str, Any]:
    """The findings, and the figures if the database tells any. Stripe's word about the endpoint is there with the next
    look at the page, or the one after.
    """
    endpoints.look_soon()
    figures = Figures(broker.trouble_now())
    found = judged(figures)
    shown: dict[str, Any] = {
        "findings": found,
        "in_order": in_order(one.what for one in found),
        "figures": None,
        "span": span,
        "spans": list(history.PICTURE_SPANS),
    }
    # There is a finding for it.
    with suppress(*DATABASE_TROUBLE), hurry(answer=FINDING_SECONDS):
        shown["figures"] = {
            "at": figures.at,
            "backlogs": figures.backlogs,
            "deliveries": {name: _answered(figures.lately.deliveries(span)) for name, span in _SPANS.items()},
            "counts": figures.lately.counts(),
            "processes": figures.recent_processes,
            "sessions": queries.records_by_status(),
            "at_most": queries.at_most,
        }
        shown["pictures"] = _pictures(span)
    return shown


def _pictures(span: str) -> list[Picture]:
    slots, form = history.history(span), "%m-%d" if span == "month" else "%H:%M"
    names = [f"{slot.since:{form}}" for slot in slots]
    each = {"hour": "a minute", "day": "an hour", "month": "a day"}[span]
    counted = [
        picture(
            what.capitalize(),
            f"how many in {each}",
            kinds,
            [
                (name, [slot.counts[what].get(kind, 0.0) for kind in kinds])
                for name, slot in zip(names, slots, strict=True)
            ],
        )
        for what, kinds in _KINDS.items()
    ]
    ages = [
        (name, [slot.oldest("event ages", _MOST_OF), slot.oldest("action ages", _MOST_OF)])
        for name, slot in zip(names, slots, strict=True)
    ]
    return [
        *counted,
        picture("Ages", "seconds in which 95 of a hundred end", ["events", "actions"], ages, piled=False),
    ]


def _answered(deliveries: Mapping[tuple[str, str], float]) -> dict[str, int]:
    """The number of deliveries by outcome."""
    found = dict.fromkeys(("accepted", "duplicate", "ignored", "refused"), 0)
    for (outcome, _), count in deliveries.items():
        found[outcome] = found.get(outcome, 0) + round(count)
    return found
