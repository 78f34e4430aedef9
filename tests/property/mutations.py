"""Breaks each rule in a copy of the source and shows that a test notices: `python -m tests.property.mutations`."""

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Sequence

from tests.property.copies import NOT_RUN, Fault, Result, failure_without, tried
from tests.property.markers import Break, Marker, OutdatedError, always, becomes, drop, markers_in, never, without
from tests.support.extended import ROOT

SOURCE = ("config", "handlers", "receiver", "worker")
PURE = ("tests/unit/test_ordering.py", "tests/unit/test_decide.py", "tests/property/test_orders.py")
INBOX = ("tests/integration/test_inbox.py", "tests/property/test_state_machine.py")
OUTBOX = ("tests/integration/test_outbox.py", "tests/property/test_state_machine.py")
CALLBACK = ("tests/integration/test_app_callback.py",)
REDACTION = ("tests/integration/test_redaction.py",)
THIN = ("tests/integration/test_thin.py", "tests/integration/test_inbox.py")
REVIEW = ("tests/unit/test_decide.py", "tests/integration/test_review.py")
FENCES = ("tests/integration/test_fences.py",)
NEIGHBOURS = ("tests/integration/test_neighbours.py",)
OUTPUTS = ("tests/integration/test_outputs.py",)
POISON = ("tests/integration/test_poison.py",)
FAULTS = ("tests/integration/test_faults.py",)
SMTP = ("tests/integration/test_smtp.py",)
RECONCILE = ("tests/integration/test_reconcile.py",)
RECEIVER = ("tests/integration/test_receiver.py",)
UNSIGNED = ("tests/integration/test_before_signature.py",)
SENDER = ("tests/unit/test_sender.py",)
SESSIONS = ("tests/integration/test_sessions.py",)
VERIFICATIONS_TOLD = ("tests/integration/test_verifications_told.py",)
GENERATIONS = ("tests/integration/test_generations.py",)
STANDING = ("tests/unit/test_standing.py",)
CLOCKS = ("tests/integration/test_clocks.py",)
ANSWERS = ("tests/integration/test_answers.py",)
NAMES = ("tests/unit/test_names.py",)
CALLS = ("tests/integration/test_calls.py",)
OURS = ("tests/integration/test_ours.py",)
TOLD = ("tests/integration/test_told.py", "tests/property/test_orders.py")
RESEND = ("tests/integration/test_resend.py",)
TOGETHER = ("tests/integration/test_together.py",)
PERFORMERS = ("tests/unit/test_performers.py",)
PAUSES = ("tests/integration/test_pauses.py",)
WIPING = ("tests/integration/test_wiping.py",)
RESTORED = ("tests/integration/test_restored.py",)
OPENINGS = ("tests/integration/test_openings.py",)
VERIFICATIONS = ("tests/integration/test_verifications.py",)
API = ("tests/integration/test_api.py",)
REMINDERS = ("tests/integration/test_reminders.py",)
PURGE = ("tests/integration/test_purge.py",)
LINKS = ("tests/unit/test_links.py",)
LINKS_SENT = ("tests/integration/test_links.py",)
SETTINGS = ("tests/unit/test_settings.py",)
PAGES = ("tests/integration/test_pages.py",)
RETURNS = ("tests/integration/test_returns.py",)
TRIES = ("tests/unit/test_tries.py",)
CONSOLE = ("tests/integration/test_console.py",)
CONSOLE_CHECKS = ("tests/integration/test_console_checks.py",)
CONSOLE_PERSONS = ("tests/integration/test_console_persons.py",)

