"""Breaks each rule in a copy of the source and shows that a test notices: `python -m tests.property.mutations`."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
COPIED = ("config", "handlers", "receiver", "worker", "tests", "pyproject.toml")

PURE = ("tests/unit/test_ordering.py", "tests/unit/test_verification.py", "tests/property/test_orders.py")
INBOX = ("tests/integration/test_inbox.py", "tests/property/test_state_machine.py")
OUTBOX = ("tests/integration/test_outbox.py", "tests/property/test_state_machine.py")
CALLBACK = ("tests/integration/test_app_callback.py",)
REDACTION = ("tests/integration/test_redaction.py",)
THIN = ("tests/integration/test_thin.py", "tests/integration/test_inbox.py")
REVIEW = ("tests/unit/test_verification.py", "tests/integration/test_review.py")
FENCES = ("tests/integration/test_fences.py",)
OUTPUTS = ("tests/integration/test_outputs.py",)


class OutdatedError(Exception):
    """A mutation's text is not in the source exactly once: the rule has moved, and its mutation must follow."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One rule, how it is broken, and which tests must notice."""

    rule: str
    path: str
    old: str
    new: str
    tests: Sequence[str]

    def broken(self, source: str) -> str:
        """The source without the rule. Raises OutdatedError."""
        if source.count(self.old) != 1:
            raise OutdatedError(f"{self.rule}: {self.path} holds its text {source.count(self.old)} times:\n{self.old}")
        return source.replace(self.old, self.new)


VERIFICATION = "handlers/record/decide.py"
ORDERING = "handlers/record/ordering.py"
RECORDS = "handlers/inbox/apply.py"

