"""The output of commands: a table for people, JSON for machines."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_Batch = TypeVar("_Batch")
_WIDE = 200  # columns where there is no terminal to ask
_LEAST = 12  # columns of a heading: half an id of Stripe's
_MOST_REPEATED = 100  # letters


def print_json(content: Any) -> None:
    """Prints one JSON document, in letters that every encoding has if it is not for UTF-8."""
    is_plain = sys.stdout.encoding.lower() != "utf-8"
    print(json.dumps(content, default=_plain, ensure_ascii=is_plain, indent=2))


def print_rows(rows: Sequence[Mapping[str, Any]], headings: Sequence[str], title: str = "") -> None:
    """Prints a table; the headings are keys of the rows. Prints `none` without any rows.

    A terminal without room for so many columns gets a block of lines for each row.
    """
    if title:
        _console().print(Text(title, style="bold"))
    if not rows:
        _console().print("none")
        return
    if _console().width < _LEAST * len(headings):
        for row in rows:
            print_pairs({heading: row[heading] for heading in headings if show(row[heading])})
            print()
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(show(row[heading])) for heading in headings))  # Text: a stored value is no markup
    _console().print(table)


def print_pairs(pairs: Mapping[str, Any], title: str = "") -> None:
    """Prints names and values, one pair a line."""
    width = max(map(len, pairs), default=0)
    if title:
        _console().print(Text(title, style="bold"))
    for name, value in pairs.items():
        _console().print(Text(f"{name:<{width}}  {show(value)}".rstrip()), soft_wrap=True)


def progress(
    batches: Iterable[_Batch],
    what: str,
    total: int | None = None,
    count: Callable[[Any], int] = len,
    *,
    for_machines: bool,
) -> Iterator[_Batch]:
    """The same batches, with a bar on a person's terminal that counts their items."""
    with bar(what, total, for_machines=for_machines) as advance:
        for batch in batches:
            yield batch
            advance(count(batch))


@contextmanager
def bar(what: str, total: int | None = None, *, for_machines: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a person's terminal; the function that it gives moves it on by a number of items."""
    terminal = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(
        *columns, console=terminal, disable=for_machines or not terminal.is_terminal, transient=True
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


def refused(why: object, code: int = 1) -> int:
    """Prints why nothing, or nothing more, is done; returns the exit code."""
    print(why, file=sys.stderr)
    return code


def repeated(word: object) -> str:
    """A word that somebody typed, as a sentence repeats it: a longer one is cut."""
    text = str(word)
    return text if len(text) <= _MOST_REPEATED else f"{text[:_MOST_REPEATED]}…"


def show(value: object) -> str:
    """The text of a value for a person; times in UTC."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"{type(value).__name__} is not for machines")


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False)
