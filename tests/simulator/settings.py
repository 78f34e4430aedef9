"""The knobs of the simulator that belong to no single endpoint or session."""

from dataclasses import dataclass, field, fields

from tests.simulator.store import Json

API_VERSION = "2026-10-28.endive"  # of the account, and of the SDK this project pins

# Real Stripe takes up to four days to redact; null in the control API means: only on demand.
REDACTION_STEP = 0.1  # seconds from processing to validated, and from there to redacted


@dataclass(slots=True)
class Settings:
    """`policy` applies to every endpoint that does not say otherwise; see deliveries.Policy."""

    base: str = ""
    pages: str = ""  # the address of the pages that people see, if not the base
    speed: float = 1.0  # divides the seconds of the retry schedule
    redaction_step: float | None = REDACTION_STEP
    spaced: bool = False  # two changes of one session are a second apart, as with people who read and type
    twins: bool = False  # two Event objects for every change
    secrets_in_events: bool = False  # client_secret and url, which Stripe leaves null, are in the event's object
    extra_fields: Json = field(default_factory=dict)  # merged into the object of every event
    policy: Json = field(default_factory=dict)

    def reset(self) -> None:
        """Sets the defaults, and the values with which the process was started."""
        fresh = Settings(base=self.base, speed=self.speed, spaced=self.spaced)
        for item in fields(self):
            setattr(self, item.name, getattr(fresh, item.name))
