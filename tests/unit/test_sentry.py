"""The parts of a log line that go to Sentry: ids, types and places."""

import json
import logging

from config import sentry
from config.logs import configure_logging


def test_an_error_is_told_by_its_types_and_places_and_never_by_what_it_says() -> None:
    line = {"event": "event.buried", "event_id": "evt_1", "url": "c4nary", "exc_info": True}
    try:
        try:
            raise ValueError("c4nary")
        except ValueError as error:
            raise KeyError("c4nary") from error
    except KeyError:
        said = sentry._report(logging.LogRecord("handlers.queue", logging.ERROR, "", 0, line, None, None))
    assert (said["message"], said["tags"]) == ("event.buried", {"event_id": "evt_1"})
    assert [one["type"] for one in said["exception"]["values"]] == ["ValueError", "KeyError"]
    [frame] = said["exception"]["values"][0]["stacktrace"]["frames"]
    assert (frame["filename"], frame["function"]) == (
        "tests/unit/test_sentry.py",
        "test_an_error_is_told_by_its_types_and_places_and_never_by_what_it_says",
    )
    assert "c4nary" not in json.dumps(said)


def test_of_a_line_that_is_not_ours_only_the_speaker_is_told() -> None:
    foreign = logging.LogRecord("celery.worker", logging.ERROR, "", 0, "c4nary %s", ("c4nary",), None)
    said = sentry._report(foreign)
    assert said["message"] == "an error of celery.worker"
    assert "c4nary" not in json.dumps(said)


def test_without_a_dsn_nothing_is_sent() -> None:
    configure_logging()
    assert not any(isinstance(handler, sentry.Reporter) for handler in logging.getLogger().handlers)
