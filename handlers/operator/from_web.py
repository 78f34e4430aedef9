"""Web's findings, for a command that gets no connection: web connected before the last place was taken."""

from contextlib import suppress
from urllib.parse import urlsplit

import orjson

from config.settings import LOOPBACK, settings
from handlers.queue.calls import Line
from handlers.queue.failures import NotNowError

_SECONDS, _MOST_BYTES = 2.0, 256 * 1024
_SHOWN = ("level", "what", "words", "to_do", "alert")


def findings_of_web() -> list[dict[str, str]]:
    """The findings of /health/backlog, on this machine or at PUBLIC_URL; none if web is away, or shows us none."""
    for base in dict.fromkeys((f"http://127.0.0.1:{settings().port}", settings().base_url.rstrip("/"))):
        with suppress(NotNowError, ValueError, LookupError, TypeError):  # another program may listen there
            answer = Line("web", _SECONDS).call("GET", f"{base}/health/backlog", _token(base), None, most=_MOST_BYTES)
            return [{name: str(one[name]) for name in _SHOWN} for one in orjson.loads(answer.body)["findings"]]
    return []


def _token(base: str) -> dict[str, str]:
    """The header with METRICS_TOKEN: it goes over https alone, or to this machine."""
    token, parts = settings().metrics_token.get_secret_value(), urlsplit(base)
    is_safe = parts.scheme == "https" or parts.hostname in LOOPBACK
    return {"Authorization": f"Bearer {token}"} if token and is_safe else {}
