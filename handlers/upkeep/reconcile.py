"""Reconcile: what Stripe has and we never applied.

Two looks: the events Stripe could not deliver, and each of our sessions that is not at its end. What is found goes into
the inbox like any event, so that order, owing and redaction are decided in one place.
"""

import structlog

from config.inserts import NOW
from config.settings import settings
from handlers.queue.failures import NotNowError, PermanentError
from handlers.upkeep import progress
from handlers.upkeep.allowance import EnoughError, Report, allowance, no_limit
from handlers.upkeep.drift import compare_sessions
from handlers.upkeep.undelivered import recover_events

log = structlog.stdlib.get_logger(__name__)

RUN = "reconcile"  # the bookmark of the last run
_LOOKS = {"events": recover_events, "sessions": compare_sessions}


def reconcile(*, bounded: bool = True) -> Report:
    """One run. Bounded: so many requests and seconds, and of our sessions those whose turn it is; else everything.

    1. fetches the events that Stripe could not deliver, of our account and of each we have heard of, from where the
       last run stopped;
    2. compares our sessions that are not at their end with Stripe's, and takes what differs for an event;
    3. notes when it ran; the report says what is to be handed to the workers.

    Never raises for Stripe's sake: the report says why a look stopped, and the next run goes on where this one did.
    """
    report = Report()
    if not settings().stripe_api_key:
        report.stopped.append("no STRIPE_API_KEY")
        return report
    for name, look in _LOOKS.items():
        try:
            look(report, allowance() if bounded else no_limit, bounded=bounded)
        except (NotNowError, PermanentError, EnoughError) as error:
            report.stopped.append(f"{name}: {error}")
    progress.move(RUN, NOW)
    log.info(
        "reconcile.ended",
        undelivered=report.undelivered,
        recovered=len(report.recovered),
        compared=report.compared,
        drifted=len(report.drifted),
        stopped=report.stopped,
    )
    return report
