"""Many people at once: sessions made and driven by one control call."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from tests.simulator import scenarios, sessions
from tests.simulator.store import PLATFORM, Json, Scope, Session
from tests.simulator.world import World

BREATH = 20  # sessions between two chances for deliveries and API calls to go on


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """`{n}` in any text of `session` becomes the session's number. `interleave`: all first steps come first."""

    count: int = 1
    steps: list[str] | None = None
    scenario: str = "passes"
    session: Json = field(default_factory=dict)
    livemode: bool = False
    account: str = PLATFORM
    interleave: bool = False
    same_second: bool = False

    def steps_of(self, number: int) -> list[str]:
        return scenarios.steps_of(self.scenario, number) if self.steps is None else self.steps


async def drive(world: World, run: Run) -> list[Session]:
    """Makes and drives the sessions. Raises ApiError for a step that is not allowed; the steps before stay done."""
    stopped_here = run.same_second and world.clock.frozen is None
    if stopped_here:
        world.clock.frozen = world.clock.now() - world.clock.offset
    try:
        return await (_interleaved(world, run) if run.interleave else _one_by_one(world, run))
    finally:
        if stopped_here:
            world.clock.frozen = None


async def _one_by_one(world: World, run: Run) -> list[Session]:
    made = []
    for number in range(run.count):
        session = _create(world, run, number)
        for step in run.steps_of(number):
            scenarios.take_step(world, session, step)
        made.append(session)
        if number % BREATH == BREATH - 1:
            await asyncio.sleep(0)
    return made


async def _interleaved(world: World, run: Run) -> list[Session]:
    made = [_create(world, run, number) for number in range(run.count)]
    longest = max((len(run.steps_of(number)) for number in range(run.count)), default=0)
    for place in range(longest):
        for number, session in enumerate(made):
            steps = run.steps_of(number)
            if place < len(steps):
                scenarios.take_step(world, session, steps[place])
        await asyncio.sleep(0)
    return made


def _create(world: World, run: Run, number: int) -> Session:
    params = {"type": "document"} | _numbered(run.session, number)
    return sessions.create(world, Scope(run.account, run.livemode), params)


def _numbered(value: Any, number: int) -> Any:
    if isinstance(value, str):
        return value.replace("{n}", str(number))
    if isinstance(value, dict):
        return {key: _numbered(item, number) for key, item in value.items()}
    return value
