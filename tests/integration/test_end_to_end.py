"""From a signed delivery to a record and a mail, with real processes that die and a Redis that forgets."""

import json
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import redis

from handlers.tables.models import ActionStatus, InboxStatus
from tests.support import facts, shapes
from tests.support.facts import NOON
from tests.support.processes import Service, service
from tests.support.waiting import wait_until


@pytest.fixture
def running(tmp_path: Path, database_url: str, environment: pytest.MonkeyPatch) -> Iterator[Service]:
    assert environment
    with service(tmp_path / "service", database_url, EMAIL_LOOKUP="tests.support.lookups:stall") as made:
        yield made


def _all_done(session_id: str = "vs_1") -> bool:
    owed = facts.actions(session_id)
    return bool(owed) and all(one.status == ActionStatus.DONE for one in owed)


def _redis(running: Service) -> redis.Redis:
    return redis.Redis(unix_socket_path=running.redis.url.removeprefix("redis+socket://"))


def test_a_delivery_becomes_a_record_and_a_mail_without_the_clock(running: Service) -> None:
    running.start("web", "worker")
    assert running.deliver(facts.payload("created")) == "accepted"
    assert running.deliver(facts.payload("verified", NOON + 10, report="vr_1")) == "accepted"
    assert running.deliver(facts.payload("verified", NOON + 10, report="vr_1")) == "duplicate"
    wait_until(_all_done, running.logs)
    assert (facts.record().status, facts.record().submissions) == ("verified", 1)
    (mail,) = running.mails()
    assert message_from_bytes(mail.read_bytes())["To"] == "vs_1@example.com"
    _logs_say_what_happened(running)


def _logs_say_what_happened(running: Service) -> None:
    lines = [json.loads(line) for line in running.log("worker").splitlines()]
    (applied,) = [line for line in lines if line.get("event_id") == "evt_vs_1_verified_1794830410"]
    assert applied["event"] == "event.applied"
    assert applied["task"] == "process_events"
    assert applied["task_id"]
    (done,) = [line for line in lines if line["event"] == "action.done"]
    assert (done["session_id"], done["action"], done["task"]) == ("vs_1", "email_verified", "process_events")
    for line in running.log("web").splitlines():
        json.loads(line)


@pytest.mark.processes
def test_what_a_killed_worker_held_is_done_by_the_next(running: Service) -> None:
    (running.folder / "stall").touch()
    running.start("web", "worker")
    running.deliver(facts.payload("verified", report="vr_1"))
    wait_until((running.folder / "stalled").exists, running.logs)
    running.kill("worker")
    (claimed,) = facts.actions()
    assert (claimed.status, claimed.attempts) == (ActionStatus.PENDING, 1)
    (running.folder / "stall").unlink()
    facts.end_all_leases()
    running.start("worker", "clock")
    wait_until(_all_done, running.logs)
    assert facts.actions()[0].attempts == 2
    assert len(running.mails()) == 1


@pytest.mark.processes
def test_a_redis_that_forgets_everything_loses_nothing(running: Service) -> None:
    running.start("web")
    for n in range(30):
        running.deliver(facts.payload("verified", session_id=f"vs_{n}", report=f"vr_{n}"))
    with _redis(running) as client:
        wait_until(lambda: client.dbsize() > 0)
        client.flushall()
    facts.end_all_leases()
    running.start("worker", "clock")
    wait_until(lambda: all(_all_done(f"vs_{n}") for n in range(30)), running.logs)
    assert len(running.mails()) == 30
    assert {facts.record(f"vs_{n}").change_number for n in range(30)} == {1}


@pytest.mark.processes
def test_what_was_received_while_no_worker_ran_is_done_when_one_does(running: Service) -> None:
    running.start("web")
    running.deliver(facts.payload("canceled"))
    assert facts.event_row("evt_vs_1_canceled_1794830400").status == InboxStatus.RECEIVED
    running.start("worker")
    wait_until(_all_done, running.logs)


@pytest.mark.processes
def test_replay_signs_posts_and_counts(running: Service, tmp_path: Path) -> None:
    running.start("web")
    story: list[dict[str, Any]] = [
        facts.payload("created", user="Zoë"),
        facts.payload("verified", NOON + 5, report="vr_1"),
        facts.payload("verified", NOON + 5, report="vr_1"),
        {"id": "evt_9", "object": "event", "type": "charge.succeeded"},
    ]
    capture = tmp_path / "capture.txt"
    capture.write_text("\n2026-11-16 09:00:00  <-- [200] POST http://x [evt_1]\n".join(map(json.dumps, story)))
    done = running.run("replay", str(capture))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "accepted: 2\nduplicate: 1\nignored: 1\ntotal: 4\n"

    again = running.run("replay", "-", "--to", running.url, given=json.dumps(story[:2], indent=2))
    assert (again.returncode, again.stdout) == (0, "duplicate: 2\ntotal: 2\n")

    refused = running.run("replay", "-", given=json.dumps({**story[0], "created": "yesterday"}))
    assert (refused.returncode, refused.stdout) == (1, "refused (400): 1\ntotal: 1\n")

    nothing = running.run("replay", "-")
    assert (nothing.returncode, nothing.stdout) == (0, "total: 0\n")

    broken = running.run("replay", "-", given="hello")
    assert broken.returncode == 2
    assert "line 1" in broken.stderr
    assert "Traceback" not in broken.stderr

    missing = running.run("replay", str(tmp_path / "no_such_file"))
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr

    nobody = running.run("replay", str(capture), "--to", "http://127.0.0.1:1/webhooks/stripe")
    assert nobody.returncode == 1
    assert "Traceback" not in nobody.stderr


@pytest.mark.processes
def test_a_bad_setting_ends_a_command_with_its_name(running: Service) -> None:
    running._variables["PORT"] = "x"
    running._variables["LOG_LEVEL"] = "loud"
    failed = running.run("replay", "-")
    assert failed.returncode == 2
    assert failed.stderr.startswith("LOG_LEVEL must be ")
    assert shapes.SECRET not in failed.stderr
