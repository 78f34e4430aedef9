"""Reconcile: finds the events and states that Stripe has and we never applied.

Four looks: the events that a failover has lost, those that Stripe could not deliver, our sessions that are not at their
end, and every session as it grows old. Each finding goes into the inbox like any event, so that order, owing and
redaction are decided in one place.
"""

import structlog

from config.database import database_now
from config.inserts import NOW
from config.settings import settings
from handlers.queue.failures import AwayError, stopping
from handlers.upkeep import progress, unanswered
from handlers.upkeep.accounts import Accounts, heard_of
from handlers.upkeep.aged import compare_listed
from handlers.upkeep.allowance import SECONDS, EnoughError, Report, allowance, in_turn, no_limit
from handlers.upkeep.drift import compare_open
from handlers.upkeep.left_behind import take_up
from handlers.upkeep.lost import recover_lost
from handlers.upkeep.undelivered import recover_events

log = structlog.stdlib.get_logger(__name__)

_LOOKS = {"lost": recover_lost, "events": recover_events, "sessions": compare_open, "listed": compare_listed}


def reconcile(*, bounded: bool = True) -> Report:
    """One run. Bounded: each look has a share of requests and seconds, and asks about due sessions; else about all.

    1. fetches all events since the last run, once, if the database is now a promoted standby or a restored backup;
    2. fetches the events that Stripe could not deliver, from where the last run stopped;
    3. compares our sessions that are not at their end with Stripe's, and makes an event of each difference;
    4. does the same with all sessions that have reached one of their ages, as Stripe lists them;
    5. gives verifications whose openings died the sessions that those have made;
    6. notes the time of the run; the report names the events to hand to the workers.

    Each look has a share for our account and one for the connected accounts, who take turns. Raises no error of
    Stripe's: the report says what failed and why a look stopped, and the next run goes on from there.
    """
    report = Report()
    if not settings().stripe_api_key:
        report.stopped.append("no STRIPE_API_KEY")
        return report
    connected = heard_of()
    ours: Accounts = {None: connected.pop(None, database_now())}
    for what, look in _LOOKS.items():
        for whose, accounts in (("", ours), (" of connected accounts", connected)):
            try:
                in_turn(what, look(report, accounts, bounded=bounded), allowance() if bounded else no_limit, report)
            except EnoughError as error:
                report.stopped.append(f"{what}{whose}: {error}")
            except AwayError as error:
                report.stopped.append(f"{what}{whose}: {error}")
                if error.again_after <= SECONDS:  # a short wait, so that the next look is answered
                    stopping.wait(error.again_after)
    take_up()
    unanswered.drop_old()
    progress.move(progress.RUN, NOW)
    log.info(
        "reconcile.ended",
        undelivered=report.undelivered,
        recovered=len(report.recovered),
        compared=report.compared,
        drifted=len(report.drifted),
        failed=len(report.failed),
        stopped=report.stopped,
    )
    return report
