"""In any succession of acts and faults, the record is true and each owed action is done once."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.depth import FIGURES, IS_MUTANT, depth, note
from tests.property.outside import outside
from tests.property.state_machine import LIMIT, Commits, Machine, Setting
from tests.property.stripe_world import StripeWorld, answering
from tests.support import databases

SETTINGS = settings(
    max_examples=depth(8, 400),
    stateful_step_count=depth(25, 50),
    derandomize=not FIGURES,  # the same few runs each time; `make proof` tries new ones
    deadline=None,
    database=None,
    phases=[Phase.generate] if IS_MUTANT else list(Phase),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("has_key", [False, True], ids=["nobody to ask", "Stripe asked"])
@pytest.mark.usefixtures("database_url")
def test_any_succession_of_anything_ends_in_the_truth(has_key: bool, environment: pytest.MonkeyPatch) -> None:
    world = StripeWorld()
    environment.setenv("SUBMISSION_LIMIT", str(LIMIT))
    environment.setenv("REMINDER_HOURS", "1")
    environment.setenv("EVENT_ATTEMPTS", "1000")  # no event is buried here: a buried one waits for an operator
    environment.setenv("ACTION_ATTEMPTS", "4")
    with answering(world):
        if has_key:
            environment.setenv("STRIPE_API_KEY", "sk_test_made_up_for_tests")
            environment.setenv("STRIPE_API_BASE", world.url)
        with outside(environment) as (post_box, application):
            setting = Setting(world, post_box, application, Commits(), has_key)
            try:
                run_state_machine_as_test(type("Run", (Machine,), {"setting": setting}), settings=SETTINGS)
            finally:
                setting.commits.close()
    who = "Stripe asked" if has_key else "nobody to ask"
    note(f"state machine on {databases.name()}, {who}: {setting}")
