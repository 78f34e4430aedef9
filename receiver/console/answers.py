"""Answers of the console: pages and redirects, each with its headers, and the reading of its forms."""

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
    """A page is refused, or a change: with a word of `sorry.jinja` for the reason, and the status."""

    def __init__(self, word: str, status: int) -> None:
        super().__init__(word)
        self.word = word
        self.status = status


def console_page(request: Request, name: str, status: int = 200, /, *, key: str = "", **values: object) -> Response:
    """One of the catalogue's console pages. `key` makes the token of its forms while nobody has signed in."""
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


def console_redirect(request: Request, below: str = "") -> Response:
    """Leads to another page of the console."""
    return Response(status_code=303, headers=headers(request.scope["scheme"], PLAIN) | {"Location": path(below)})


def path(below: str = "") -> str:
    """The path of a page of the console."""
    return f"{base()}/console{below}"


async def fields(request: Request) -> dict[str, str]:
    """The fields of a form of ours. Raises SorryError for another site's form, or one without this browser's token."""
    if is_foreign(request):
        raise SorryError("foreign", 403)
    try:
        body = await read_body(request, _MOST_BYTES)
        sent = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=20))
    except (TooLongError, ValueError):  # from parse_qsl: more fields than any form of ours has
        raise SorryError("long", 413) from None
    # rule: a form without this browser's token does nothing
    if not is_token(form_key(request), sent.get("token", "")):
        raise SorryError("expired", 403)
    return sent


def is_safe(request: Request) -> bool:
    """Whether nobody on the way can read along: over https, or from this machine to itself."""
    # rule: the console is for https, or for this machine
    return request.scope["scheme"] == "https" or (is_this_machine(request.scope) and request.url.hostname in LOOPBACK)
