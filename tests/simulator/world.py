"""Everything of one running simulator, in one place."""

from dataclasses import dataclass, field

from tests.simulator.clock import Clock
from tests.simulator.deliveries import Deliveries
from tests.simulator.faults import Faults
from tests.simulator.idempotency import Ledger
from tests.simulator.keys import Keys
from tests.simulator.listeners import Listeners
from tests.simulator.settings import Settings
from tests.simulator.store import Store


@dataclass(slots=True)
class World:
    """All parts of a simulator; they know only the store, the clock and the settings that they were given."""

    clock: Clock = field(default_factory=Clock)
    store: Store = field(default_factory=Store)
    settings: Settings = field(default_factory=Settings)
    keys: Keys = field(default_factory=Keys)
    faults: Faults = field(default_factory=Faults)
    ledger: Ledger = field(default_factory=Ledger)
    redactions: set[str] = field(default_factory=set)  # sessions whose redaction moves on by itself
    listeners: Listeners = field(init=False)
    deliveries: Deliveries = field(init=False)

    def __post_init__(self) -> None:
        self.listeners = Listeners(self.store)
        self.deliveries = Deliveries(self.store, self.settings)
