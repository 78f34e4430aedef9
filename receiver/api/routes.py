"""The routes of the application's half: they check the token, read the request, and answer."""

import asyncio
import json
import time
from collections import defaultdict
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from config.broker import publish_actions
from config.database import DATABASE_TROUBLE
from config.settings import settings
from handlers.operator import audit
from handlers.operator.audit import By
from handlers.queue.failures import NotAllowedError, NotNowError, PermanentError
from handlers.sessions import asked, closing, entering, opening, views
from handlers.sessions.entering import WayIn
from handlers.sessions.links import link_of
from handlers.sessions.opening import Opened
from handlers.sessions.refusals import FaultsError, OpeningError
from handlers.sessions.static_links import static_link
from handlers.sessions.timeline import view_in_time
from handlers.sessions.turn import Wanted
from handlers.sessions.views import NotFoundError
from handlers.stripe_api.client import NotAcceptedError
from receiver.api import requests
from receiver.api.openapi import openapi
from receiver.api.problems import ProblemError
from receiver.api.tokens import digests, holder
from receiver.bodies import TooLongError, read_body
from receiver.mishaps import Endpoint, note_failure, note_success, work
from receiver.sender import is_this_machine
from receiver.threads import BusyError, Threads
from receiver.unmatched import Unmatched

log = structlog.stdlib.get_logger(__name__)

_MOST_BYTES = 64 * 1024
_WAITS_SECONDS = 5.0  # for another opening of the same verification
_LOOKS_AGAIN = 0.2  # seconds, while another process opens it
_THREADS = 8  # all of them may wait for Stripe: deliveries and health have their own
_LOOKERS = 2  # threads for requests that ask the database alone


