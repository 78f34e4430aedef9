"""The code before runs on the schema of today, beside the code of today: a release never stops the one it replaces."""

from pathlib import Path

import pytest

from handlers.tables.models import ActionStatus
from tests.support import facts, history
from tests.support.processes import Service, service
from tests.support.waiting import wait_until


@pytest.mark.processes
@pytest.mark.skipif(bool(why := history.why_none()), reason=why)
def test_the_code_before_and_the_code_of_today_run_on_one_schema(tmp_path: Path, database_url: str) -> None:
    code_before = history.unpacked(history.commit_before(), tmp_path / "before")
    with service(tmp_path / "old", database_url, code=code_before) as old:
        old.start("web", "worker", "clock")
        new = Service(tmp_path / "new", database_url, old.redis)
        try:
            new.start("web", "worker")
            for number, side in enumerate((old, new) * 3):
                side.deliver(facts.payload("verified", session_id=f"vs_{number}", report=f"vr_{number}"))
            wait_until(lambda: all(_is_done(f"vs_{number}") for number in range(6)), lambda: old.logs() + new.logs())
            for command in ("migrate", "status"):
                ended = old.run(command)
                assert ended.returncode == 0, ended.stdout + ended.stderr
        finally:
            new.stop()


def _is_done(session_id: str) -> bool:
    owed = facts.actions(session_id)
    return bool(owed) and all(action.status == ActionStatus.DONE for action in owed)
