"""One formatter for our lines, Celery's and uvicorn's: readable on a terminal, JSON otherwise."""

import io
import logging
import re
import sys
from importlib import import_module
from typing import TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, ExcInfo, Processor

from config.settings import SettingsError, settings

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

# Libraries that print request addresses or message bodies at info and debug.
_CHATTY = ("alembic", "stripe", "urllib3", "kombu", "amqp", "redis", "asyncio")
# PostgreSQL quotes the row that it refuses.
_DETAIL = re.compile(r"\nDETAIL:[^\n]*")


def configure_logging(*, is_silent: bool = False) -> None:
    """Sends every log record of this process to standard error, rendered as LOG_FORMAT says; or, if is_silent, nowhere:
    some platforms hand on both outputs of a command as one.
    """
    handler = logging.NullHandler() if is_silent else logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers()],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler, *_reporters()]
    root.setLevel(settings().log_level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _reporters() -> list[logging.Handler]:
    dsn = settings().sentry_dsn.get_secret_value()
    if not dsn:
        return []
    try:
        return [import_module("config.sentry").Reporter(dsn)]  # not even imported without a DSN
    except ModuleNotFoundError:
        raise SettingsError("SENTRY_DSN is set, and sentry-sdk is not installed: see docs/deploy.md") from None


def _renderers() -> list[Processor]:
    log_format = settings().log_format
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    if log_format == "console":
        # No local variables in tracebacks: they hold payloads.
        return [structlog.dev.ConsoleRenderer(exception_formatter=_print_traceback)]
    frames = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    return [frames, _leave_out_rows, structlog.processors.JSONRenderer()]


def _print_traceback(terminal: TextIO, error: ExcInfo) -> None:
    said = io.StringIO()
    structlog.dev.plain_traceback(said, error)
    terminal.write(_DETAIL.sub("", said.getvalue()))


def _leave_out_rows(_: object, __: str, line: EventDict) -> EventDict:
    for stack in line.get("exception", ()):
        stack["exc_value"] = _DETAIL.sub("", stack["exc_value"])
    return line
