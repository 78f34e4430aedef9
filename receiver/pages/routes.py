"""The routes of the person's half: they read a link, show the state, and let the person in."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

import structlog
from limits import RateLimitItem
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from config.broker import publish_actions
from config.database import DATABASE_TROUBLE
from config.settings import settings
from handlers.catalogue.pages import Shown
from handlers.metrics.counting import UNKNOWN_SENDERS
from handlers.queue.failures import NotNowError, PermanentError
from handlers.sessions.asking import ask_for_link
from handlers.sessions.entering import WayIn, enter_by_link
from handlers.sessions.links import Token, link_to, read_return, read_token
from handlers.sessions.looking import look
from handlers.sessions.picking import pick_language
from handlers.sessions.refusals import OpeningError
from handlers.sessions.seen import PageFacts, Word, seen
from handlers.sessions.views import NotFoundError
from receiver.bodies import TooLongError, read_body
from receiver.mishaps import Endpoint, note_failure, note_success, work
from receiver.pages import answers
from receiver.pages.answers import page_address, wants_json
from receiver.pages.assets import Assets
from receiver.pages.headers import is_foreign, leads_to_stripe, origin
from receiver.pages.tries import ENTRIES, LINK_LOOKS, TooOftenError, Tries
from receiver.threads import BusyError, Threads
from receiver.unmatched import Unmatched

log = structlog.stdlib.get_logger(__name__)

_THREADS = 4  # all of them may wait for Stripe
_LOOKERS = 2  # threads for questions to the database alone
_MOST_BYTES = 1024  # of a form without a field
# The codes of openings that are refused for good, and the page for each.
_REFUSED = {"canceled": Word.ENDED, "redacted": Word.REDACTED, "submission-limit": Word.LIMIT}
# The codes for which the status page is shown.
_ELSEWHERE = (Word.PROCESSING, Word.VERIFIED, Word.OPENING, "no-retry")

_T = TypeVar("_T")


class _ExpiredError(Exception):
    """The link is ours, but has expired; `locale` is the verification's."""

    def __init__(self, locale: str | None) -> None:
        super().__init__()
        self.locale = locale


