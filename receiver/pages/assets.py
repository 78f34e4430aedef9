"""The files that pages load from us: the stylesheet with the brand's colours, two scripts, and the logo."""

import asyncio
import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import structlog
from starlette.requests import Request
from starlette.responses import Response

from config.settings import settings
from handlers.catalogue.pages import stylesheet
from handlers.metrics import outside
from handlers.queue.calls import Line
from handlers.queue.failures import NotNowError
from receiver.headers import headers
from receiver.pages.answers import base
from receiver.pages.headers import ASSET, PLAIN

log = structlog.stdlib.get_logger(__name__)

_STATIC = Path(__file__).with_name("static")
_SCRIPTS = ("verify.js", "status.js")
_MOST_BYTES = 256 * 1024
_SECONDS = 5.0
_BEFORE_SVG = (
    rb"(?>\s+|<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE\s+svg[^>\[]*(?:\[[^\]]*\]\s*)?>)*+"  # as drawing programs write it
)
# The first bytes of each type of picture.
_IMAGES = {
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "image/jpeg": rb"\xff\xd8\xff",
    "image/gif": rb"GIF8[79]a",
    "image/webp": rb"RIFF....WEBP",
    "image/svg+xml": rb"(\xef\xbb\xbf)?" + _BEFORE_SVG + rb"<svg[\s>/]",
}


class Assets:
    """The files by name, read once. A browser keeps them, and asks each time whether they are still the same."""

    def __init__(self) -> None:
        self._known = {"pages.css": ("text/css", stylesheet().encode())}
        for name in _SCRIPTS:
            self._known[name] = ("text/javascript", (_STATIC / name).read_bytes())
        self._fetching = asyncio.create_task(self._fetch()) if settings().brand_logo_url else None

    @property
    def logo_url(self) -> str | None:
        """The logo's address, once it is fetched."""
        return f"{base()}/assets/logo" if "logo" in self._known else None

    async def close(self) -> None:
        """Gives up a logo that is still being fetched."""
        if self._fetching:
            self._fetching.cancel()
            with suppress(asyncio.CancelledError):
                await self._fetching

    async def answer(self, request: Request) -> Response:
        """Answers GET /assets/{name}."""
        media_type, content = self._known.get(request.path_params["name"], ("", b""))
        if not media_type:
            return Response("Not Found", 404, headers(request.scope["scheme"], PLAIN))
        tag = f'"{sha256(content).hexdigest()[:32]}"'
        found = headers(request.scope["scheme"], ASSET) | {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=found)
        return Response(content, 200, found, media_type)

    async def _fetch(self) -> None:
        """Fetches the logo once, beside the start: no delivery waits for it."""
        try:
            self._known["logo"] = await asyncio.to_thread(fetched, settings().brand_logo_url.get_secret_value())
        except (NotNowError, ValueError) as error:
            log.warning("logo.not_fetched", error=str(error))


def fetched(url: str) -> tuple[str, bytes]:
    """A logo's type, by its first bytes, and its content. Raises NotNowError, or ValueError for other files."""
    answer = Line(outside.LOGO, _SECONDS).call("GET", url, {"Accept": ", ".join(_IMAGES)}, None, most=_MOST_BYTES)
    found = [name for name, start in _IMAGES.items() if re.match(start, answer.body, re.DOTALL)]
    if answer.status != 200 or not found:
        outside.note_refusal(outside.LOGO, word := f"answered {answer.status}, and no image that is served")
        raise ValueError(word)
    outside.note_answer(outside.LOGO)
    return found[0], answer.body