class _Openers:
    """The openers of one verification in this process: one asks Stripe, the others wait for their turn."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.count = 0


class Room:
    """The room's threads, and the work under way: it goes on to its end, also if its client has left."""

    def __init__(self) -> None:
        self._digests = digests(settings().api_tokens)
        self._asking = Threads("api", _THREADS, "stripe-unavailable")
        self._looking = Threads("api-looks", _LOOKERS, "database-unavailable")
        self._openers: defaultdict[tuple[str, ...], _Openers] = defaultdict(_Openers)
        self._under_way: set[asyncio.Task[Any]] = set()

    def routes(self) -> list[BaseRoute]:
        """All routes, and one that refuses all other requests."""
        routes = [
            Route("/verifications", self._answering(self._verifications), methods=["GET", "POST"]),
            Route("/verifications/{id}", self._answering(self._show), methods=["GET"]),
            Route("/verifications/{id}/entry", self._answering(self._enter), methods=["POST"]),
            Route("/verifications/{id}/cancel", self._answering(self._cancel), methods=["POST"]),
            Route("/verifications/{id}/redact", self._answering(self._redact), methods=["POST"]),
            Route("/verifications/{id}/link", self._answering(self._link), methods=["POST"]),
            Route("/static-links/{name}", self._answering(self._static_link), methods=["POST"]),
            Route("/openapi.json", openapi, methods=["GET"]),
        ]
        return [*routes, Unmatched(routes, _refuse)]

    async def close(self) -> None:
        """Lets the work under way end, and then ends the threads."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._asking.end()
        self._looking.end()

    async def _verifications(self, request: Request) -> Response:
        """Opens or lists, in one route, so that a refused method is told both methods."""
        return await (self._open(request) if request.method == "POST" else self._list(request))

    async def _open(self, request: Request) -> Response:
        body = asked.opening(await _json(request), settings().return_origins)
        wanted = asked.wanted(body)
        opened = await self._to_its_end(self._opened(wanted))
        way = WayIn(integration=body.integration, stripe_version=body.stripe_version)
        enter = partial(entering.entry, opened.verification_id, opened.answer, wanted.account or None, way)
        entered = await self._asking.do(enter) if way.asks_stripe else enter()
        shown = await self._looking.do(views.view, opened.verification_id, opened.answer)
        return _answer(201 if opened.made else 200, {**shown, **({"entry": entered.fields} if entered else {})})

    async def _opened(self, wanted: Wanted) -> Opened:
        """Opens a verification; a second opener of it waits here, without a thread or a connection."""
        key = (wanted.account, wanted.client_reference_id, wanted.purpose)
        openers = self._openers[key]
        openers.count += 1
        until = time.monotonic() + _WAITS_SECONDS
        try:
            await asyncio.wait_for(openers.turn.acquire(), _WAITS_SECONDS)
            try:
                # One call takes the turn and uses it: a lease does not wait for a thread.
                while (opened := await self._asking.do(opening.open_verification, wanted)) is None:
                    if time.monotonic() > until:
                        raise ProblemError("opening")
                    await asyncio.sleep(_LOOKS_AGAIN)
            finally:
                openers.turn.release()
        except TimeoutError:
            raise ProblemError("opening") from None
        finally:
            openers.count -= 1
            if not openers.count:
                del self._openers[key]
        await self._looking.do(publish_actions, opened.owed)
        log.info("verification.opened", verification_id=opened.verification_id, generation=opened.generation)
        return opened

    async def _show(self, request: Request) -> Response:
        return _answer(200, await self._looking.do(view_in_time, request.path_params["id"]))

    async def _list(self, request: Request) -> Response:
        found, has_more = await self._looking.do(views.listed, requests.list_query(request.query_params))
        return _answer(200, {"data": found, "has_more": has_more})

    async def _enter(self, request: Request) -> Response:
        way = requests.way_in(await _json(request))
        id_ = request.path_params["id"]
        entered = await self._asking.do(entering.enter, id_, way)
        log.info("verification.entered", id=id_, integration=way.integration)
        return _answer(200, {"entry": entered.fields})

    async def _cancel(self, request: Request) -> Response:
        id_, notify = request.path_params["id"], requests.notify(request.query_params)
        cancel = partial(closing.cancel_verification, id_, notify=notify, by=request.state.by)
        owed = await self._to_its_end(self._asking.do(cancel))
        await self._looking.do(publish_actions, owed)
        log.info("verification.canceled", id=id_, notify=notify)
        return _answer(200, await self._looking.do(views.view, id_))

    async def _redact(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        await self._looking.do(closing.redact_verification, id_, request.state.by)
        log.info("verification.redaction_asked", id=id_)
        return _answer(202, await self._looking.do(views.view, id_))

    async def _link(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        link = await self._looking.do(link_of, id_)
        log.info("verification.linked", id=id_)
        return _answer(200, {"url": link.url, "expires_at": views.iso(link.expires_at)})

    async def _static_link(self, request: Request) -> Response:
        body = requests.linking(await _json(request))
        url = static_link(request.path_params["name"], body.client_reference_id, body.email)
        return _answer(200, {"url": url})

    def _answering(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint for holders of a token, with its failures as problems."""

        async def answer(request: Request) -> Response:
            name = holder(self._digests, request.headers.get("authorization"))
            doing = work(request, endpoint, "the API")
            try:
                if request.scope["scheme"] != "https" and not is_this_machine(request.scope):
                    raise ProblemError("https-needed")
                if name is None:
                    raise ProblemError("unauthorized")
                request.state.by = By(who=name, way=audit.Way.API)
                with structlog.contextvars.bound_contextvars(token=name):
                    answer = await endpoint(request)
                note_success(doing)
                return answer
            except ProblemError as problem:
                return problem.response()
            except FaultsError as error:
                return ProblemError("invalid", faults=error.faults).response()
            except BusyError as error:
                return ProblemError(error.waited_for).response()
            except NotFoundError:
                return ProblemError("not-found").response()
            except OpeningError as error:
                with suppress(BusyError):  # the sweep publishes them
                    await self._looking.do(publish_actions, error.owed)
                return ProblemError(error.code, error.detail, retry_after=error.retry_after).response()
            except (NotAllowedError, NotAcceptedError, PermanentError) as error:
                why = getattr(error, "why", "")
                log.warning("stripe.refused", error=str(error), why=why)
                return ProblemError("stripe-refused", why).response()
            except NotNowError as error:
                return ProblemError("stripe-unavailable", retry_after=ceil(error.again_after)).response()
            except DATABASE_TROUBLE:
                return ProblemError("database-unavailable").response()
            except Exception as error:  # the server's own answer has no problem document
                note_failure("api", error, doing)
                return ProblemError("internal").response()

        return answer

    async def _to_its_end(self, work: Any) -> Any:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)


async def _refuse(_: Request, allowed: set[str]) -> Response:
    problem = ProblemError("method-not-allowed", allowed=allowed) if allowed else ProblemError("not-found")
    return problem.response()


async def _json(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError("not-json", status=415)
    try:
        text = await read_body(request, _MOST_BYTES)
        body = orjson.loads(text)
    except TooLongError:
        raise ProblemError("too-large") from None
    except (ClientDisconnect, orjson.JSONDecodeError):
        raise ProblemError("not-json") from None
    if not isinstance(body, dict):
        raise ProblemError("not-json")
    with suppress(RecursionError):  # so deep a body has other faults
        json.loads(text, object_pairs_hook=_unless_twice)
    return body


def _unless_twice(pairs: list[tuple[str, Any]]) -> None:
    # Of two members with one name, none is guessed to be the right one.
    if len(dict(pairs)) < len(pairs):
        raise ProblemError("not-json", "a member is there twice")


def _answer(status: int, content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), status, {"Cache-Control": "no-store"}, "application/json")
