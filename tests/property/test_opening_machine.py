"""Openers die, lose answers or sleep for a day: still a person has one open session, and each session its record."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.depth import FIGURES, IS_MUTANT, depth, note
from tests.property.near_stripe import near_stripe
from tests.property.opening_machine import OpeningMachine, Setting, post_box
from tests.property.stepping import stepping
from tests.support import databases

SETTINGS = settings(
    max_examples=depth(12, 1000),
    stateful_step_count=depth(40, 60),
    derandomize=not FIGURES,  # the same few runs each time; `make proof` tries new ones
    deadline=None,
    database=None,
    phases=[Phase.generate] if IS_MUTANT else list(Phase),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.usefixtures("database_url")
def test_any_succession_of_openings_leaves_one_open_session_a_person(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OPENINGS_PER_DAY", "1000")
    environment.setenv("EVENT_ATTEMPTS", "1000")  # no event is buried here: a buried one waits for an operator
    environment.setenv("ACTION_ATTEMPTS", "1000")
    environment.setenv("REMINDER_HOURS", "1")
    environment.setenv("STRIPE_PUBLISHABLE_KEY", "pk_test_simulator0000")
    with near_stripe() as stripe, post_box(environment) as mails, stepping():
        setting = Setting(stripe, mails)
        run_state_machine_as_test(type("Run", (OpeningMachine,), {"setting": setting}), settings=SETTINGS)
    note(f"openings on {databases.name()}: {setting}")
