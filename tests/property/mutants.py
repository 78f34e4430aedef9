"""Breaks the core at random and shows that a test notices: `python -m tests.property.mutants --count 24 --seed 7`.

mutmut says what may be broken, in all functions without a decorator; its own runner puts all faults of a function
into one file, beside each other, and so can break no table and no statement that is built once.
"""

import argparse
import difflib
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from libcst import CSTNode, Module, SimpleString
from mutmut.mutation.file_mutation import Mutation, create_mutations
from mutmut.utils.file_utils import walk_mutatable_files

from tests.property.copies import Fault, failure_without, tried
from tests.support.extended import ROOT

MEANING = (
    "tests/unit/test_decide.py",
    "tests/unit/test_ordering.py",
    "tests/unit/test_events.py",
    "tests/unit/test_error_codes.py",
    "tests/integration/test_integrate.py",
)
QUEUES = (
    "tests/unit/test_failures.py",
    "tests/integration/test_inbox.py",
    "tests/integration/test_outbox.py",
    "tests/integration/test_fences.py",
    "tests/integration/test_faults.py",
    "tests/integration/test_poison.py",
)
STORIES = (
    "tests/integration/test_review.py",
    "tests/integration/test_thin.py",
    "tests/integration/test_redaction.py",
    "tests/integration/test_app_callback.py",
)
OPENINGS = (
    "tests/unit/test_standing.py",
    "tests/unit/test_links.py",
    "tests/unit/test_api_requests.py",
    "tests/integration/test_openings.py",
    "tests/integration/test_generations.py",
    "tests/integration/test_verifications.py",
    "tests/integration/test_api.py",
    "tests/integration/test_links.py",
    "tests/integration/test_reminders.py",
)
# The fast tests that pass through each room; first those that notice the most.
TESTS = {
    "handlers/record": (*MEANING, "tests/integration/test_inbox.py", *STORIES, "tests/property/test_orders.py"),
    "handlers/owed": (
        *MEANING[:1],
        *QUEUES,
        *STORIES,
        "tests/unit/test_house_rules.py",
        "tests/integration/test_links.py",
    ),
    "handlers/queue": (*QUEUES, "tests/integration/test_calls.py", "tests/integration/test_smtp.py", *STORIES),
    "handlers/inbox": (*QUEUES, *STORIES, "tests/integration/test_reconcile.py", "tests/integration/test_sessions.py"),
    "handlers/outbox": (
        "tests/unit/test_mails.py",
        "tests/unit/test_performers.py",
        *QUEUES,
        *STORIES,
        "tests/integration/test_outputs.py",
        "tests/integration/test_smtp.py",
        "tests/integration/test_verifications_told.py",
        "tests/integration/test_told.py",
        "tests/integration/test_together.py",
        "tests/integration/test_resend.py",
    ),
    "handlers/sessions": (
        *OPENINGS,
        "tests/integration/test_answers.py",
        "tests/integration/test_pages.py",
        "tests/integration/test_page_answers.py",
        "tests/integration/test_returns.py",
        "tests/integration/test_redaction.py",
        "tests/integration/test_mishaps.py",
        "tests/property/test_opening_machine.py",
    ),
    "handlers/upkeep": (
        "tests/unit/test_windows.py",
        "tests/integration/test_reconcile.py",
        "tests/integration/test_neighbours.py",
        "tests/integration/test_ages.py",
        "tests/integration/test_purge.py",
        "tests/integration/test_wiping.py",
        "tests/integration/test_restored.py",
        "tests/integration/test_move.py",
        "tests/integration/test_clocks.py",
        "tests/integration/test_audit.py",
        "tests/integration/test_told.py",
        *OPENINGS,
        "tests/integration/test_ours.py",
        "tests/property/test_opening_machine.py",
    ),
    "receiver/webhooks": ("tests/integration/test_receiver.py", "tests/integration/test_intake.py", *STORIES[1:2]),
}
# Faults that nobody can notice, by their names as below, with the reason.
_KEEP = 'insert_or(session.connection(), VerifiedOutput, [row], on_conflict=_KEPT_ANEW, returning="{}")'
_ASK = "threading.Thread(target=_ask, args=(_askers.calls,), name={}, daemon=True).start()"
EQUAL = {
    f"handlers/outbox/outputs.py - {_KEEP.format('session_id')} + {_KEEP.format('SESSION_ID')}": "SQL has no case",
    'handlers/queue/calls.py - return _Way(pool, before, _credentials("Authorization", parts))'
    ' + return _Way(pool, before, _credentials("authorization", parts))': "a header's name has no case",
    'receiver/webhooks/doubt.py - self._thread = ThreadPoolExecutor(1, "doubt")'
    " + self._thread = ThreadPoolExecutor(1, )": "a thread's name is for people",
    "handlers/outbox/mails.py - {} + {}".format(
        _ASK.format('"EMAIL_LOOKUP"'), _ASK.format("None")
    ): "a thread's name is for people",
    'handlers/owed/owe.py - "attempts": 0, + "ATTEMPTS": 0,': "SQLite's names have no case; PostgreSQL's in JSON have",
}


def chosen(count: int, seed: int) -> list[Fault]:
    """So many random faults of those that mutmut makes of the core, without those that nobody can notice."""
    every = [(path, *one) for path in sorted(walk_mutatable_files()) for one in _mutations(path)]
    random.Random(seed).shuffle(every)
    faults = (_fault(path, module, mutation) for path, module, mutation in every)
    return list(islice((fault for fault in faults if fault.name not in EQUAL), count))


def difference(fault: Fault, context: int = 2) -> list[str]:
    """The lines of the file that the fault changes."""
    before, after = (ROOT / fault.path).read_text(), fault.broken
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), fault.path, n=context, lineterm=""))[2:]


def _mutations(path: Path) -> Iterator[tuple[Module, Mutation]]:
    module, mutations, *_ = create_mutations(str(path), path.read_text())
    yield from ((module, mutation) for mutation in mutations if not _is_a_sentence(mutation.original_node))


def _is_a_sentence(node: CSTNode) -> bool:
    return isinstance(node, SimpleString) and " " in node.value  # for people: tests hold few of them to the letter


def _fault(path: Path, module: Module, mutation: Mutation) -> Fault:
    broken = module.code_for_node(module.deep_replace(mutation.original_node, mutation.mutated_node))
    fault = Fault(name="", path=path.as_posix(), broken=broken, tests=TESTS[path.parent.as_posix()])
    changed = [line for line in difference(fault, context=0) if not line.startswith("@@")]
    return replace(fault, name=" ".join([fault.path, *(f"{line[0]} {line[1:].strip()}" for line in changed)]))


def main() -> int:
    """Prints each fault with the test that notices it, or as a diff if none does; returns 1 if one goes unnoticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.property.mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--workers", type=int, default=max(2, os.cpu_count() or 2))
    arguments = parser.parse_args()
    faults = chosen(arguments.count, arguments.seed)
    print(f"mutants: {len(faults)} with --seed {arguments.seed}", flush=True)
    if failure := failure_without(faults):
        print(f"{failure} fails without any fault", file=sys.stderr)
        return 1
    survivors = 0
    for result in tried(faults, arguments.workers):
        print(f"{result.fault.name}\n    {result.caught_by or 'SURVIVED'}", flush=True)
        if result.caught_by is None:
            survivors += 1
            print("\n".join(difference(result.fault)), flush=True)
    print(f"mutants: {len(faults)} faults, {len(faults) - survivors} noticed by a test")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
