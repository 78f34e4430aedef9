"""Whole lists: reads all of an account's events or sessions at Stripe, for a command that waits for them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from config.database import database_now
from config.settings import settings
from handlers.record.events import MalformedEventError, SessionState, VerificationEvent, parse_item
from handlers.stripe_api import sessions
from handlers.stripe_api.sessions import ListPage
from handlers.upkeep.allowance import Report
from handlers.upkeep.undelivered import AHEAD, parse_listed, whole_second
from handlers.upkeep.windows import Reading, id_of, walk


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeLists:
    """The lists of one account; an item that cannot be read is reported. Raises the errors of `walk`."""

    report: Report
    account: str | None

    def events(
        self, since: datetime, take: Callable[[list[VerificationEvent], datetime], object], *, undelivered: bool
    ) -> None:
        """Hands `take` the events of our types created since then, page by page, and the time of the question."""

        def parsed(page: ListPage) -> None:
            events = []
            for item in page.items:
                try:
                    event = parse_listed(item, self.account)
                except MalformedEventError as error:  # this item alone is skipped
                    self.report.unreadable("event", id_of(item), error)
                else:
                    events += [event] if event else []
            take(events, page.asked_at)

        def ask(start: datetime, end: datetime, after: str | None) -> ListPage:
            return sessions.list_events(start, end, self.account, after=after, undelivered=undelivered)

        self._read("events", ask, parsed, since)

    def sessions(self, since: datetime, take: Callable[[list[tuple[Any, SessionState]], datetime], object]) -> None:
        """Hands `take` the sessions made since then, each as it is now, page by page, and the time of the question."""

        def parsed(page: ListPage) -> None:
            found = []
            for item in page.items:
                try:
                    _, state = parse_item(item, settings().our_sessions, settings().livemode)
                    found.append((item, state))
                except MalformedEventError as error:  # this item alone is skipped
                    self.report.unreadable("session", id_of(item), error)
            take(found, page.asked_at)

        def ask(start: datetime, end: datetime, after: str | None) -> ListPage:
            return sessions.list_sessions(start, end, self.account, after=after)

        self._read("listed", ask, parsed, since)

    def _read(
        self,
        what: str,
        ask: Callable[[datetime, datetime, str | None], ListPage],
        take: Callable[[ListPage], None],
        since: datetime,
    ) -> None:
        reading = Reading(
            ask=ask,
            take=take,
            reached=lambda *_: None,
            pass_over=lambda second, error: self.report.note_second(f"restored:{what}", second, error),
        )
        for _ in walk(reading, since, whole_second(database_now() + AHEAD)):
            pass
