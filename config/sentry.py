"""Errors to Sentry, made here from our log lines: ids, our own words, types and places, and nothing else.

The SDK's integrations are off: they send local variables, requests, arguments and foreign texts, which quote payloads.
"""

import atexit
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentry_sdk

from config.version import SERVICE, VERSION

_ROOT = Path(__file__).parents[1]
# The fields of a line that are sent: the others may hold anything.
_TAGS = ("event_id", "session_id", "verification_id", "action_id", "action", "task", "task_id", "error", "attempts")
_FLUSH_SECONDS = 2.0
_MOST_CAUSES = 5  # of an error that was raised from another, and so on


class Reporter(logging.Handler):
    """Sends lines of level error and above."""

    def __init__(self, dsn: str) -> None:
        super().__init__(logging.ERROR)
        sentry_sdk.init(
            dsn,
            release=f"{SERVICE}@{VERSION}",
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            send_default_pii=False,
            send_client_reports=False,
            auto_session_tracking=False,
            max_breadcrumbs=0,
        )
        atexit.register(sentry_sdk.flush, _FLUSH_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Hands one line to the SDK, which sends it in a thread of its own."""
        if not record.name.startswith(("sentry_sdk", "urllib3")):  # their lines would go in circles
            sentry_sdk.capture_event(_report(record))


def _report(record: logging.LogRecord) -> Any:
    line = record.msg if isinstance(record.msg, dict) else {}  # ours; of a foreign line only its logger is sent
    asked = line.get("exc_info") or record.exc_info
    error = asked if isinstance(asked, BaseException) else asked[1] if isinstance(asked, tuple) else sys.exc_info()[1]
    causes = list(_causes(error))
    return {
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": str(line.get("event", f"an error of {record.name}")),
        "tags": {name: str(line[name]) for name in _TAGS if line.get(name) is not None},
        "exception": {"values": [_exception(cause) for cause in reversed(causes)]},
    }


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MOST_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _exception(error: BaseException) -> dict[str, Any]:
    """An error's type and the place where it was raised; not its message, which may quote a payload."""
    frames = [
        {"filename": _shown(frame.f_code.co_filename), "function": frame.f_code.co_name, "lineno": line}
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return {"type": type(error).__name__, "module": type(error).__module__, "stacktrace": {"frames": frames}}


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else path.name
