"""Web, worker and clock in one process over Celery's memory transport: for a machine without any Redis server."""

import threading
from typing import Any

import uvicorn
from celery.beat import EmbeddedService
from celery.worker import WorkController, state

from config.broker import connect_to
from handlers.queue.failures import stopping
from worker.app import celery_app, configure
from worker.clock import Clock

CONCURRENCY = 8  # as in the Procfile
STOPS_WITHIN = 10.0  # seconds for the tasks in work; what is lost with this process is still in the inbox


def run_together(port: int) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    connect_to("memory://localhost/")
    configure()
    worker = _worker()
    thread = threading.Thread(target=worker.start, name="worker", daemon=True)
    thread.start()
    EmbeddedService(celery_app, thread=True, scheduler_cls=Clock).start()
    try:
        # A name, not the application: nothing of worker/ imports receiver/.
        uvicorn.run(
            "receiver.app:app",
            port=port,
            workers=1,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=5,
        )
    finally:
        stopping.set()
        state.should_stop = 0  # the exit code that its loop looks for
        thread.join(STOPS_WITHIN)


def _worker() -> Any:
    return WorkController(
        app=celery_app,
        pool_cls="threads",
        concurrency=CONCURRENCY,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
