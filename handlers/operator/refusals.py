"""Refusals by the mail server, the application, Stripe, the database or ourselves, as the processes report them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from handlers.metrics import outside
from handlers.metrics.heartbeats import GONE_AFTER
from handlers.tables.models import Heartbeat

_BLIP = timedelta(seconds=3)  # within it a second try mostly gets its answer
_SEVERAL = 3  # refusals in a row
_TRIES_WITHIN = timedelta(minutes=1)  # a process that still has something to ask has asked by then
_MAY_BE_OVER = timedelta(minutes=2)  # failed work that is not done is tried again sooner
_STILL_USED_WITHIN = timedelta(hours=1)
_TO_DO = {
    outside.MAIL_SERVER: "mails wait until it takes them, and none is lost: see SMTP_URL and MAIL_FROM; python -m"
    " worker doctor tries them",
    outside.MAIL_FOLDER: "mails wait until it does, and none is lost: it has to be there for the worker to write, on a"
    " disk with room; SMTP_URL sends them instead",
    outside.APPLICATION: "calls wait until it takes them, and none is lost: see APP_CALLBACK_URL, and its own log",
    outside.STRIPE: "what needs it waits, and nothing is lost: see STRIPE_API_KEY; python -m worker doctor tries what"
    " the key may",
    outside.DATABASE: "its log, and that of web and worker, say why; what is due waits, and Stripe delivers again",
    outside.OURSELVES: "its log says where; what is dead comes back by python -m worker retry once that is mended",
    outside.FILES: "it can take no request and reach nobody: start it again with a higher limit (ulimit -n)",
    outside.LOOKUP: "mails wait until it answers, and none is lost: see what it waits for",
    outside.BROKER: "each takes what is meant for the other, and the sweep sends it again: give each a Redis, or a"
    " database of it (redis://host/1), of its own; or have two workers of one service another DATABASE_URL?",
    outside.LOGO: "pages are shown without the logo: see BRAND_LOGO_URL, and start web again",
    outside.STILL_USED: "who has it gets 401: give the application its new one, or put this one back; this ends an"
    " hour after its last use",
    outside.SIGNED: "is STRIPE_WEBHOOK_SECRET the secret of the endpoint, as Stripe shows it, and does a proxy hand on"
    " bodies and Stripe-Signature as they are? Stripe delivers again for three days",
    outside.BODY: "STRIPE_WEBHOOK_SECRET is right: what stands before web writes the JSON anew, and has to hand on each"
    " byte; Stripe delivers again for three days",
    outside.STARTED: "is STRIPE_WEBHOOK_SECRET the secret of the endpoint, as Stripe shows it, is STRIPE_API_KEY a key"
    " of its mode, and does a proxy hand on bodies and Stripe-Signature as they are?",
    outside.PUBLIC_URL: "Stripe's deliveries and persons' links go there: see PUBLIC_URL, its DNS, its certificate, and"
    " what stands before web; status looks again at once, a worker every minute",
    outside.ENDPOINT: "python -m worker endpoint check and status look again at once, a worker every minute;"
    " reconcile fetches what it does not deliver",
}


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A refusal of one process."""

    process: str
    standing: outside.OutsideStanding
    since: datetime
    last: datetime

    @property
    def of(self) -> tuple[str, str]:
        """The one that refuses, and the kind of work that it refuses."""
        return self.standing.of, self.standing.doing


def refusals(known: Sequence[Heartbeat], at: datetime) -> Iterator[tuple[str, str, str]]:
    """Each one that refuses, for each kind of work that is asked of it: with the fault and the thing to do.

    A refusal ends with the next answer to any process; a process that alone is refused, again and again, is named. A
    young refusal may be over in a moment, and the refusal of a single action says little of us.
    """
    living = [one for one in known if one.last_at > at - GONE_AFTER and not one.ended_at]
    answers: dict[tuple[str, str], datetime] = {}
    found: list[_Refusal] = []
    for one in living:
        for standing in outside.heard(one.outside):
            since, last, answered = (
                seconds is not None and one.last_at - timedelta(seconds=seconds)
                for seconds in (standing.since, standing.last, standing.answered)
            )
            if answered:
                of = standing.of, standing.doing
                answers[of] = max(answered, answers.get(of, answered))
            if since and last:
                found.append(_Refusal(one.name, standing, since, last))
    told = sorted((one for one in found if _is_told(one, answers, at)), key=lambda one: (one.of, one.since))
    for of, group in groupby(told, lambda one: one.of):
        some = [*group]
        times, latest = sum(one.standing.times for one in some), max(some, key=lambda one: one.last)
        alone = f" to {latest.process}, and to no other process" if _is_over(latest, answers) else ""
        often = f", {times} times" if times > 1 else ""
        so_far = "nothing else "
        if of[0] == outside.STILL_USED:
            alone, so_far = ", which is gone from API_TOKENS, is still used", ""
        yield (
            of[0],
            f"{of[0]} {latest.standing.word}{alone}: {so_far}since {some[0].since:%F %T} UTC{often}",
            _TO_DO.get(of[0], "python -m worker doctor"),  # a newer version, beside this one, may know others
        )


def _is_told(one: _Refusal, answers: dict[tuple[str, str], datetime], at: datetime) -> bool:
    # A look's result is no blip, and whoever looked last is right.
    if one.standing.of == outside.ENDPOINT:
        return not _is_over(one, answers)
    if one.standing.of == outside.PUBLIC_URL:
        return not _is_over(one, answers) and one.last > at - _MAY_BE_OVER  # silence since says nothing
    if one.standing.of == outside.STILL_USED:  # other tokens may be accepted all the time
        return one.last > at - _STILL_USED_WITHIN
    is_tried_again = one.standing.of == outside.DATABASE or (one.standing.of == outside.OURSELVES and one.standing.each)
    if is_tried_again and one.last < at - _MAY_BE_OVER:
        return False
    if _is_over(one, answers):
        return one.standing.times >= _SEVERAL and one.last > at - _TRIES_WITHIN
    return one.standing.times >= _SEVERAL or (not one.standing.each and one.since < at - _BLIP)


def _is_over(one: _Refusal, answers: dict[tuple[str, str], datetime]) -> bool:
    return answers.get(one.of, one.last) > one.last
