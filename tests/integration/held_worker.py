"""The service's worker with a task that holds its slot until it is let go."""

import time
from pathlib import Path

from worker.app import celery_app


@celery_app.task(name="hold")  # type: ignore[untyped-decorator]  # celery comes without types
def hold(folder: str, name: str) -> None:
    """Begins, waits for the file `go`, ends; its beginning and its end are files, too."""
    Path(folder, f"{name}.begun").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.02)
    Path(folder, f"{name}.ended").touch()