class Room:
    """The threads and assets of the pages, and the counts of tries."""

    def __init__(self) -> None:
        self._asking = Threads("pages", _THREADS, "Stripe")
        self._looking = Threads("pages-looks", _LOOKERS, "the database")
        self._tries = Tries()
        self._assets = Assets()

    def routes(self) -> list[BaseRoute]:
        """All routes, and one that refuses the rest; each that answers GET answers HEAD."""
        routes = [
            Route("/verify/{token}", self._answering(self._verify), methods=["GET", "POST"]),
            Route("/verify/{token}/status", self._answering(self._status), methods=["GET"]),
            Route("/verify/{token}/link", self._answering(self._ask), methods=["GET", "POST"]),
            Route("/return/{sealed}", self._answering(self._return), methods=["GET"]),
            Route("/assets/{name}", self._assets.answer, methods=["GET"]),
        ]
        return [*routes, Unmatched(routes, self._refuse)]

    async def close(self) -> None:
        """Ends the threads after the requests that are under way."""
        await self._assets.close()
        for threads in (self._asking, self._looking):
            await asyncio.to_thread(threads.end)

    async def _verify(self, request: Request) -> Response:
        """Serves both methods by one route, so that a refused method is told both."""
        return await (self._enter(request) if request.method == "POST" else self._show(request))

    async def _show(self, request: Request) -> Response:
        """Shows the page of the state: reads the tables alone, and changes nothing."""
        subject = await self._subject(request, LINK_LOOKS)
        return await self._looking.do(lambda: _page(request, seen(subject)))

    async def _enter(self, request: Request) -> Response:
        """Lets the person in, which nothing else does."""
        if why := await _unposted(request):
            return answers.page(request, why)
        subject = await self._subject(request, ENTRIES)
        # The version before the entry, which is no result; the page with the button may have an older one.
        found = await self._spoken_to(request, subject)
        is_modal = wants_json(request) and bool(settings().stripe_publishable_key)
        way = WayIn(integration="modal" if is_modal else "redirect")
        try:
            fields = (await self._asking.do(enter_by_link, subject, way)).fields
        except OpeningError as error:
            with suppress(BusyError):  # the sweep does it
                await self._looking.do(publish_actions, error.owed)
            if error.code in _ELSEWHERE:
                return _onward(request, error.code)
            name = _REFUSED.get(error.code, "away")
            # The record does not know that a session is gone at Stripe: a script would load the same page again.
            is_gone = name == Word.ENDED and error.detail
            return _gone(request, found) if is_gone else answers.refusal(request, name, locale=found.locale)
        if not is_modal and not leads_to_stripe(fields["url"]):
            log.error("page.entry_refused", id=subject, origin=origin(fields["url"]))
            return answers.refusal(request, "away", locale=found.locale)
        log.info("verification.entered", id=subject, integration=way.integration)
        if not wants_json(request):
            return answers.redirect(request, fields["url"])
        after = {"status": page_address(request, "/status", after=found.version)} if is_modal else {}
        return answers.data(request, {**fields, **after})

    async def _status(self, request: Request) -> Response:
        subject = await self._subject(request, LINK_LOOKS)
        return await self._looking.do(lambda: _news(request, seen(subject)))

    async def _ask(self, request: Request) -> Response:
        """Owes a new link by mail to the holder of an expired one; the answer is the same in any case.

        A browser that loads the answer again asks by GET: it is led to the page with the form.
        """
        if request.method != "POST" or not settings().mails_go_out:
            return answers.redirect(request, page_address(request))
        if why := await _unposted(request):
            return answers.page(request, why)
        subject = self._token(request, ENTRIES).subject
        found = await self._spoken_to(request, subject)
        await self._looking.do(publish_actions, await self._looking.do(ask_for_link, subject))
        return answers.page(request, "link_sent", locale=found.locale)

    async def _spoken_to(self, request: Request, subject: str) -> PageFacts:
        """The state of the person, whose picked language is written down: neither Stripe's pages nor mails have it."""
        found = await self._looking.do(seen, subject)
        if picked := answers.picked_language(request, found.locale):
            await self._looking.do(pick_language, subject, picked)
        return found

    async def _return(self, request: Request) -> Response:
        """The one page whose GET asks Stripe: its person has just been there."""
        try:
            subject = self._counted(request, read_return, request.path_params["sealed"])
        except NotFoundError:  # signed by a key that was taken out, perhaps, though the person may have submitted
            return answers.page(request, "returned")
        self._tries.of_link(LINK_LOOKS, subject)
        # Until a look at Stripe has told more, the state from before the entry is no result.
        found = await self._looking.do(seen, subject)
        after = f"?after={found.version}"
        if request.method == "GET":
            with suppress(BusyError, NotNowError, PermanentError, *DATABASE_TROUBLE):  # its event will tell
                looked = await self._asking.do(look, subject)
                if looked.is_gone:
                    return _gone(request, found)
                after = "" if looked.is_known else after
                await self._looking.do(publish_actions, looked.owed)
        return answers.redirect(request, f"{urlsplit(link_to(subject).url).path}/status{after}")

    async def _refuse(self, request: Request, allowed: set[str]) -> Response:
        """Refuses a path of no route: perhaps a link that was cut off, or that a mail program joined with a text."""
        return answers.refused_method(request, allowed) if allowed else await self._answering(_no_link)(request)

    def _token(self, request: Request, allowed: RateLimitItem) -> Token:
        """The token of a link, after counting one more try of it. Raises NotFoundError, TooOftenError."""
        token = self._counted(request, read_token, request.path_params["token"])
        self._tries.of_link(allowed, token.subject)
        return token

    def _counted(self, request: Request, read: Callable[[str], _T], text: str) -> _T:
        """The result of `read`, after counting one more try of the sender. Raises NotFoundError, TooOftenError.

        All senders of unknown address count as one, and only without a link of ours: they keep nobody from their link.
        """
        sender = request.scope["client"]
        if sender:
            self._tries.of_address(sender)
        try:
            found = read(text)
        except NotFoundError:
            if not sender:
                self._tries.of_address(None)
            raise
        if not sender:
            UNKNOWN_SENDERS.inc()
        return found

    async def _subject(self, request: Request, allowed: RateLimitItem) -> str:
        """The id in a link. Raises as _token, and _ExpiredError."""
        token = self._token(request, allowed)
        if token.is_expired:
            raise _ExpiredError((await self._looking.do(seen, token.subject)).locale)
        return token.subject

    def _answering(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, with its failures as pages."""

        async def answer(request: Request) -> Response:
            request.state.logo_url = self._assets.logo_url
            doing = work(request, endpoint, "the pages")
            try:
                answer = await endpoint(request)
                note_success(doing)
                return answer
            except NotFoundError:
                return answers.refusal(request, "no_link")
            except _ExpiredError as error:
                link_url = page_address(request, "/link", lang=answers.language(request, error.locale))
                return answers.refusal(request, "expired", Shown(link_url=link_url), error.locale)
            except TooOftenError:
                return answers.refusal(request, "busy")
            except (NotNowError, PermanentError) as error:
                log.warning("page.stripe_away", error=str(error), why=getattr(error, "why", ""))
                return answers.refusal(request, "away")
            except (BusyError, *DATABASE_TROUBLE):
                return answers.refusal(request, "away")
            except Exception as error:  # the server's own answer is no page, and its line would quote the error
                note_failure("pages", error, doing)
                return answers.refusal(request, "away")

        return answer


async def _no_link(_request: Request) -> Response:
    raise NotFoundError


def _page(request: Request, found: PageFacts) -> Response:
    return answers.page(request, found.word, _shown(request, found), found.locale)


def _gone(request: Request, found: PageFacts) -> Response:
    return answers.page(request, Word.ENDED, Shown(continue_url=found.return_url), found.locale)


def _news(request: Request, found: PageFacts) -> Response:
    """The page of the state, or the waiting page while the version is that of the entry: no result is no failure."""
    if wants_json(request):
        return answers.data(
            request, {"word": found.word, "version": found.version}, tag=f"{found.word}-{found.version}"
        )
    if not found.word.may_enter:
        return _page(request, found)
    if request.query_params.get("after") != found.version:
        return answers.redirect(request, page_address(request))
    waiting = Shown(
        word=found.word,
        version=found.version,
        status_url=page_address(request, "/status", after=found.version),
        verify_url=page_address(request),
        continue_url=found.return_url,
    )
    return answers.page(request, Word.PROCESSING, waiting, found.locale)


def _onward(request: Request, word: str) -> Response:
    """Leads to the status page: the person need not go in any more, or must not."""
    if wants_json(request):
        return answers.data(request, {"error": word, "location": page_address(request, "/status")}, 409)
    return answers.redirect(request, page_address(request, "/status"))


def _shown(request: Request, found: PageFacts) -> Shown:
    may_enter = found.word.may_enter and found.can_retry
    return Shown(
        word=found.word,
        version=found.version,
        code=found.code,
        reason=found.reason,
        submissions=found.submissions,
        action_url=page_address(request, lang=answers.language(request, found.locale)) if may_enter else None,
        status_url=page_address(request, "/status", **({"after": found.version} if may_enter else {})),
        continue_url=found.return_url,
        stripe_js_url=settings().stripe_js_url.get_secret_value() if may_enter else None,
        publishable_key=settings().stripe_publishable_key.get_secret_value() if may_enter else None,
        account=found.account,
    )


async def _unposted(request: Request) -> str:
    """The name of the page that refuses this post without a look at it, or ""."""
    if is_foreign(request):
        return "foreign"
    try:
        await read_body(request, _MOST_BYTES)
    except (TooLongError, ClientDisconnect):  # nobody reads the answer to a body that breaks off
        return "too_long"
    return ""
