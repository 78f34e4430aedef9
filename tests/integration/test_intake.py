"""The writer behind the web process, while its database fails."""

import pytest
from sqlalchemy import text

from config.database import engine
from receiver import intake
from receiver.intake import Publisher
from tests import databases
from tests.facts import event

pytestmark = pytest.mark.usefixtures("database_url")


def test_a_delivery_right_after_the_database_was_restarted_is_stored(database_url: str) -> None:
    if not databases.SERVER_URL:
        pytest.skip("SQLite has no connections to lose")
    publisher = Publisher()
    assert intake._store([event("created")], publisher) == ["accepted"]
    with databases.down(database_url):
        pass
    assert intake._store([event("verified")], publisher) == ["accepted"]
    with engine().connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM inbox_event")).scalar() == 2
    publisher.close()
