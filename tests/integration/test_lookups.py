"""A name server that gives no answer holds up nobody for longer than an answer may take."""

from pathlib import Path

import pytest

from tests.support import dead_resolver


@pytest.mark.skipif(not dead_resolver.can_stand_apart(), reason="needs a network of its own (unshare)")
@pytest.mark.parametrize("server", dead_resolver.SERVERS)
def test_a_name_that_no_server_answers_about_is_given_up_by_whoever_asks(tmp_path: Path, server: str) -> None:
    assert dead_resolver.tried(tmp_path, server) == {
        "Stripe": "Stripe was not reached: its name was not found in time",
        "the mail server": "the SMTP server was not reached: its name was not found in time",
        "the application": "the application was not reached: its name was not found in time",
        "the logo": "the server of BRAND_LOGO_URL was not reached: its name was not found in time",
        "Redis": "its name was not found in time",
        "PostgreSQL": "OperationalError",
        "PostgreSQL, from web's event loop": "LateNameError",
    }