# Each marked rule, with the way to break it and the tests that must notice.
RULES: dict[str, tuple[Break, Sequence[str]]] = {
    # handlers/record
    "canceled absorbs": (never, PURE),
    "canceled absorbs by rank, too": (becomes("False"), PURE),
    "an older stamp is stale": (never, PURE),
    "a state that contradicts an answer is asked about, unless it is far older": (
        becomes("False"),
        PURE,
    ),
    "the same state again contradicts nothing": (never, PURE),
    "a tie with the creation contradicts nothing": (never, PURE),
    "only Stripe settles a tie": (drop, PURE),
    "only Stripe says whether a verified session is checked again": (never, PURE),
    "only Stripe knows the state behind a thin notification": (never, (*PURE, *THIN)),
    "rank breaks a tie": (becomes("-{}"), PURE),
    "the report breaks a tie of equal ranks": (becomes("''"), PURE),
    "the code breaks a tie of equal reports": (becomes("''"), PURE),
    "requires_input without an error ranks and acts as created": (never, PURE),
    "an answer's stamp is the later one of the event and the question": (becomes("{args[0]}"), PURE),
    "the mark's stamp is the stamp of the state applied last": (drop, PURE),
    "the mark's rank is the rank of the state applied last": (drop, PURE),
    "the mark remembers that its stamp is an answer's": (drop, ANSWERS),
    "a stale event changes no status": (never, PURE),
    "the actions of a stale event are written down as skipped": (becomes("False", of="is_superseded"), PURE),
    "the actions of a state that an answer has overtaken are written down as skipped": (becomes("[]"), PURE),
    "a state that leaves the record as it is owes nothing": (never, PURE),
    "a cause names the report": (without(-1), PURE),
    "a cause names a state, not an event or a time": (
        becomes("{func}({args[0]}, {args[1]}, {args[2]} + str({args[0]}.stamp), is_superseded=False)"),
        PURE,
    ),
    "an action goes out only while its cause is the record's": (never, (*REVIEW, *OUTBOX)),
    "a change is another status or code": (becomes("True"), CALLBACK),
    "the change number rises with each change": (drop, (*PURE, *CALLBACK)),
    "a success is a submission, too": (becomes("None if {test} or kind == 'verified' else {orelse}"), INBOX),
    "a row that is there already is not new": (
        becomes("'DO UPDATE SET session_id = excluded.session_id'", of="on_conflict"),
        INBOX,
    ),
    "the limit holds only while input is required": (becomes("{values[1]}"), (*PURE, *REVIEW)),
    "the limit cancels only while input is required": (becomes("None"), (*PURE, *REVIEW)),
    "the reviewer hears of the limit of a canceled session, too": (becomes("[]"), (*PURE, *GENERATIONS)),
    "a canceled session has reached the limit by those before it alone": (
        becomes("{values[0]} and {values[1]}"),
        GENERATIONS,
    ),
    "the limit is judged after a stale event, too": (becomes("{args[1]}", of="owed"), (*PURE, *REVIEW)),
    "the limit itself owes actions": (becomes("[]"), REVIEW),
    "a burned session is canceled, and so is a replaced one that shows up open": (becomes("[]"), (*PURE, *GENERATIONS)),
    "a burned session is canceled only while it is open": (always, (*PURE, *GENERATIONS)),
    "nobody is mailed about a burned session, but of its success": (becomes("None"), (*PURE, *GENERATIONS)),
    "a success in a burned session is told": (becomes("TELLING"), (*PURE, *GENERATIONS)),
    "a replaced session owes only its own end and the kinds that survive superseding": (never, GENERATIONS),
    "the limit's actions are superseded once the person has passed": (always, REVIEW),
    "at the limit nobody is prompted": (never, REVIEW),
    "a prompt at the limit is written down as skipped": (never, REVIEW),
    "an action that survives superseding stays owed in every later state": (never, (*REVIEW, *CALLBACK)),
    "a stale event still owes the kinds that survive superseding": (becomes("{values[0]}"), REVIEW),
    "nobody is mailed after a redaction": (never, (*PURE, *REVIEW, *OUTBOX)),
    "the earliest redaction sets the time": (becomes("{args[1]}"), (*PURE, *REDACTION)),
    "a redaction sets the status of a record without an order mark": (never, (*PURE, *REDACTION)),
    "a redaction seen in Stripe's answer counts": (becomes("{values[0]}"), (*PURE, *REDACTION)),
    "the earliest stamp of an untried session sets the time of its reminder": (
        becomes("max({args[0]}, default=None)"),
        (*PURE, *REMINDERS),
    ),
    "a person who has begun is not reminded": (always, REMINDERS),
    "nobody is reminded of a session that is over": (becomes("{values[0]}"), REMINDERS),
    # handlers/inbox and handlers/owed
    "an event is kept once, by its id": (becomes("'DO UPDATE SET id = excluded.id'", of="on_conflict"), INBOX),
    "a batch is applied in Stripe's order": (becomes("{args[0]}"), INBOX),
    "each event of a failed batch is tried alone": (becomes("[]"), (*POISON, *INBOX)),
    "an event that waits for too long in a batch is put back": (never, (*FAULTS, *THIN)),
    "Stripe is asked about a thin notification before a transaction": (becomes("{args[0]}"), THIN),
    "Stripe is not asked about a notification that is older than the record": (
        becomes("False"),
        (*PURE, *THIN),
    ),
    "a session that Stripe does not know is not asked about again": (becomes("True", of="can_ask"), THIN),
    "an event ends once": (never, INBOX),
    "a redaction wipes the record, and nothing fills it again": (never, (*PURE, *REDACTION)),
    "a late success of an older session counts, unless it was replaced": (never, STANDING),
    "sessions of one verification share one change number": (becomes("{args[0]}"), VERIFICATIONS_TOLD),
    "a record that RECORD_DAYS has wiped is not filled again": (becomes("{values[0]} or {values[1]}"), WIPING),
    "a late event about a wiped record leaves nothing personal in the inbox": (never, WIPING),
    "a redaction wipes the inbox": (drop, REDACTION),
    "a verification is wiped once all its sessions are redacted": (never, REDACTION),
    "a redaction wipes the outputs": (drop, REDACTION),
    "a redaction drops the owed actions": (drop, (*INBOX, *REDACTION)),
    "an action that survives a redaction stays owed": (becomes("list(KINDS)"), (*REDACTION, *CALLBACK)),
    "a static link's reference is not trusted": (becomes("True"), SESSIONS),
    "a session that has changed is compared with Stripe's": (becomes("({elts[0]}, None)"), RECONCILE),
    "a session that names a verification of ours is ours": (becomes("{values[0]}"), GENERATIONS),
    "a verification of another account or mode is not believed": (never, GENERATIONS),
    "a new session of a generation that was given up, or that has another session, is burned": (
        becomes("None"),
        GENERATIONS,
    ),
    "a session that belongs before a replaced one is replaced, too": (becomes("None"), GENERATIONS),
    "a new session of a person who is to be forgotten is forgotten, too": (becomes("None"), GENERATIONS),
    "at the limit each session of a verification is ended": (drop, GENERATIONS),
    "a session with wiped metadata does not show its owner": (becomes("{orelse}", of="is_ours"), OURS),
    "a redaction is never taken for another owner's, whatever its metadata says": (becomes("False"), OURS),
    "the owner that an event does not show is taken from Stripe's answer, or else from the record": (
        becomes("next({args[0]}, True)"),
        OURS,
    ),
    "a session that is not ours has no record": (never, OURS),
    "the events that did not show their session's owner are applied once it proves ours": (drop, OURS),
    "the state of a session that turns out not to be ours is wiped": (becomes("{body}"), OURS),
    "a session that is not ours is not compared": (never, OURS),
    "a session that is not ours makes no event": (becomes("{values[0]}"), OURS),
    "the actions of an event that is read back quietly are written down as skipped": (never, RECONCILE),
    "a mail that is read back counts as told": (becomes("state.told"), RESTORED),
    "nobody is mailed because of events that are read back quietly": (becomes("False"), GENERATIONS),
    "a verification that is unknown here is ours by our mark, if we mark what we open": (
        becomes("{values[0]}"),
        RESTORED,
    ),
    "an alert that was sent before the database was lost is not sent again": (becomes("('', '')"), RESTORED),
    "a person who may have been reminded before is not reminded again": (always, REMINDERS),
    "an action whose setting is empty is not written down": (never, (*CALLBACK, *OUTPUTS)),
    "of two actions with one key the pending one wins": (becomes("{values[0]}"), (*INBOX, *REVIEW)),
    "a skipped action that is owed again becomes pending again": (becomes("{}.replace('skipped', 'dead')"), OUTBOX),
    "an action that is done stays done": (
        becomes("{}.replace('AND outbox_action.name IN', 'OR outbox_action.name IN')"),
        OUTBOX,
    ),
    "a mail that would repeat the last one is written down as skipped": (becomes("None"), TOLD),
    "nobody is told the same twice in a row": (never, TOLD),
    "an action that the record contradicts is not sent again": (never, RESEND),
    "an action that is not at its end is not sent again": (drop, RESEND),
    "one form has an action done once more, once": (drop, CONSOLE_PERSONS),
    "a mail that an operator sends again may repeat the last one": (becomes("record.state"), RESEND),
    "another mail in between makes the mail of the record's state due again": (becomes("[]"), TOLD),
    "a mail that may have arrived counts as told": (becomes("{values[0]}"), TOLD),
    "a mail that may have arrived before another one is not the last word": (never, TOLD),
    "a mail that may have arrived stays one when it is tried again": (becomes("None"), TOLD),
    "a mail that was given away is told if discarded": (drop, TOLD),
    "the limit is judged again after a change of it has skipped an action": (becomes("False"), TOLD),
    "a person gets one mail at a time": (never, TOLD),
    "a session that a higher limit has let go on is judged again": (becomes("{args[0]}"), TOLD),
    "a mail counts the submissions of all sessions of a verification": (drop, GENERATIONS),
    # handlers/sessions
    "one opening of a verification is under way at a time": (
        becomes("col(Verification.id).is_not(None)"),
        VERIFICATIONS,
    ),
    "a turn that has lost the lease writes nothing": (drop, VERIFICATIONS),
    "no round of calls begins that might outlast the lease": (never, OPENINGS),
    "the return_url is written down before there is a session": (always, OPENINGS),
    "a session that may have been made before is searched for": (never, VERIFICATIONS),
    "a submission that only Stripe's answer shows counts towards the limit": (never, VERIFICATIONS),
    "a person who is verified or being checked is not billed again": (never, VERIFICATIONS),
    "a session is replaced while none of its verification is being checked": (never, OPENINGS),
    "a person who is verified or being checked in another session is not asked again": (never, OPENINGS),
    "a person who is verified or being checked in another session enters none": (never, OPENINGS),
    "a verified session that Stripe has forgotten still counts": (never, OPENINGS),
    "a person who is being checked in any session is shown no button": (never, OPENINGS),
    "an answer about another session, or of the other mode, is none": (never, VERIFICATIONS),
    "the session of a spent key is searched for": (becomes("None, False"), OPENINGS),
    "a saved answer is never handed out": (becomes("(answer, True)"), OPENINGS),
    "only an open session of this person's is adopted": (never, VERIFICATIONS),
    "a session with another environment's mark is not adopted": (never, VERIFICATIONS),
    "a session whose metadata has no room for ours is not adopted": (never, VERIFICATIONS),
    "a session that is known as the current one only now is replaced by the next try": (never, VERIFICATIONS),
    "a session that is refused is not adopted": (drop, VERIFICATIONS),
    "an adopted session keeps the parameters that it was made with": (drop, VERIFICATIONS),
    "a refused opening leaves no new verification behind": (never, VERIFICATIONS),
    "only a session of the same verification is replaced": (never, VERIFICATIONS),
    "only an open session is entered": (never, VERIFICATIONS),
    "an open session without a way in is an answer that cannot be read": (never, API),
    "a person at the limit is told so, and not to open again": (never, VERIFICATIONS),
    "a person who is to be forgotten is not let in": (never, OPENINGS),
    "the marks of an end that did not come are taken back": (never, OPENINGS),
    "the marks of an end whose asker died are taken back": (never, OPENINGS),
    "of two sessions that openings which died made for one generation, one ends": (never, OPENINGS),
    "a session is left to its opener, as long as that has the lease": (drop, OPENINGS),
    "a session counts until the next generation replaces it": (always, GENERATIONS),
    "the time of a reminder comes once": (drop, REMINDERS),
    # handlers/queue
    "a row under a lease is nobody else's": (becomes("{func}()"), OUTBOX),
    "a claim counts an attempt": (drop, INBOX),
    "a claim clears the error of the try before": (without("last_error"), CALLBACK),
    "a row that has ended is not claimed": (drop, OUTBOX),
    "a row that is not due is not claimed": (drop, OUTBOX),
    "a paused action is not claimed": (drop, PAUSES),
    "nothing is opened while openings are paused": (never, PAUSES),
    "a lease outlives a jump of the database's clock": (drop, CLOCKS),
    "an answer that was long on its way tells no time": (never, CLOCKS),
    "a row that was tried before is tried alone": (never, INBOX),
    "a late worker is fenced by the attempt": (drop, FENCES),
    "a row with the number of one that a failover lost is another": (drop, FENCES),
    "a row that has ended stays as it is": (drop, FENCES),
    "a worker that has lost its claim does nothing more": (never, FENCES),
    "a last look that took too long is not relied on": (never, FENCES),
    "there are few tries whose outcome is unknown": (never, SMTP),
    "tries whose outcome is unknown are far apart": (never, SMTP),
    "a mail that may be given away already is not given once more": (never, SMTP),
    "a mail server's refusal counts, or is final, if it is about the mail or its recipient": (never, SMTP),
    "a row that ends its process each time is buried at last": (never, (*POISON, *OUTBOX, *INBOX)),
    "a row that was tried often enough is buried": (becomes("{values[0]}"), (*OUTBOX, *INBOX)),
    "a try that the database, Stripe or the network spoils does not count": (always, (*THIN, *CALLBACK)),
    "earlier attempts do not lengthen a row's wait for its turn": (
        becomes("attempts"),
        ("tests/unit/test_failures.py",),
    ),
    "a row that is put back waits": (becomes("-{}"), FAULTS),
    "a worker waits for the database to write down the outcome of a try": (becomes("True"), FAULTS),
    # handlers/outbox, and the rooms that it calls
    "an action that is no longer owed is not done": (never, OUTBOX),
    "an action that a newer state may supersede waits for the events that wait": (never, OUTBOX),
    "an action that was tried before is performed alone": (becomes("None"), TOGETHER),
    "an action that was tried before is not handed out with others": (never, PERFORMERS),
    "events that wait go before actions, but for a share": (never, PERFORMERS),
    "the longer an action has waited, the less it gives way": (becomes("1.0"), PERFORMERS),
    "an action that waits for long behind another is put back": (never, TOGETHER),
    "an old look at an action is repeated": (becomes("{values[0]}"), TOGETHER),
    "an action that is paused meanwhile is not begun": (never, TOGETHER),
    "an action that is told in order waits for its turn": (never, CALLBACK),
    "the end of an action that is told in order releases the next one": (never, CALLBACK),
    "a lower change number is waited for": (never, CALLBACK),
    "a dead change blocks nobody": (becomes("{left} != 'done'"), CALLBACK),
    "sessions of one verification are told of in one order": (
        becomes("col(OutboxAction.session_id) == bindparam('about')"),
        VERIFICATIONS_TOLD,
    ),
    "nothing personal is told after a redaction": (becomes("{orelse}"), VERIFICATIONS_TOLD),
    "a person who goes on with another session is not reminded of this one": (never, REMINDERS),
    "a session that is another's by Stripe's word is reminded of by its owner": (never, REMINDERS),
    "a person who has begun by Stripe's word is not reminded, however late the events are": (never, REMINDERS),
    "change numbers are numbers": (becomes("{args[0]}"), CALLBACK),
    "the message id is the same at each try": (becomes("{} + str({args[0]}.attempts)"), CALLBACK),
    "no redirect is followed": (becomes("super().get_redirect_target(resp)"), CALLBACK),
    "a row that a worker has is not made due": (becomes("{args[0]}"), FENCES),
    "EMAIL_LOOKUP is not asked again while it has not answered": (never, OUTBOX),
    "a side that wants quiet is asked nothing by any thread": (never, CALLS),
    "a name is not looked up again while a late look-up goes on": (always, NAMES),
    "threads that wait for name servers are few": (never, NAMES),
    "a limit of one thing leaves all others alone": (becomes("{values[0]}"), ANSWERS),
    "an informational answer is not the answer": (always, CALLS),
    "a call has an end, however slowly its answer drips": (becomes("{} + 3600"), CALLS),
    "an answer is bounded after unpacking, too": (never, CALLS),
    "no output is kept after a redaction": (never, OUTPUTS),
    "a session that Stripe will not cancel is retrieved": (always, REVIEW),
    "only the application's own word about a change counts": (never, CALLBACK),
    "a web page is not the application's word": (becomes("False"), CALLBACK),
    "Stripe is asked in the account's name": (drop, THIN),
    "only a whole object is an answer": (never, ANSWERS),
    "only a whole answer shows that there is no address": (never, ANSWERS),
    "a cancellation is done only if the answer shows it": (never, ANSWERS),
    "a redaction has begun only if the answer shows it": (never, ANSWERS),
    "only Stripe's own word is final": (becomes("{values[0]}"), ANSWERS),
    "an answer that Stripe has saved says nothing of today": (becomes("{values[0]}"), VERIFICATIONS),
    "a step back of the database's clock prolongs no opening's lease for long": (drop, VERIFICATIONS),
    "Stripe's clock is bounded by ours": (becomes("{values[0]}"), ANSWERS),
    "an answer's stamp allows for the call's duration": (becomes("{left}"), THIN),
    "nothing is deleted while two clocks disagree": (never, CLOCKS),
    "the purge keeps an action that an old event would owe again": (drop, PURGE),
    "a text signed minutes ahead of our clock is valid": (
        becomes("timedelta() <= {comparators[0]} <= {comparators[1]}"),
        LINKS,
    ),
    "RETRY_URL wins if the person is to try again": (never, LINKS_SENT),
    "a mail's link leads to the session that is current when it is read": (
        becomes("link_to(record.session_id).url"),
        LINKS_SENT,
    ),
    "a forgotten person gets no link": (never, LINKS_SENT),
    "a person gets one link an hour, however many ask for it": (never, LINKS_SENT),
    "the returns to a verification ask Stripe once in ten seconds, on all servers together": (
        becomes("last.is_(None) | last.is_not(None)"),
        RETURNS,
    ),
    "a link of ours leads to no try after a final failure": (never, PAGES),
    "a redaction is applied by its event, and not by a look": (never, RETURNS),
    # config
    "with a live key nobody is sent to this machine": (never, LINKS),
    "a link goes over plain http only to this machine": (becomes("True"), LINKS),
    "Stripe.js comes from Stripe's own origin, or with a test key also from this machine": (always, SETTINGS),
    # receiver
    "a link or sender that has tried too often waits": (never, TRIES),
    "a page without the button loads nothing of Stripe's": (becomes("entering()"), PAGES),
    "a live key knows no other Stripe than the real one": (becomes("{values[0]}"), PAGES),
    "nobody is sent to another place than Stripe's own": (becomes("True"), PAGES),
    "another site's page posts nothing here": (becomes("False"), PAGES),
    "a user who was removed, or has another role or password, is signed out": (always, CONSOLE),
    "a browser that has not signed in sees nothing": (never, CONSOLE),
    "a session whose reference anybody may have typed is forgotten by its own id alone": (
        becomes("{args[0]}"),
        CONSOLE_PERSONS,
    ),
    "a user who may only look changes nothing": (never, CONSOLE_PERSONS),
    "the checks are made one time after the other, with a pause between": (never, CONSOLE_CHECKS),
    "a form without this browser's token does nothing": (never, CONSOLE),
    "a session whose person is to be forgotten is not taken up": (never, REDACTION),
    "no stranger's tries keep out a browser in which that name has signed in before": (never, CONSOLE),
    "the console is for https, or for this machine": (becomes("True"), CONSOLE),
    "test and live never mix": (never, RECEIVER),
    "a listed session of the other mode is not read": (never, NEIGHBOURS),
    "the state of a session that is not ours is not kept": (never, OURS),
    "an event of a foreign type is not taken in": (never, RECEIVER),
    "a body is bounded, also beyond its Content-Length": (never, RECEIVER),
    "a signature from long ago or from the future is refused": (never, RECEIVER),
    "connections are bounded, and the silent ones go first": (never, UNSIGNED),
    "all requests that are not whole are bounded together": (becomes("False"), UNSIGNED),
    "a trailer adds nothing to a head": (never, UNSIGNED),
    "a head is bounded in lines": (never, UNSIGNED),
    "a head is bounded in bytes": (never, UNSIGNED),
    "an offer of another protocol takes nothing of its request": (becomes("b''"), UNSIGNED),
    "only a trusted proxy's word names the sender": (becomes("scope['client']"), SENDER),
}


