"""The Celery application: it takes a worker's messages."""

from typing import Any

from celery import Celery

from config.broker import ACTIONS_QUEUE, CLOCK_QUEUE, EVENTS_QUEUE, server

_SETTINGS = {
    # A task takes ids and returns nothing.
    "task_ignore_result": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    # By queue name only: an exchange and a routing key without a binding are dropped silently.
    "task_queues": {CLOCK_QUEUE: {}, EVENTS_QUEUE: {}, ACTIONS_QUEUE: {}},
    "task_default_queue": EVENTS_QUEUE,
    "task_create_missing_queues": False,
    # A message ends when its work ends, well or badly: a failed row is due again by the database, not by Celery.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_acks_on_failure": True,
    "task_acks_on_timeout": False,
    "worker_prefetch_multiplier": 1,  # six per cent slower than 4, but a slow worker hoards nothing
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_detect_quorum_queues": False,
    # Four Redis connections less, and none of their reconnect defects: docs/decisions/0041.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    # config/logs.py formats everything.
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    # A worker waits for Redis as long as it takes; the default of 100 tries would end it.
    "broker_connection_timeout": 3,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
}

celery_app: Any = Celery("identity")
celery_app.add_defaults(lambda: {**_SETTINGS, **server().settings})
