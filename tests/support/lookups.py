"""Addresses for tests, named by EMAIL_LOOKUP: known, unknown, broken, and one that keeps its worker waiting."""

import asyncio
import sys
import time
from pathlib import Path
from typing import NoReturn

from config.settings import settings
from handlers.tables.models import VerificationRecord


def everybody(record: VerificationRecord) -> str:
    """An address for everybody."""
    return f"{record.session_id}@example.com"


def nobody(_: VerificationRecord) -> None:
    """An application that knows no address."""


def broken(record: VerificationRecord) -> NoReturn:
    """An application with a defect, whose error quotes a secret."""
    raise RuntimeError(f"no row for c4nary-{record.user_id}@example.com")


def ending(_: VerificationRecord) -> NoReturn:
    """An application that ends its process where it finds no configuration."""
    sys.exit("c4nary")


def canceled(_: VerificationRecord) -> NoReturn:
    """An application whose own bound of time ends its coroutine."""
    raise asyncio.CancelledError("c4nary")


def two_addresses(_: VerificationRecord) -> str:
    """An address that names two people."""
    return "c4nary@example.com, other@example.com"


def a_line_break(_: VerificationRecord) -> str:
    """An address that would add a header to its mail."""
    return "c4nary@example.com\r\nBcc: other@example.com"


def no_text(_: VerificationRecord) -> object:
    """An answer that is no text."""
    return ["c4nary@example.com"]


def stall(record: VerificationRecord) -> str:
    """Does not return while the file `stall` exists; says so in the file `stalled`."""
    folder: Path = settings().var_dir
    while (folder / "stall").exists():
        (folder / "stalled").touch()
        time.sleep(0.05)
    return f"{record.session_id}@example.com"


def silent_about_one(record: VerificationRecord) -> str:
    """Does not answer about this one until the file `stall` is gone."""
    return stall(record) if record.session_id == "vs_silent" else everybody(record)
