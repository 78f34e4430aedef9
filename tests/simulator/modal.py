"""A stand-in for Stripe.js, and the frame of its dialog.

The secret reaches the frame as a message, and Stripe as a form; the outcome is a message to the page.
"""

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.simulator import errors, page, reasons, rendering, sessions
from tests.simulator.store import PLATFORM, Json, Session
from tests.simulator.world import World

SCRIPT = Path(__file__).with_name("stripe.js")
UNKNOWN = "a_code_of_tomorrow"
# Buttons of the dialog alone: they end it, and nothing happens at Stripe.
MORE = {UNKNOWN: "End with a code that nobody knows yet"}
SENTENCES = {"en": "Something new has happened.", "de": "Etwas Neues ist passiert."}  # Stripe's are localised


def routes(world: World) -> list[Route]:
    """The script, the empty frame, and the same with the page of a session in it."""

    async def script(_request: Request) -> Response:
        allowed = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-store"}
        return Response(SCRIPT.read_text(), headers=allowed, media_type="text/javascript")

    async def frame(_request: Request) -> Response:
        return _frame(None)

    async def signals(_request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Signals</title>")

    async def enter(request: Request) -> Response:
        return _entered(world, await page.given(request))

    async def show(request: Request) -> Response:
        session = page.entered(world, request.path_params["entrance"])
        return page.form(session, more=MORE) if session else page.closed()

    async def choose(request: Request) -> Response:
        return await _chosen(world, request)

    return [
        Route("/js/stripe.js", script, methods=["GET"]),
        Route("/js/m-outer", signals, methods=["GET"]),
        Route("/js/modal", frame, methods=["GET"]),
        Route("/js/modal", enter, methods=["POST"]),
        Route("/js/modal/{entrance}", show, methods=["GET"]),
        Route("/js/modal/{entrance}", choose, methods=["POST"]),
    ]


def _entered(world: World, given: dict[str, str]) -> Response:
    secret, key = given.get("client_secret", ""), given.get("publishable_key", "")
    try:
        entrance = sessions.enter_by_secret(world, secret, key, given.get("account") or PLATFORM)
    except errors.ApiError as error:
        return _frame({"error": error.error})
    return RedirectResponse(f"/js/modal/{entrance}?locale={given.get('locale', '')}", 303)


async def _chosen(world: World, request: Request) -> Response:
    entrance = request.path_params["entrance"]
    session = page.entered(world, entrance)
    if session is None:
        return page.closed()
    chosen = await page.given(request)
    if chosen.get("outcome") == UNKNOWN:
        del world.store.entrances[entrance]
        language = request.query_params.get("locale", "")[:2]
        return _frame(_error(UNKNOWN, SENTENCES.get(language, SENTENCES["en"])))
    try:
        page.choose(world, entrance, session, chosen)
    except errors.ApiError as error:
        return page.form(session, more=MORE, problem=str(error), status=400)
    return _frame(_result(session, chosen["outcome"]))


def _result(session: Session, outcome: str) -> Json:
    """The dialog's message to the page: a submission says nothing about how it ends."""
    code = "abandoned" if outcome == "close" else (session.last_error or {}).get("code", "")
    if error := reasons.DIALOG_CODES.get(code):
        return _error(error, reasons.reason(code))
    shown = rendering.snapshot(session)
    return {"verificationSession": {name: shown[name] for name in ("id", "object", "livemode", "status", "type")}}


def _error(code: str, message: str) -> Json:
    return {"error": {"type": "invalid_request_error", "code": code, "message": message}}


def _frame(result: dict[str, Any] | None) -> Response:
    return HTMLResponse(page.TEMPLATES.get_template("modal.html").render(result=result))
