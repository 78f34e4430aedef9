"""The parts of a message from Redis that count, and the messages that are none of ours."""

import base64
import json

import pytest

from tests.support.foreign import CANARY, READABLE, UNREADABLE, envelope
from worker.app import celery_app
from worker.foreign import arguments_of, made_anew

ARGUMENTS = arguments_of(celery_app.tasks)


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_names_no_task_of_ours_with_its_arguments_is_dropped(text: bytes) -> None:
    assert made_anew(text, "events", ARGUMENTS) is None


@pytest.mark.parametrize("text", READABLE.values(), ids=READABLE.keys())
def test_what_else_a_message_says_is_not_passed_on(text: bytes) -> None:
    made = made_anew(text, "clock", ARGUMENTS)
    assert made is not None
    assert CANARY.encode() not in made
    assert json.loads(made)["headers"].keys() == {"lang", "task", "id"}


@pytest.mark.parametrize(
    ("task", "arguments"),
    [("process_events", [["evt_1", "evt_2"]]), ("perform_actions", [[1, 2**63 - 1]]), ("sweep", [])],
)
def test_a_task_and_its_arguments_arrive(task: str, arguments: list[object]) -> None:
    made = made_anew(json.dumps(envelope(task, arguments)).encode(), "events", ARGUMENTS)
    assert made is not None
    message = json.loads(made)
    assert message["headers"]["task"] == task
    assert json.loads(base64.b64decode(message["body"])) == [arguments, {}, {}]
    assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": "events"}


def test_a_message_made_anew_is_a_message_of_ours() -> None:
    """Redis gives a message again when its worker was killed."""
    once = made_anew(json.dumps(envelope()).encode(), "events", ARGUMENTS)
    assert once is not None
    assert made_anew(once, "events", ARGUMENTS) is not None


def test_two_messages_have_two_tags() -> None:
    """The tag is the key of an unacknowledged message."""
    both = [made_anew(json.dumps(envelope()).encode(), "events", ARGUMENTS) for _ in range(2)]
    assert len({json.loads(made or b"{}")["properties"]["delivery_tag"] for made in both}) == 2


def test_every_task_says_what_it_takes() -> None:
    assert ARGUMENTS.keys() == {"process_events", "perform_actions", "sweep", "reconcile", "remind", "purge"}
