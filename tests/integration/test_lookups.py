"""A name server that never answers holds up nobody for longer than an answer may take."""

from pathlib import Path

import pytest

from tests.support import dead_resolver


@pytest.mark.skipif(not dead_resolver.can_stand_apart(), reason="needs a network of its own (unshare)")
def test_a_name_that_no_server_answers_about_is_given_up_by_whoever_asks(tmp_path: Path) -> None:
    assert dead_resolver.tried(tmp_path) == {
        "Stripe": "AwayError",
        "the mail server": "AwayError",
        "the application": "AwayError",
        "the logo": "AwayError",
        "Redis": "it cannot be reached",
        "PostgreSQL": "OperationalError",
        "PostgreSQL, from web's event loop": "gaierror",
    }