MUTATIONS = (
    Mutation(
        "canceled absorbs",
        ORDERING,
        "    if Status.CANCELED in (record.status, seen.kind):\n        return order_by_rank(record, seen)\n",
        "",
        PURE,
    ),
    Mutation(
        "canceled absorbs by rank too",
        ORDERING,
        '        seen.kind == "canceled",\n',
        "        record.status == Status.CANCELED,\n",
        PURE,
    ),
    Mutation(
        "an older stamp is stale",
        ORDERING,
        "    if seen.stamp < record.applied_at:\n        return Order.STALE\n",
        "",
        PURE,
    ),
    Mutation(
        "the stamp moves with what is applied",
        VERIFICATION,
        "record.applied_at, record.applied_rank = seen.stamp, RANKS[seen.kind]",
        "record.applied_at, record.applied_rank = record.applied_at or seen.stamp, RANKS[seen.kind]",
        PURE,
    ),
    Mutation(
        "the stamp of an answer is the later of two",
        ORDERING,
        "max(event.created_at, asked_at.replace(microsecond=0))",
        "event.created_at",
        PURE,
    ),
    Mutation(
        "the stamp of an answer allows for the call's duration",
        "handlers/stripe_api/sessions.py",
        "answered_at - timedelta(seconds=time.monotonic() - started)",
        "answered_at",
        THIN,
    ),
    Mutation("rank breaks ties", ORDERING, "        RANKS[seen.kind],\n", "        -RANKS[seen.kind],\n", PURE),
    Mutation(
        "the report id breaks what rank leaves open",
        ORDERING,
        '        seen.state.report_id or "",\n',
        '        "",\n',
        PURE,
    ),
    Mutation(
        "the mark's rank follows",
        VERIFICATION,
        "seen.stamp, RANKS[seen.kind]",
        "seen.stamp, 0",
        PURE,
    ),
    Mutation(
        "a stale event changes no status",
        VERIFICATION,
        "owed = _apply(record, latest) if place is Order.NEWER else _pass_over(record, latest)",
        "owed = _apply(record, latest)",
        PURE,
    ),
    Mutation(
        "a stale event's mails are written as skipped",
        VERIFICATION,
        'skipped="superseded")',
        "skipped=None)",
        PURE,
    ),
    Mutation(
        "a stale event still owes alert_review",
        VERIFICATION,
        '    return [replace(one, skipped=None) if one.name == "alert_review" else one for one in owed]\n',
        "    return owed\n",
        REVIEW,
    ),
    Mutation(
        "a stale event's keys are written down",
        VERIFICATION,
        "        owed = _pass_over(record, shown) + owed\n",
        "        pass\n",
        PURE,
    ),
    Mutation(
        "ambiguity is settled by asking",
        ORDERING,
        "        return Order.AMBIGUOUS\n    leaves_verified",
        "        return order_by_rank(record, seen)\n    leaves_verified",
        PURE,
    ),
    Mutation(
        "leaving verified for processing is settled by asking",
        ORDERING,
        "return Order.AMBIGUOUS if leaves_verified and not seen.is_answer else Order.NEWER",
        "return Order.NEWER",
        ("tests/unit/test_ordering.py", *PURE),
    ),
    Mutation(
        "a thin notification is settled by asking",
        VERIFICATION,
        "return None if can_ask else Decision(Outcome.IGNORED, [])",
        "return Decision(Outcome.IGNORED, [])",
        (*PURE, *THIN),
    ),
    Mutation(
        "a thin notification asks before the transaction",
        "handlers/inbox/process.py",
        "answers = {work.event.id: _ask(work.event)} if _says_nothing(work.event) else {}",
        "answers: dict[str, Seen | None] = dict.fromkeys([work.event.id])",
        THIN,
    ),
    Mutation(
        "what leaves the record as it is owes nothing",
        VERIFICATION,
        "    if after == before:\n        return []\n",
        "",
        PURE,
    ),
    Mutation(
        "a mail's cause is the state that made it owed",
        VERIFICATION,
        """    return f"{status}:{code or ''}:{report_id or ''}"\n""",
        '    return f"{status}"\n',
        PURE,
    ),
    Mutation(
        "a mail's cause is no event or time",
        VERIFICATION,
        "    cause = _cause(*_outline(record))\n    return",
        '    cause = _cause(*_outline(record)) + str(getattr(record, "applied_at", ""))\n    return',
        PURE,
    ),
    Mutation(
        "the change number rises with each change",
        VERIFICATION,
        "    record.change_number += 1\n",
        "",
        (*PURE, *CALLBACK),
    ),
    Mutation(
        "a change number is told only for a change",
        VERIFICATION,
        "    is_change = before is None or after[:2] != before[:2]\n",
        "    is_change = True\n",
        CALLBACK,
    ),
    Mutation(
        "a retry prompt is sent only while its cause is the record's",
        VERIFICATION,
        '    if action.cause != _cause(*_outline(record)):\n        return "superseded"\n',
        "",
        (*REVIEW, *OUTBOX),
    ),
    Mutation(
        "no mail after a redaction",
        VERIFICATION,
        '    if record.redacted_at:\n        return "redacted"\n    if action.name == "alert_review":',
        '    if action.name == "alert_review":',
        (*REVIEW, *OUTBOX),
    ),
    Mutation(
        "a redacted session's mails are written as skipped",
        VERIFICATION,
        'skipped="redacted" if record.redacted_at else None',
        "skipped=None",
        (*PURE, *REDACTION),
    ),
    Mutation(
        "a redaction stays",
        VERIFICATION,
        "    if record.redacted_at is None:\n        record.last_error_reason",
        "    if True:\n        record.last_error_reason",
        (*PURE, *REDACTION),
    ),
    Mutation(
        "a redaction wipes the record",
        VERIFICATION,
        "    record.last_error_reason = record.client_reference_id = record.user_id = None\n",
        "",
        (*PURE, *REDACTION),
    ),
    Mutation(
        "a redaction wipes the inbox",
        RECORDS,
        "    session.connection().execute(events.values(dict.fromkeys(_PERSONAL)))\n",
        "",
        REDACTION,
    ),
    Mutation(
        "a redaction wipes the outputs",
        RECORDS,
        "    session.connection().execute(outputs)\n",
        "",
        REDACTION,
    ),
    Mutation(
        "a redaction drops owed mails",
        RECORDS,
        "    session.connection().execute(mails.values(",
        "    (mails.values(",
        (*INBOX, *REDACTION),
    ),
    Mutation(
        "a redaction seen in a retrieve counts",
        VERIFICATION,
        "    for seen in (shown, answer):\n",
        "    for seen in (shown,):\n",
        (*PURE, *REDACTION),
    ),
    Mutation(
        "nothing is kept behind a redaction's back",
        "handlers/outbox/outputs.py",
        '        if current.redacted_at:\n            return "redacted"\n',
        "",
        OUTPUTS,
    ),
    Mutation(
        "a submission is a distinct report",
        RECORDS,
        "    for session_id in insert_new(session.connection(), Submission, rows):\n",
        "    insert_new(session.connection(), Submission, rows)\n    for session_id, _ in reports:\n",
        INBOX,
    ),
    Mutation(
        "the report that a session in work still names is the one before",
        RECORDS,
        '("created", "processing")',
        '("created", "processing", "verified")',
        INBOX,
    ),
    Mutation(
        "at the limit there is no prompt",
        VERIFICATION,
        'return "submission limit" if action.name == "email_retry_prompt" and _is_at_limit(record, limit) else None',
        "return None",
        REVIEW,
    ),
    Mutation(
        "the limit is judged again after a stale event",
        VERIFICATION,
        "    return Decision(outcome, _limited(record, owed, limit))\n",
        "    return Decision(outcome, _limited(record, owed, limit) if place is Order.NEWER else owed)\n",
        (*PURE, *REVIEW),
    ),
    Mutation(
        "the limit cancels only while input is required",
        VERIFICATION,
        "return record.status == Status.REQUIRES_INPUT and record.submissions >= limit",
        "return record.submissions >= limit",
        (*PURE, *REVIEW),
    ),
    Mutation(
        "the cancellation carries an idempotency key",
        "handlers/stripe_api/sessions.py",
        '{**_options(account), "idempotency_key": idempotency_key}',
        "_options(account)",
        ("tests/integration/test_review.py",),
    ),
    Mutation(
        "calls are made in the account's name",
        "handlers/stripe_api/sessions.py",
        '    return {"stripe_account": account} if account.startswith("acct_") else {"stripe_context": account}\n',
        "    return {}\n",
        THIN,
    ),
    Mutation(
        "test and live never mix",
        "receiver/webhooks/delivery.py",
        "    if settings().livemode not in (None, event.livemode):\n",
        "    if False:\n",
        THIN,
    ),
    Mutation(
        "events are deduplicated on their id",
        "config/inserts.py",
        'on_conflict="DO NOTHING", returning=key)',
        'on_conflict=f"({key}) DO UPDATE SET {key} = excluded.{key}", returning=key)',
        INBOX,
    ),
    Mutation(
        "an event under a lease is nobody else's",
        "handlers/inbox/process.py",
        '"leased_until": now + LEASE}',
        '"leased_until": now}',
        INBOX,
    ),
    Mutation(
        "an action under a lease is nobody else's",
        "handlers/outbox/perform.py",
        '"leased_until": now + LEASE}',
        '"leased_until": now}',
        OUTBOX,
    ),
    Mutation(
        "a claim counts an attempt",
        "handlers/inbox/process.py",
        ".values(attempts=InboxEvent.attempts + 1, ",
        ".values(",
        INBOX,
    ),
    Mutation(
        "an event's end is fenced by its attempt",
        "handlers/inbox/process.py",
        'col(InboxEvent.attempts) == bindparam("claimed_attempts")',
        'col(InboxEvent.attempts) >= bindparam("claimed_attempts")',
        INBOX,
    ),
    Mutation(
        "an event ends once",
        "handlers/inbox/process.py",
        "(_FINISH, finished).rowcount != len(ids):\n",
        "(_FINISH, finished).rowcount < 0:\n",
        INBOX,
    ),
    Mutation(
        "an action's end is fenced by its attempt",
        "handlers/queue/claims.py",
        "        col(table.attempts) == claim.attempts,\n",
        "",
        FENCES,
    ),
    Mutation(
        "what has ended stays as it is",
        "handlers/queue/claims.py",
        "        col(table.status) == _UNFINISHED[table],\n",
        "",
        FENCES,
    ),
    Mutation(
        "an action has one row for its key",
        "handlers/outbox/perform.py",
        "WHERE outbox_action.status = 'skipped' AND excluded.status = 'pending'",
        "WHERE excluded.status = 'pending'",
        OUTBOX,
    ),
    Mutation(
        "what is owed again while skipped becomes pending again",
        "handlers/outbox/perform.py",
        "WHERE outbox_action.status = 'skipped' AND",
        "WHERE outbox_action.status = 'dead' AND",
        OUTBOX,
    ),
    Mutation(
        "a lower change number is waited for",
        "handlers/outbox/application.py",
        "    if _lower_is_pending(action):\n        raise NotNowError(_WAITS)\n",
        "",
        CALLBACK,
    ),
    Mutation(
        "change numbers are numbers",
        "handlers/outbox/application.py",
        "        cast(col(OutboxAction.cause), Integer) < int(action.cause),\n",
        "        col(OutboxAction.cause) < action.cause,\n",
        CALLBACK,
    ),
    Mutation(
        "a dead change blocks nobody",
        "handlers/outbox/application.py",
        "        col(OutboxAction.name) == action.name,\n        col(OutboxAction.status) == ActionStatus.PENDING,\n",
        "        col(OutboxAction.name) == action.name,\n        col(OutboxAction.status) != ActionStatus.DONE,\n",
        CALLBACK,
    ),
    Mutation(
        "what is on its way is not released",
        "handlers/outbox/perform.py",
        'due_at=bindparam("leased_until"), last_error=None)',
        'due_at=bindparam("leased_until"))',
        CALLBACK,
    ),
    Mutation(
        "the message id is the same at each try",
        "handlers/outbox/application.py",
        "    message_id = _message_id(action)\n",
        '    message_id = f"{_message_id(action)}{action.attempts}"\n',
        CALLBACK,
    ),
    Mutation(
        "redirects are not followed",
        "handlers/outbox/application.py",
        "            allow_redirects=False,\n",
        "",
        CALLBACK,
    ),
    Mutation(
        "Stripe's failures bury nobody",
        "handlers/queue/claims.py",
        "        _put_back(claim, error, waits=1)\n",
        "        _put_back(claim, error, waits=0)\n",
        (*THIN, *CALLBACK),
    ),
    Mutation(
        "a static link's reference is not trusted",
        VERIFICATION,
        "    record.client_reference_trusted = not state.has_flow\n",
        "    record.client_reference_trusted = True\n",
        ("tests/unit/test_verification.py", "tests/integration/test_sessions.py"),
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one mutation."""

    mutation: Mutation
    caught_by: str | None
    seconds: float


def run(mutations: Sequence[Mutation], workers: int = 2) -> Iterator[Result]:
    """Each mutation in a copy of its own, as many at a time as there are workers, in their order.

    Raises OutdatedError.
    """
    check_texts(mutations)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(workers) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(workers):
            copies.put(_copy(Path(folder) / str(number)))
        yield from pool.map(lambda mutation: _try(mutation, copies), mutations)


def check_texts(mutations: Iterable[Mutation] = MUTATIONS) -> None:
    """Raises OutdatedError for the first whose text has gone."""
    for mutation in mutations:
        mutation.broken((ROOT / mutation.path).read_text())


def _copy(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def _try(mutation: Mutation, copies: "SimpleQueue[Path]") -> Result:
    started, folder = time.monotonic(), copies.get()
    path = folder / mutation.path
    source = path.read_text()
    path.write_text(mutation.broken(source))
    try:
        return Result(mutation, _first_failure(folder, mutation.tests), time.monotonic() - started)
    finally:
        path.write_text(source)
        copies.put(folder)


def _first_failure(folder: Path, tests: Sequence[str]) -> str | None:
    """The test that notices; None where all pass. Raises RuntimeError where they could not run."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *dict.fromkeys(tests)]
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "PROOF_FIGURES")}
    environment["PROOF_MUTANT"] = "yes"
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    except subprocess.TimeoutExpired:
        return "(none ended in time)"
    if done.returncode == 0:
        return None
    named = re.search(r"^(?:FAILED|ERROR) tests/(\S+\.py(?:::[^\s\[]+)?)", done.stdout, re.MULTILINE)
    if not named or "errors during collection" in done.stdout:
        raise RuntimeError(f"the tests did not run:\n{done.stdout}\n{done.stderr}")
    return named[1]


def main() -> int:
    """Prints rule -> test; 1 if a mutation is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.property.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="rules that hold this word")
    arguments = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if arguments.only in mutation.rule]
    if not arguments.only:
        every = sorted({test for mutation in MUTATIONS for test in mutation.tests})
        if failure := _first_failure(ROOT, every):
            print(f"{failure} fails without any mutation", file=sys.stderr)
            return 1
    survivors = 0
    for result in run(chosen, workers=max(2, os.cpu_count() or 2)):
        survivors += result.caught_by is None
        print(f"{result.mutation.rule:62} {result.caught_by or 'SURVIVED'}", flush=True)
    print(f"mutations: {len(chosen)} rules broken, {len(chosen) - survivors} noticed by a test")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
