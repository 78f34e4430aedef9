"""Commands about verifications of ours: look at one, open, adopt, cancel, redact, link, end-links."""

import argparse
import sys
from collections.abc import Callable
from math import ceil
from typing import TypeVar

from config.broker import publish_actions
from config.database import measure_clock, statement
from handlers.operator import signings
from handlers.operator.audit import note_beforehand
from handlers.operator.persons import also_theirs
from handlers.operator.queries import find_records
from handlers.queue.failures import NotAllowedError, NotNowError, PermanentError
from handlers.queue.pauses import OPENINGS, paused
from handlers.sessions import asked, closing, opening
from handlers.sessions.links import link_of
from handlers.sessions.refusals import FaultsError, OpeningError
from handlers.sessions.timeline import view_in_time
from handlers.sessions.views import NotFoundError, verification
from worker.commands.options import acting
from worker.commands.printing import print_json, print_pairs, print_rows
from worker.commands.sessions import session, unknown

_T = TypeVar("_T")


def verification_options(parser: argparse.ArgumentParser) -> None:
    """Adds the verification's id."""
    parser.add_argument("id", metavar="ID", help="idv_…, vs_… of one of its sessions, or a user id or reference")


def ending_options(parser: argparse.ArgumentParser) -> None:
    """Adds the id of a verification, or of a session that was made elsewhere."""
    parser.add_argument(
        "id", metavar="ID", help="idv_…, vs_… (also made elsewhere), or a user id or reference that leads to one"
    )


def opening_options(parser: argparse.ArgumentParser) -> None:
    """Adds the person, and the way in which Stripe shall check."""
    parser.add_argument("reference", metavar="REFERENCE", help="client_reference_id: who the person is")
    _add_key(parser)
    how = parser.add_mutually_exclusive_group(required=True)  # as in the API: an open session is changed to this
    how.add_argument("--type", choices=("document", "id_number"), help="what is checked")
    how.add_argument("--flow", metavar="vf_…", help="a verification flow, instead of a type")
    parser.add_argument("--replaces", metavar="vs_…", help="the session in whose place another one is begun")


def adopting_options(parser: argparse.ArgumentParser) -> None:
    """Adds the session, and the person that it is for."""
    parser.add_argument("session", metavar="ID", help="vs_…: an open session that the application made itself")
    parser.add_argument("reference", metavar="REFERENCE", help="its client_reference_id")
    _add_key(parser)


def canceling_options(parser: argparse.ArgumentParser) -> None:
    """Adds the id, and whether the person is told."""
    ending_options(parser)
    parser.add_argument("--quietly", action="store_true", help="mail nobody")


def redacting_options(parser: argparse.ArgumentParser) -> None:
    """Adds the id, and whether all else of the person's is meant, too."""
    ending_options(parser)
    all_of_it = "with what else is theirs, by a user id or a reference that is the application's own word"
    parser.add_argument("--all", action="store_true", help=all_of_it)


def show_verification(arguments: argparse.Namespace) -> int:
    """Shows one verification with its sessions and their timeline; 1 when there is none."""
    return _told(arguments, lambda: _whose(arguments))


def open_now(arguments: argparse.Namespace) -> int:
    """Makes a session or takes up the open one; 1 when nothing is opened. Its URL and client secret are not shown."""
    how = {"type": arguments.type, "verification_flow": arguments.flow, "replaces": arguments.replaces}
    return _told(arguments, lambda: _opened(arguments, how))


def adopt_now(arguments: argparse.Namespace) -> int:
    """Takes over an open session that was made elsewhere; 1 when this is refused."""
    return _told(arguments, lambda: _opened(arguments, {"adopt": arguments.session}))


def cancel_now(arguments: argparse.Namespace) -> int:
    """Ends the open session; 1 when it cannot be ended any more."""

    def cancel() -> None:
        publish_actions(closing.cancel(_whose(arguments), notify=not arguments.quietly, by=acting(arguments)))

    return _ended(arguments, cancel)


def redact_now(arguments: argparse.Namespace) -> int:
    """Forgets the person here, and has Stripe forget them; 1 when nobody is known by that id."""
    if not arguments.all:
        return _ended(arguments, lambda: closing.redact(_whose(arguments, or_all=True), acting(arguments)))
    forgotten = _unless_refused(arguments, lambda: _forgotten(arguments))
    if forgotten is None:
        return 1
    print_json({"redacted": forgotten}) if arguments.json else print_pairs(dict.fromkeys(forgotten, "forgotten"))
    return 0


def _forgotten(arguments: argparse.Namespace) -> list[str]:
    """Forgets all that an id leads to, and what else is the same person's by the application's own word; their ids."""
    named = _named(arguments) or [arguments.id]
    others = {other for one in named for other in also_theirs(one)}.difference(named)
    found = [*sorted(others), *named]  # those that name the others are the last to forget who it is
    for one in found:
        closing.redact(one, acting(arguments))
    return found


