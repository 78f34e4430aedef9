"""Commands about the data that is kept of a person: outputs, reencrypt, export."""

import argparse
import sys

from config.settings import settings
from handlers.operator.audit import note_beforehand
from handlers.operator.disclosing import UnreadableOutputsError, export, show_outputs
from handlers.outbox.outputs import count_kept, write_anew
from worker.commands.options import acting, add_reason
from worker.commands.printing import print_json, print_pairs, progress, refused

_TYPED = "Some of these sessions have a reference from a static link, into which anybody may have typed it"


def outputs_options(parser: argparse.ArgumentParser) -> None:
    """Adds the session's id, and the reason."""
    parser.add_argument("id", metavar="ID", help="vs_…")
    add_reason(parser)


def outputs(arguments: argparse.Namespace) -> int:
    """Decrypts the verified outputs that are kept of a session; 1 when there are none, or no key fits."""
    if not settings().verified_outputs_key:
        return refused("There is no VERIFIED_OUTPUTS_KEY: nothing can be read.")
    try:
        found = show_outputs(arguments.id, acting(arguments))
    except UnreadableOutputsError as error:
        return refused(f"Of {arguments.id} {error}.")
    if found is None:
        return refused(f"No verified outputs are kept of {arguments.id}.")
    if arguments.json:
        print_json(found)
    else:
        print_pairs(found)
    return 0


def reencrypt(arguments: argparse.Namespace) -> int:
    """Writes the kept outputs anew with the newest key; 1 when some of them cannot be read by any key."""
    if not settings().verified_outputs_key:
        return refused("There is no VERIFIED_OUTPUTS_KEY: nothing can be written anew.")
    note_beforehand(acting(arguments), "reencrypt")
    looked_at, unread = 0, list[str]()
    batches, total, for_machines = write_anew(), count_kept(), arguments.json
    for ids, lost in progress(
        batches, "verified outputs", total, count=lambda batch: len(batch[0]), for_machines=for_machines
    ):
        looked_at += len(ids)
        unread += lost
    if arguments.json:
        print_json({"by the newest key": looked_at - len(unread), "unreadable": unread})
    else:
        print_pairs({"by the newest key": looked_at - len(unread), "unreadable": len(unread)})
        no_key = f"None of VERIFIED_OUTPUTS_KEY can read these: {' '.join(unread[:20])}"
        print(no_key if unread else "The older keys may go from VERIFIED_OUTPUTS_KEY now.", file=sys.stderr)
    return 1 if unread else 0


def export_options(parser: argparse.ArgumentParser) -> None:
    """Adds the person's id."""
    parser.add_argument("id", metavar="ID", help="vs_…, idv_…, or a user id or client_reference_id")


def export_now(arguments: argparse.Namespace) -> int:
    """Prints all data that is held about a person, as JSON; 1 when nobody is known by that id."""
    found = export(arguments.id, acting(arguments))
    if found is None:
        return refused("Nothing is held by this id: no session, verification, user or reference.")
    print_json(found)
    if not all(row["client_reference_trusted"] for row in found["verification_record"]):
        print(f"{_TYPED}: look whether they are this person's before you hand them on.", file=sys.stderr)
    return 0
