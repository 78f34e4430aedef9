"""Each failure of a command is one sentence: no traceback, no SQL, and nothing between the lines of JSON."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from config.database import statement, transaction
from handlers.queue.pauses import OPENINGS, pause
from tests.integration.stories import Stories
from tests.support import databases, facts
from tests.support.facts import event
from tests.support.operator import ROOT, command, run_command
from worker.__main__ import COMMANDS

WORDS = {  # the least that these commands need
    "session": "vs_1",
    "verification": "idv_1",
    "open": "user-1 --type document",
    "adopt": "vs_9 user-9",
    "cancel": "idv_1",
    "redact": "idv_1",
    "link": "idv_1",
    "event": "evt_1",
    "retry": "--all",
    "end-links": "--reason x",
    "resend": "1 --reason x",
    "discard": "--all --reason x",
    "outputs": "vs_1 --reason x",
    "export": "vs_1",
    "pause": "mails --reason x",
    "resume": "mails",
    "replay": "{folder}/none.json",
    "rebuild": "--since 1d",
    "restored": "--since 1d",
    "move": "--to postgres://nobody:secret@127.0.0.1:1/x",
    "mails": "--to {folder}/mails",
    "pages": "--to {folder}/pages",
    "console-user": "somebody",
    "endpoint": "check",
}
ASKING = ("open user-1 --type document", "adopt vs_9 user-9", "reconcile", "rebuild --since 1d", "restored --since 1d")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_says_what_fails_in_sentences(tmp_path: Path, name: str) -> None:
    words = [name, *WORDS.get(name, "").format(folder=tmp_path).split()]
    database = f"sqlite:///{tmp_path}/{'' if name == 'run' else 'empty.db'}"  # run would make a file, and go on
    settings = {"DATABASE_URL": database, "STRIPE_API_KEY": "sk_test_0123456789", "LOG_LEVEL": "error"}
    # All output goes to a disk that is full.
    said = run_command(words, {**os.environ, "VAR_DIR": str(tmp_path), **settings}, out_to="/dev/full")
    assert said.code in (1, 2)
    assert re.fullmatch(r"(\S+: )?[A-Z].*[.:\w]\n(.*\n)?", said.err), said.err
    assert not re.search(r"Traceback|SELECT|INSERT|Error:|sqlite3|sqlalchemy|Errno", said.err)


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_a_letter_shows_the_rest(encoding: str) -> None:
    facts.applied(event("verified", reference="Łódź-4"))
    words = [sys.executable, "-m", "worker", "session", "vs_1"]
    how: dict[str, Any] = {"cwd": ROOT, "env": os.environ | {"PYTHONIOENCODING": encoding}, "capture_output": True}
    shown = subprocess.run(words, **how, check=False)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert "Łódź-4".encode(encoding, "backslashreplace") in shown.stdout
    told = subprocess.run([*words, "--json"], **how, check=False)
    assert json.loads(told.stdout.decode(encoding))[0]["record"]["client_reference_id"] == "Łódź-4"


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("words", ["session {}", "verification {}", "event {}", "cancel {}", "redact {}", "retry {}"])
def test_a_word_that_nobody_can_read_is_not_repeated(words: str) -> None:
    said = command(*words.format("x" * 20_000).split(), STRIPE_API_KEY="sk_test_0123456789")
    assert said.code == 1
    assert 0 < len(said.err) < 300


@pytest.mark.usefixtures("database_url")
def test_a_change_of_nothing_is_logged_by_nobody() -> None:
    for line in ("resend 4711 --reason x", "resume mails"):
        said = command(*line.split())
        assert said.code == 1
        assert '"event"' not in said.err


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "line",
    [
        "actions --status x",
        "actions --status received",  # events are
        "events --status skipped",  # actions are
        "sessions --status x",
        "console-user anna --role x",
        "events --limit 1001",
    ],
)
def test_an_option_that_is_wrong_is_told_what_it_may_be_in_words_that_can_be_typed(line: str) -> None:
    said = command(*line.split())
    assert (said.code, said.out) == (2, "")
    why = said.err.splitlines()[-1]
    assert "<" not in why
    assert len(why) < 200


def test_a_schema_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    said = command("sessions", DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")
    assert (said.code, said.out) == (2, "")
    assert said.err == "The database cannot be used: tables or columns are missing: python -m worker migrate.\n"


def test_a_server_that_is_away_is_a_sentence() -> None:
    said = command("sessions", DATABASE_URL="postgres://nobody:secret@127.0.0.1:1/x")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "secret" not in said.err


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("line", ASKING)
def test_a_key_that_stripe_refuses_is_a_sentence(stripe: Stories, line: str) -> None:
    facts.applied(event("created"))
    stripe.simulator.fault(401, count=None)
    said = command(*line.split(), LOG_LEVEL="error")
    assert said.code == 1
    assert "Stripe answered 401" in said.out + said.err
    assert not any(word in said.err for word in ("SELECT", "Error:"))


@pytest.mark.usefixtures("database_url")
def test_what_no_database_takes_is_a_sentence() -> None:
    said = _run(f"{sys.executable} -m worker session $'vs_\\xff'")
    assert said.returncode in (1, 2)
    assert said.stderr.count("\n") == 1
    assert "Traceback" not in said.stderr
    assert command("resend", "9" * 30, "--reason", "x").code == 2
    assert command("actions", "--after", "9" * 30).code == 2


@pytest.mark.usefixtures("database_url")
def test_whoever_reads_may_stop_reading() -> None:
    facts.applied(*(event("created", session_id=f"vs_{number}") for number in range(3)))
    said = run_command(["events", "--json"], {**os.environ}, out_to="")
    assert (said.code, said.err) == (1, "")


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("line", ["retry --all", "rebuild --since 1d"])
def test_no_line_of_the_log_mixes_into_json(stripe: Stories, line: str) -> None:
    session_id = stripe.simulator.create()
    stripe.deliver(session_id)
    databases.refuse(os.environ["DATABASE_URL"], "inbox_event", "id", "evt_none")
    with statement() as connection:
        connection.execute(text("UPDATE inbox_event SET status = 'dead'"))
    assert command(*line.split(), LOG_LEVEL="debug").err != ""
    assert "[" not in command(*line.split(), "--json", LOG_LEVEL="debug").err


@pytest.mark.usefixtures("database_url")
def test_no_line_of_the_log_mixes_into_the_doctors_json() -> None:
    said = command("doctor", "--json", REDIS_URL="redis://127.0.0.1:1", LOG_LEVEL="debug")
    assert (said.json[-1]["level"], said.err) == ("OK", "")


def test_what_this_machine_refuses_is_named() -> None:
    said = run_command(["console-user", "anna"], {**os.environ}, out_to="/dev/full")
    assert (said.code, said.err) == (2, "This machine refuses: No space left on device (of what the output goes to).\n")


@pytest.mark.usefixtures("database_url")
def test_who_is_not_let_in_hears_what_keeps_them(stripe: Stories) -> None:
    wanted = ("open", "user-1", "--type", "document")
    stripe.simulator.fault(429, count=None, retry_after=30)
    assert re.search(r"429; try again in \d+ s\n$", command(*wanted).err)
    with transaction() as session:
        pause(session, [OPENINGS], "a backup is put back")
    assert command(*wanted).err == "Refused: opening (openings are paused: a backup is put back)\n"


@pytest.mark.usefixtures("database_url")
def test_a_person_is_forgotten_by_who_they_are_to_the_application(stripe: Stories) -> None:
    for user, reference in (("7", "anna"), ("8", "bob"), ("8", "bob")):
        stripe.deliver(stripe.simulator.create(client_reference_id=reference, metadata={"user_id": user}))
    stripe.deliver(stripe.simulator.create_from_link("carl"))
    assert command("redact", "7").code == 0
    assert command("redact", "7").err == "There is no session, verification, user or reference 7.\n"
    several = command("redact", "bob")
    assert several.code == 1
    assert several.err.startswith("bob is not enough, there are several. Name the one, or give --all: vs_")
    assert command("cancel", "bob").err.startswith("bob is not enough, there are several. Name the one: vs_")
    assert "carl is not enough, anybody may have typed it. Name the one: vs_" in command("redact", "carl", "--all").err
    forgotten = command("redact", "bob", "--all", "--json")
    assert (forgotten.code, len(forgotten.json["redacted"])) == (0, 2)
    assert command("redact", "bob", "--all").err == "There is no session, verification, user or reference bob.\n"


@pytest.mark.usefixtures("database_url")
def test_one_id_is_enough_to_forget_all_that_the_application_says_is_theirs(stripe: Stories) -> None:
    bobs = [stripe.simulator.create(client_reference_id="bob", metadata={"user_id": user}) for user in ("8", "9")]
    nines = stripe.simulator.create(client_reference_id="nina", metadata={"user_id": "9"})
    for session_id in (*bobs, nines):
        stripe.deliver(session_id)
    assert command("redact", bobs[0], "--all").code == 0
    assert [facts.record(id_).client_reference_id for id_ in (*bobs, nines)] == [None, None, "nina"]


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("name", ["verification", "cancel", "redact", "link"])
def test_an_id_that_leads_to_nobody_is_said_to_be_none_of_all_that_is_taken(name: str) -> None:
    for word in ("vs_none", "idv_none", "user-none"):
        said = command(name, word)
        assert (said.code, said.err) == (1, f"There is no session, verification, user or reference {word}.\n")
    assert "No mail address is stored here" in command(name, "c4nary@example.com").err


def _run(line: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=60
    )
