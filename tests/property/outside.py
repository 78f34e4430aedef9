"""The outside world of the proofs: a post box for the mail server, and an application that is told of changes."""

import base64
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from handlers.outbox import mails
from handlers.outbox.mails import Mail
from handlers.owed.kinds import TELLING
from tests.simulator.catcher import Catcher, Caught
from tests.support import databases

Key = tuple[str, str, str]  # session, name, cause
SECRET = "whsec_" + base64.b64encode(b"a key of the application, 32 bytes").decode()


@dataclass
class PostBox:
    """Takes mails; `behave` may raise to refuse one."""

    sent: Counter[Key] = field(default_factory=Counter)
    told: defaultdict[str, list[Mail]] = field(default_factory=lambda: defaultdict(list))  # a session's, in their order
    behave: Callable[[Mail], None] = lambda _: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, mail: Mail) -> None:
        """Stands in the place of handlers.outbox.mails.send."""
        self.behave(mail)
        with self._lock:
            self.sent[mail.key] += 1
            if mail.template in TELLING:
                self.told[mail.key[0]].append(mail)


@dataclass
class Application:
    """The main application: the changes of each session that it was told and took, in the order of arrival."""

    taken: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    caught: list[Caught] = field(default_factory=list)
    status: int = 200
    meanwhile: Callable[[], object] = lambda: None  # happens before it answers
    catcher: Catcher = field(init=False)

    def answer(self, caught: Caught) -> int:
        """The status that answers a call."""
        self.caught.append(caught)
        self.meanwhile()
        if self.status < 300:
            change = caught.event["data"]
            self.taken[change["session_id"]].append(change["change_number"])
        return self.status


@contextmanager
def outside(environment: pytest.MonkeyPatch) -> Iterator[tuple[PostBox, Application]]:
    """Puts both into use in this process."""
    post_box, application = PostBox(), Application()
    with databases.unsynced(), Catcher(application.answer) as catcher:
        application.catcher = catcher
        environment.setattr(mails, "send", post_box.send)
        environment.setenv("EMAIL_LOOKUP", "tests.support.lookups:everybody")
        environment.setenv("REVIEW_EMAIL", "review@example.com")
        environment.setenv("APP_CALLBACK_URL", catcher.url)
        environment.setenv("APP_CALLBACK_SECRET", SECRET)
        databases.forget_process_state()
        yield post_box, application
        databases.forget_process_state()
