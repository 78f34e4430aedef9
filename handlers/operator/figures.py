"""What the tables say at one moment, for those who judge it and those who show it: each question is asked once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property

from config.database import database_now
from handlers.metrics import heartbeats, tallies
from handlers.operator import queries
from handlers.queue import pauses
from handlers.queue.claims import Table
from handlers.tables.models import Heartbeat, Paused, Unanswered, VerificationRecord
from handlers.upkeep import unanswered

_SHOWN_FOR = timedelta(minutes=5)  # a process that is gone


class Figures:
    """Asks when somebody wants to know. Takes why the broker cannot be used, of which no table knows."""

    def __init__(self, broker_trouble: str | None) -> None:
        self.broker_trouble = broker_trouble

    @cached_property
    def at(self) -> datetime:
        """The moment, by the database's clock."""
        return database_now()

    @cached_property
    def backlogs(self) -> dict[Table, queries.Backlog]:
        """How much of the inbox and of the outbox is not finished."""
        return queries.backlogs()

    @cached_property
    def processes(self) -> Sequence[Heartbeat]:
        """Each that gave a sign of life in the last minutes, and the last of each kind, the youngest first."""
        return heartbeats.known()

    @cached_property
    def recent_processes(self) -> list[Heartbeat]:
        """Those of the last minutes."""
        return [one for one in self.processes if one.last_at > self.at - _SHOWN_FOR]

    @cached_property
    def clocks(self) -> list[tuple[Heartbeat, float]]:
        """The lead of each recent process's clock before the database's, in seconds; worst first."""
        leads = ((one, one.ahead_seconds) for one in self.recent_processes if one.ahead_seconds is not None)
        return sorted(leads, key=lambda lead: -abs(lead[1]))

    @cached_property
    def lately(self) -> tallies.Lately:
        """What became of deliveries, and what was skipped."""
        return tallies.lately()

    @cached_property
    def ended_lately(self) -> dict[str, int]:
        """How much came to an end in the last minute."""
        return tallies.ended(timedelta(minutes=1))

    @cached_property
    def unanswered(self) -> Sequence[Unanswered]:
        """What Stripe does not answer about."""
        return unanswered.known()

    @cached_property
    def not_redacted(self) -> list[VerificationRecord]:
        """The sessions that ought to be redacted by now."""
        return queries.not_redacted()

    @cached_property
    def paused(self) -> Sequence[Paused]:
        """What is not done for now."""
        return pauses.paused()
