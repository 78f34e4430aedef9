"""The tables' figures at one moment, for the findings and for the pages: each question is asked once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property

from config.database import database_now, statement
from config.process import myself
from config.trouble import Trouble, hindrance
from handlers.metrics import heartbeats, tallies
from handlers.operator import queries
from handlers.operator.connections import Commits, look_at_commits
from handlers.operator.structure import Tables, look_at_tables
from handlers.queue import pauses
from handlers.tables.models import Heartbeat, Paused, Unanswered, VerificationRecord
from handlers.upkeep import unanswered

_SHOWN_FOR = timedelta(minutes=5)  # for a process that is gone


class Figures:
    """The figures, each asked for at its first use. Takes the broker's trouble, of which no table knows, and may take
    this process's own standings, if it is one without a heartbeat.
    """

    def __init__(self, broker_trouble: str | None, outside: str | None = None) -> None:
        self.broker_trouble = broker_trouble
        self.outside = outside

    @cached_property
    def at(self) -> datetime:
        """The moment, by the database's clock."""
        return database_now()

    @cached_property
    def tables(self) -> Tables:
        """Our tables, held against what the migrations have made."""
        with statement() as connection:
            return look_at_tables(connection)

    @cached_property
    def hindrance(self) -> Trouble | None:
        """The trouble that keeps deliveries from being stored, if the database says so before it is tried."""
        with statement() as connection:
            found = hindrance(connection)
        return found or self.commits.trouble

    @cached_property
    def commits(self) -> Commits:
        """Whether commits end."""
        with statement() as connection:
            return look_at_commits(connection)

    @cached_property
    def backlogs(self) -> dict[str, queries.Backlog]:
        """The unfinished events and actions, counted."""
        return queries.backlogs()

    @cached_property
    def processes(self) -> Sequence[Heartbeat]:
        """The processes with a sign of life in the last minutes, and the last of each kind, the youngest first."""
        return heartbeats.known_processes()

    @cached_property
    def ourselves(self) -> list[Heartbeat]:
        """This process with its standings, if it is one that writes no heartbeat."""
        if not self.outside:
            return []
        said = myself("command")
        said = {name: said[name] for name in ("name", "version", "host")}
        return [Heartbeat(kind="command", last_at=self.at, outside=self.outside, **said)]

    @cached_property
    def recent_processes(self) -> list[Heartbeat]:
        """The processes of the last minutes."""
        return [one for one in self.processes if one.last_at > self.at - _SHOWN_FOR]

    @cached_property
    def clocks(self) -> list[tuple[Heartbeat, float]]:
        """The lead of each recent process's clock before the database's, in seconds; worst first."""
        leads = ((one, one.ahead_seconds) for one in self.recent_processes if one.ahead_seconds is not None)
        return sorted(leads, key=lambda lead: -abs(lead[1]))

    @cached_property
    def lately(self) -> tallies.Lately:
        """The counts of deliveries by outcome, of skipped actions, and of visits whose sender is unknown."""
        return tallies.lately()

    @cached_property
    def ended_lately(self) -> dict[str, int]:
        """The number of events and actions that came to an end in the last minute."""
        return tallies.ended(timedelta(minutes=1))

    @cached_property
    def unanswered(self) -> Sequence[Unanswered]:
        """The accounts and sessions about which Stripe does not answer."""
        return unanswered.known()

    @cached_property
    def not_redacted(self) -> list[VerificationRecord]:
        """The sessions that ought to be redacted by now."""
        return queries.not_redacted()

    @cached_property
    def paused(self) -> Sequence[Paused]:
        """The destinations that are paused."""
        return pauses.paused()
