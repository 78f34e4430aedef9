"""The page of a session's url, where a person picks the outcome, as in Stripe's test mode."""

from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.simulator import control, errors, forms, reasons, scenarios, sessions
from tests.simulator.store import Session
from tests.simulator.world import World

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)


class Outcome(NamedTuple):
    """A button: its words, and its action and code at Stripe; without an action nothing happens there."""

    label: str
    action: str | None = None
    code: str | None = None


OUTCOMES = {
    "pass": Outcome("Verification succeeds", "pass"),
    "submit": Outcome("Submit and leave it processing", "submit"),
    "fail": Outcome("Verification fails", "fail"),
    "decline": Outcome("Decline consent", "decline"),
    "refuse-camera": Outcome("Refuse the camera", "fail", "device_not_supported"),
    "under-age": Outcome("Be under the supported age", "fail", "under_supported_age"),
    "decline-phone": Outcome("Decline to verify the phone number", "fail", "phone_verification_declined"),
    "decline-email": Outcome("Decline to verify the email address", "fail", "email_verification_declined"),
    "abandon": Outcome("Leave without submitting", "abandon", "abandoned"),
    "close": Outcome("Close, and perhaps go on later"),
}


def routes(world: World) -> list[Route]:
    """The routes of a session's page, and of a flow's static link, which makes a session first."""

    async def show(request: Request) -> Response:
        session = entered(world, request.path_params["entrance"])
        return form(session) if session else closed()

    async def choose(request: Request) -> Response:
        return await _chosen(world, request)

    async def follow_link(request: Request) -> Response:
        return await _followed(world, request)

    return [
        Route("/start/{entrance}", show, methods=["GET"]),
        Route("/start/{entrance}", choose, methods=["POST"]),
        Route("/link/{flow}", follow_link, methods=["GET", "POST"]),
    ]


async def _followed(world: World, request: Request) -> Response:
    """Asks for the address, unless the link brings it along; then makes a new session at each visit."""
    flow = world.store.flows.get(request.path_params["flow"])
    if flow is None or not flow.link:
        return HTMLResponse(TEMPLATES.get_template("link.html").render(flow=None), 404)
    query = request.query_params
    email = (await given(request)).get("email") or query.get("prefilled_email")
    if not email:
        return HTMLResponse(TEMPLATES.get_template("link.html").render(flow=flow))
    session = control.from_link(world, flow.scope, query.get("client_reference_id"), email, request.path_params["flow"])
    return RedirectResponse(sessions.with_entrance(world, session)["url"], 303)


async def _chosen(world: World, request: Request) -> Response:
    entrance = request.path_params["entrance"]
    session = entered(world, entrance)
    if session is None:
        return closed()
    try:
        choose(world, entrance, session, await given(request))
    except errors.ApiError as error:
        return form(session, problem=str(error), status=400)
    if session.return_url:
        return RedirectResponse(session.return_url, 303)
    return _page(session, done=True)


def choose(world: World, entrance: str, session: Session, chosen: dict[str, str]) -> None:
    """Does the chosen outcome and uses up the entrance: each choice needs a fresh one. Raises ApiError for none."""
    outcome = OUTCOMES.get(chosen.get("outcome", ""))
    if outcome is None:
        raise errors.ApiError(400, "Pick one of the outcomes.")
    if outcome.action:
        code = outcome.code or chosen.get("code") or "document_unverified_other"
        scenarios.act(world, session, outcome.action, {"code": code})
    del world.store.entrances[entrance]


async def given(request: Request) -> dict[str, str]:
    """The texts of a form, read without python-multipart, which this project does not have."""
    from_body = forms.decode((await request.body()).decode(errors="replace"))
    return {name: value for name, value in from_body.items() if isinstance(value, str)}


def entered(world: World, entrance: str) -> Session | None:
    """The session of an entrance; None if the entrance no longer works."""
    session_id, expires = world.store.entrances.get(entrance, ("", 0.0))
    session = world.store.sessions.get(session_id)
    if session is None or expires < world.clock.time() or session.status != "requires_input" or session.redaction:
        return None
    return session


def closed() -> Response:
    """The answer for an entrance that no longer works."""
    return HTMLResponse(TEMPLATES.get_template("page.html").render(session=None), 410)


def form(
    session: Session, *, problem: str | None = None, status: int = 200, more: dict[str, str] | None = None
) -> Response:
    """The page with the outcomes as buttons, and `more` of them by their values."""
    buttons = {value: outcome.label for value, outcome in OUTCOMES.items()} | (more or {})
    return _page(session, problem=problem, status=status, buttons=buttons)


def _page(session: Session, *, status: int = 200, **shown: object) -> Response:
    template = TEMPLATES.get_template("page.html")
    return HTMLResponse(template.render(session=session, reasons=reasons.REASONS, **shown), status)
