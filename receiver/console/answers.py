"""Answers of the console: pages and redirects, each with its headers, and what a form has sent."""

from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from config.settings import LOOPBACK
from handlers.catalogue.console import write_console
from handlers.operator.console_users import Role
from receiver.bodies import TooLongError, read_body
from receiver.console.visits import Visit, form_key, is_token, token_of
from receiver.headers import headers
from receiver.pages.answers import base
from receiver.pages.headers import PLAIN, is_foreign
from receiver.sender import is_this_machine

_MOST_BYTES = 64 * 1024  # of a form: a filter, a reason


class SorryError(Exception):
    """Why there is no such page, or nothing is done: a word of `sorry.jinja`, and the status."""

    def __init__(self, word: str, status: int) -> None:
        super().__init__(word)
        self.word = word
        self.status = status


def page(request: Request, name: str, status: int = 200, /, *, key: str = "", **values: object) -> Response:
    """One of the catalogue's console pages. `key` is that of its forms, where nobody has signed in."""
    visit: Visit | None = request.state.visit
    key = key or (form_key(request) if visit else "")
    around = {
        "home": path(),
        "user": visit.user if visit else None,
        "may_mend": bool(visit and visit.user.role == Role.MEND),
        "token": token_of(key) if key else "",
    }
    text = write_console(name, around | values).encode()
    return Response(text, status, headers(request.scope["scheme"], PLAIN), "text/html; charset=utf-8")


def redirect(request: Request, below: str = "") -> Response:
    """To another page of the console."""
    return Response(status_code=303, headers=headers(request.scope["scheme"], PLAIN) | {"Location": path(below)})


def path(below: str = "") -> str:
    """Of a page of the console."""
    return f"{base()}/console{below}"


async def fields(request: Request) -> dict[str, str]:
    """What a form of ours has sent. Raises SorryError for what another site's page sends, or nobody's form."""
    if is_foreign(request):
        raise SorryError("foreign", 403)
    try:
        body = await read_body(request, _MOST_BYTES)
        sent = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=20))
    except (TooLongError, ValueError):  # of parse_qsl: more fields than any form of ours has
        raise SorryError("long", 413) from None
    # rule: a form without this browser's token does nothing
    if not is_token(form_key(request), sent.get("token", "")):
        raise SorryError("expired", 403)
    return sent


def is_safe(request: Request) -> bool:
    """Whether nobody on the way can read along: over https, or from this machine to itself."""
    # rule: the console is for https, or for this machine
    return request.scope["scheme"] == "https" or (is_this_machine(request.scope) and request.url.hostname in LOOPBACK)
