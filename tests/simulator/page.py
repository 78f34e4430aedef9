"""The page a session's url opens, where a person picks the outcome, as in Stripe's test mode."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.simulator import control, forms, reasons, scenarios, sessions
from tests.simulator.errors import ApiError
from tests.simulator.store import Session
from tests.simulator.world import World

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)

OUTCOMES = ("submit", "pass", "fail", "abandon", "decline")


def routes(world: World) -> list[Route]:
    """The page of a session, and the static link of a flow, which makes a session first."""

    async def show(request: Request) -> Response:
        session = _entered(world, request.path_params["entrance"])
        return _page(session) if session else _closed()

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
    """Asks for the address, unless the link brings it along; then a new session, whoever has been here before."""
    flow = world.store.flows.get(request.path_params["flow"])
    if flow is None or not flow.link:
        return HTMLResponse(TEMPLATES.get_template("link.html").render(flow=None), 404)
    query = request.query_params
    email = (await _form(request)).get("email") or query.get("prefilled_email")
    if not email:
        return HTMLResponse(TEMPLATES.get_template("link.html").render(flow=flow))
    session = control.from_link(world, flow.scope, query.get("client_reference_id"), email, request.path_params["flow"])
    return RedirectResponse(sessions.with_entrance(world, session)["url"], 303)


async def _chosen(world: World, request: Request) -> Response:
    """Single use: whoever has picked an outcome needs a fresh url for the next."""
    entrance = request.path_params["entrance"]
    session = _entered(world, entrance)
    if session is None:
        return _closed()
    form = await _form(request)
    outcome = form.get("outcome", "")
    if outcome not in OUTCOMES:
        return _page(session, problem="Pick one of the outcomes.", status=400)
    try:
        scenarios.act(world, session, outcome, {"code": form.get("code") or "document_unverified_other"})
    except ApiError as error:
        return _page(session, problem=str(error), status=400)
    del world.store.entrances[entrance]
    if session.return_url:
        return RedirectResponse(session.return_url, 303)
    return _page(session, done=True)


async def _form(request: Request) -> dict[str, str]:
    """Read without python-multipart, which this project does not have."""
    from_body = forms.decode((await request.body()).decode(errors="replace"))
    return {name: value for name, value in from_body.items() if isinstance(value, str)}


def _entered(world: World, entrance: str) -> Session | None:
    session_id, expires = world.store.entrances.get(entrance, ("", 0.0))
    session = world.store.sessions.get(session_id)
    if session is None or expires < world.clock.time() or session.status != "requires_input" or session.redaction:
        return None
    return session


def _closed() -> Response:
    return HTMLResponse(TEMPLATES.get_template("page.html").render(session=None), 410)


def _page(session: Session, *, done: bool = False, problem: str | None = None, status: int = 200) -> Response:
    template = TEMPLATES.get_template("page.html")
    return HTMLResponse(template.render(session=session, done=done, problem=problem, reasons=reasons.REASONS), status)
