"""Any number of workers on one session at once."""

import pytest

from tests.property.depth import depth, note
from tests.property.outside import outside
from tests.property.rounds import LIMIT, Rounds
from tests.support import databases


@pytest.mark.usefixtures("database_url")
def test_eight_workers_on_one_session_end_as_the_true_order_does(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SUBMISSION_LIMIT", str(LIMIT))
    with outside(environment) as (post_box, application):
        tally = Rounds(post_box, application).run(
            depth(15 if databases.SERVER_URL else 5, 200 if databases.SERVER_URL else 40)
        )
    note(f"concurrency on {databases.name()}: {tally}")