def markers() -> Iterator[Marker]:
    """All marked rules of the source."""
    for package in SOURCE:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from markers_in(path)


def faults(rules: Collection[str] = RULES) -> list[Fault]:
    """A fault for each of these rules: the source without it. Raises OutdatedError."""
    marked = {marker.rule: marker for marker in markers()}
    if missing := set(rules) - set(marked):
        raise OutdatedError(f"no marker in the source: {sorted(missing)}")
    return [_fault(marked[rule], *RULES[rule]) for rule in rules]


def _fault(marker: Marker, how: Break, tests: Sequence[str]) -> Fault:
    path = marker.path.relative_to(ROOT).as_posix()
    return Fault(name=marker.rule, path=path, broken=marker.broken(how), tests=tests)


def main() -> int:
    """Prints rule -> test; returns 1 if a broken rule is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.property.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="rules that hold this word")
    parser.add_argument("--workers", type=int, default=max(2, os.cpu_count() or 2))
    arguments = parser.parse_args()
    chosen = faults([rule for rule in RULES if arguments.only in rule])
    if failure := failure_without(chosen):
        print(f"{failure} fails without any mutation", file=sys.stderr)
        return 1
    survivors = sum(_is_survivor(result) for result in tried(chosen, arguments.workers))
    print(f"mutations: {len(chosen)} rules broken, {len(chosen) - survivors} noticed by a test")
    return 1 if survivors else 0


def _is_survivor(result: Result) -> bool:
    print(f"{result.fault.name:68} {result.caught_by or 'SURVIVED'}", flush=True)
    return result.caught_by in (None, NOT_RUN)  # source that cannot even be imported proves nothing about a rule


if __name__ == "__main__":
    sys.exit(main())