def make_link(arguments: argparse.Namespace) -> int:
    """Prints a link by which the person goes on, to be mailed or read out; 1 when none can be made."""
    measure_clock()  # a link holds the time at which it was made, and this host's clock may be wrong
    link = _unless_refused(arguments, lambda: link_of(_whose(arguments)))
    if link is None:
        return 1
    note_beforehand(acting(arguments), "link", (arguments.id,))  # its holder may go on as the person
    with statement() as connection:
        signings.note_signing(connection)  # a command has no heartbeat that would
    found = {"url": link.url, "expires_at": link.expires_at}
    print_json(found) if arguments.json else print_pairs(found)
    return 0


def end_links(arguments: argparse.Namespace) -> int:
    """Gives up the keys that are gone, and ends the finding that their links lead nowhere; 1 when there is none."""
    count = signings.give_up_gone(acting(arguments))
    if arguments.json:
        print_json({"keys": count})
    else:
        print(
            f"{count} keys are given up, and the links that they have signed." if count else "No link has lost its key."
        )
    return 0 if count else 1


def _whose(arguments: argparse.Namespace, *, or_all: bool = False) -> str:
    """The given id, or the only one that a user id or reference leads to, which then replaces it in the arguments.

    Raises NotFoundError if there are several, or if anybody may have typed the reference.
    """
    found = _named(arguments)
    if len(found) > 1:
        how = "Name the one, or give --all:" if or_all else "Name the one:"
        raise NotFoundError(f"{arguments.id} is not enough, there are several. {how} {' '.join(found)}")
    arguments.id = found[0] if found else arguments.id
    return str(arguments.id)


def _named(arguments: argparse.Namespace) -> list[str]:
    """The ids that a user id or reference leads to. Raises NotFoundError if anybody may have typed it."""
    records = [] if arguments.id.startswith(("idv_", "vs_")) else find_records(arguments.id)
    found = sorted({record.verification_id or record.session_id for record in records})
    if any(not record.client_reference_trusted and record.user_id != arguments.id for record in records):
        raise NotFoundError(f"{arguments.id} is not enough, anybody may have typed it. Name the one: {' '.join(found)}")
    return found


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--purpose", default="", help="why, where there are several reasons: a word, nothing personal")
    parser.add_argument("--account", default="", metavar="acct_…", help="the connected account, unless it is our own")


def _opened(arguments: argparse.Namespace, how: dict[str, str | None]) -> str:
    who = {"client_reference_id": arguments.reference, "purpose": arguments.purpose, "account": arguments.account}
    body = asked.opening(who | {name: value for name, value in how.items() if value is not None}, ())
    opened = opening.open_verification(asked.wanted(body, acting(arguments)))
    if opened is None:
        raise OpeningError("opening")
    publish_actions(opened.owed)
    return opened.verification_id


def _ended(arguments: argparse.Namespace, end: Callable[[], None]) -> int:
    """Runs `end`, and shows the verification afterwards, or the session that was made elsewhere."""

    def ended() -> int:
        end()
        try:
            verification(arguments.id)
        except NotFoundError:
            return session(arguments)
        return show_verification(arguments)

    code = _unless_refused(arguments, ended)
    return 1 if code is None else code


def _told(arguments: argparse.Namespace, act: Callable[[], str]) -> int:
    """Runs `act`, and shows the verification afterwards."""
    found = _unless_refused(arguments, lambda: view_in_time(act()))
    if found is None:
        return 1
    if arguments.json:
        print_json(found)
        return 0
    sessions, timeline = found.pop("sessions"), found.pop("timeline")
    print_pairs(found)
    print_rows(sessions, ("session_id", "generation", "status", "error_code", "submissions"), "\nsessions")
    print_rows(timeline, ("at", "session_id", "what", "name", "id", "status", "reason"), "\ntimeline")
    return 0


def _unless_refused(arguments: argparse.Namespace, act: Callable[[], _T]) -> _T | None:
    """The result of `act`; None if it was refused, and then the reason is printed."""
    try:
        return act()
    except NotFoundError as error:
        print(str(error) or unknown(arguments.id), file=sys.stderr)
    except FaultsError as error:
        for fault in error.faults:
            print(f"Refused: {fault.pointer} {fault.detail}", file=sys.stderr)
    except OpeningError as error:
        publish_actions(error.owed)
        print(f"Refused: {error.code} {error.detail or _why_busy(error.code)}".rstrip(), file=sys.stderr)
    except (NotNowError, PermanentError) as error:
        why, seconds = getattr(error, "why", ""), getattr(error, "again_after", 0.0)
        to_do = f"; try again in {ceil(seconds)} s" if seconds else ""
        if isinstance(error, NotAllowedError) and not why:
            to_do = "; python -m worker doctor says what the key may not"
        print(f"Stripe cannot be asked: {error}{why and f': {why}'}{to_do}", file=sys.stderr)
    return None


def _why_busy(code: str) -> str:
    """Why an opening has to wait for its turn."""
    if code != "opening":
        return ""
    reasons = [one.reason for one in paused() if one.what == OPENINGS]
    if reasons:
        return f"(openings are paused: {reasons[0]})"
    return "(somebody opens it at this moment: try again in some seconds)"
