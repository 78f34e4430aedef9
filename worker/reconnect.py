"""The guard against kombu's reconnect defect: a consumer that waits for ever on acknowledgements that failed.

The facts (kombu 5.7.0, celery 5.7.0). With all slots busy the channel may not consume, so nothing listens
on its connection, and nobody notices that Redis has gone. When a task ends, its acknowledgement fails;
`Message.ack_log_error` logs that and swallows it, and `QoS.ack` has not reached the line that gives the slot back.
Once every slot is lost like this, `QoS.can_consume()` stays false, no BRPOP is ever sent again, so no connection
error ever restarts the consumer: the worker stays alive and takes nothing. With some slots lost it goes on with
fewer.

So the worker looks, once in a while, for messages that the channel counts and no running task owns, and ends the
connection as if it had broken; Celery then opens a new channel with all its slots. The old one's messages go back into
the queue and may run twice, which every task here expects. The other defect, a worker that exits with an
AttributeError, needs gossip or remote control: worker/app.py and worker/consumer.py switch both off.

Neither library mends it, and no third one does: docs/decisions/0011.
"""

from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state

# A message must be ownerless at two looks, since each is ownerless for a moment between task and acknowledgement.
LOOKS_EVERY = 1.0  # seconds

log = structlog.stdlib.get_logger(__name__)


class ReconnectGuard(bootsteps.StartStopStep):  # type: ignore[misc]  # its base is untyped
    """A step of the consumer: it starts with each connection and watches its channel on the worker's own timer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._timer_entry: Any = None
        self._suspects: set[str] = set()
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Begins to watch the new channel."""
        self._suspects = set()
        self._timer_entry = consumer.timer.call_repeatedly(LOOKS_EVERY, self._look, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Ends the watch of the old channel."""
        if self._timer_entry is not None:
            consumer.timer.cancel(self._timer_entry)
            self._timer_entry = None

    def _look(self, consumer: Any) -> None:
        try:
            ownerless = _ownerless(consumer)
        except RuntimeError:  # a pool thread ended a task while the running ones were listed: the next look will do
            return
        lost, self._suspects = ownerless & self._suspects, ownerless
        if lost:
            log.warning("consumer.restarted", unacknowledged=len(lost))
            # The event loop lets this error through to the consumer, which then starts anew.
            raise ConnectionError("acknowledgements have failed")


def _ownerless(consumer: Any) -> set[str]:
    """The delivery tags that hold a slot of the channel, and have no task that will give it back."""
    qos = consumer.task_consumer.channel.qos
    held: set[str] = set(qos._delivered) - qos._dirty  # kombu shows them nowhere else; pyproject.toml pins its version
    owned = {
        request.message.delivery_tag for tasks in (state.reserved_requests, state.active_requests) for request in tasks
    }
    return held - owned
