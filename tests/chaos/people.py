"""People who are verified through the application, each with a story; they check their session when they come back."""

import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from random import Random
from time import sleep
from typing import Any

from config.settings import settings
from tests.chaos.shop import MARK, PUBLISHABLE_KEY, GoneError, Heard, Json, Shop

_WAYS: tuple[Json, ...] = (
    {"integration": "hosted"},
    {"integration": "modal"},
    {"integration": "redirect"},
    {"integration": "native", "stripe_version": "2026-10-28.endive"},
)
_LIMIT = 3  # SUBMISSION_LIMIT's default
_EXPIRED = "document_expired"


class Person:
    """One person and one purpose: their steps, and the application's requests for them."""

    def __init__(self, shop: Shop, number: int, seed: int) -> None:
        self.reference = f"person-{number:05}"
        self.id = self.session_id = ""
        self._shop = shop
        self._dice = Random(f"{seed} {number}")
        self._entry: Json = {}
        self._metadata = {"user_id": f"shopper-{number:05}"}

    def lives(self, story: "Story") -> None:
        """Lives the story, to its end or to an answer that ends it."""
        try:
            story(self)
        except GoneError:
            return
        except Exception as error:
            self.wonders(f"{story.__name__}: {type(error).__name__}: {error}")

    def chance(self) -> bool:
        """True one time in two."""
        return self._dice.random() < 0.5

    def waits(self) -> None:
        """Waits as people do."""
        sleep(self._dice.uniform(0.0, 1.5))

    def wonders(self, sentence: str) -> None:
        """Notes that something is not as it should be."""
        self._shop.surprises.append(f"{self.reference} {sentence}")

    def opens(self, **changes: Any) -> Heard:
        """Asks for a session: once, from two tabs at once, or again after having gone away too early."""
        self.waits()
        manner = self._dice.choice(("once", "twice", "impatient"))
        bodies = [self._body(changes) for _ in range(2 if manner == "twice" else 1)]
        if manner == "impatient":
            self._shop.ask(self.reference, "POST", "/verifications", bodies[0], self._dice.uniform(0.02, 0.5))
        heard = self._at_once(bodies)
        if len({(one.answer.get("id"), one.answer.get("session_id")) for one in heard if one.is_good}) > 1:
            self.wonders(f"two tabs got two sessions: {[one.answer.get('session_id') for one in heard]}")
        good = [one for one in heard if one.is_good]
        if not good:
            return heard[0]
        self.id, self.session_id = good[-1].answer["id"], good[-1].answer["session_id"]
        self._entry = good[-1].answer.get("entry") or {}
        return good[-1]

    def has_a_session(self, **changes: Any) -> None:
        """Opens, and goes on only with an open session."""
        heard = self.opens(**changes)
        if not heard.is_good:
            self.is_refused(heard, "too-many")
        if "entry" not in heard.answer:
            self.wonders(f"is not let into {self.session_id}")
            raise GoneError

    def walks_away(self) -> None:
        """Asks once, gets no answer, and never comes again."""
        within = self._dice.uniform(0.01, 0.5)
        self._shop.ask(self.reference, "POST", "/verifications", self._body({}), within)

    def is_refused(self, heard: Heard, *codes: str) -> None:
        """Checks that the refusal is one of these, and ends the story."""
        if heard.answer.get("code") not in codes:
            self.wonders(f"{heard.path} got {heard.status} {heard.answer}")
        raise GoneError

    def asks(self, what: str, body: Json | None = None) -> Heard:
        """Makes a request about the verification of the last opening."""
        self.waits()
        return self._shop.insist(self.reference, "POST", f"/verifications/{self.id}/{what}", body, self._dice)

    def does(self, outcome: str, **detail: str) -> None:
        """Goes in by the last entry, and picks an outcome."""
        entry = self._entry
        if self.chance():
            heard = self.asks("entry", self._dice.choice(_WAYS))
            if not heard.is_good:
                self.is_refused(heard)
            entry = heard.answer["entry"]
        self._entry = {}
        self.waits()
        url = entry.get("url")
        if secret := entry.get("client_secret"):
            url = self._shop.simulator.enter(secret, PUBLISHABLE_KEY)
        # Where links are made, one leads to our own page, and from there to the same session.
        if url and url.startswith(self._shop.simulator.base):
            form = urllib.parse.urlencode({"outcome": outcome, **detail}).encode()
            urllib.request.urlopen(url, form, timeout=30).close()
        else:
            self._shop.simulator.act(self.session_id, outcome, **detail)

    def is_judged(self, outcome: str, **detail: str) -> None:
        """Does something at Stripe, or at the Dashboard, to the session."""
        self._shop.simulator.act(self.session_id, outcome, **detail)

    def changes(self, metadata: dict[str, str]) -> None:
        """Asks for other metadata with the session from now on."""
        self._metadata = {**self._metadata, **metadata}

    def at_stripe(self) -> Json:
        """The session as Stripe has it."""
        return self._shop.simulator.session(self.session_id)

    def meets_a_link(self) -> str:
        """Lets a stranger type this person's reference into a static link; the session's id."""
        return self._shop.simulator.create_from_link(self.reference, "stranger@example.com")

    def was_begun(self) -> str:
        """Lets the application's own code make a session, as before there was this service; the session's id."""
        email = f"{self.reference}@example.com"
        return self._shop.simulator.create(
            email=email,
            client_reference_id=self.reference,
            metadata={**self._metadata, **(MARK if settings().our_sessions else {})},
            type="document",
        )

    def _body(self, changes: Json) -> Json:
        details = {"email": f"{self.reference}@example.com"}
        body = {"client_reference_id": self.reference, "type": "document", "provided_details": details}
        return {**body, "metadata": self._metadata, **self._dice.choice(_WAYS), **changes}

    def _at_once(self, bodies: list[Json]) -> list[Heard]:
        heard: list[Heard] = []

        def ask(body: Json, dice: Random) -> None:
            try:
                heard.append(self._shop.insist(self.reference, "POST", "/verifications", body, dice))
            except GoneError:  # noted already
                return

        tabs = [threading.Thread(target=ask, args=(body, Random(self._dice.random()))) for body in bodies]
        for tab in tabs:
            tab.start()
        for tab in tabs:
            tab.join()
        if not heard:
            raise GoneError
        return heard


Story = Callable[[Person], None]


def is_verified(person: Person) -> None:
    """Is verified, and comes back: nobody is asked again."""
    person.has_a_session()
    person.does("pass")
    if "entry" in person.opens().answer:
        person.wonders("is asked again, and verified")


def is_verified_at_last(person: Person) -> None:
    """Fails, and takes the same session up again."""
    person.has_a_session()
    first = person.session_id
    person.does("fail", code=_EXPIRED)
    person.has_a_session()
    if person.session_id != first:
        person.wonders(f"has {person.session_id} beside {first}")
    person.does("pass")


def leaves(person: Person) -> None:
    """Leaves with the session open."""
    person.has_a_session()


def walks_away(person: Person) -> None:
    """Leaves before there is an answer."""
    person.walks_away()


def ends_it(person: Person) -> None:
    """Ends it twice, and comes back to a new session."""
    person.has_a_session()
    ended, quietly = person.session_id, "?notify=false" if person.chance() else ""
    for _ in range(2):
        heard = person.asks(f"cancel{quietly}")
        if not heard.is_good:
            person.is_refused(heard)
    person.has_a_session()
    if person.session_id == ended:
        person.wonders(f"is let into {ended}, which was canceled")
    person.does("pass")


def is_ended(person: Person) -> None:
    """Is ended at the Dashboard, and comes back to a new session."""
    person.has_a_session()
    ended = person.session_id
    person.is_judged("cancel")
    person.has_a_session()
    if person.session_id == ended:
        person.wonders(f"is let into {ended}, which was canceled")


def begins_again(person: Person) -> None:
    """Begins another session in the place of one that is open, failed, verified or canceled."""
    person.has_a_session()
    old = person.session_id
    if person.chance():
        person.does("fail" if person.chance() else "pass")
    elif person.chance():
        person.is_judged("cancel")
    person.has_a_session(replaces=old)
    new = person.session_id
    person.has_a_session(replaces=old)
    if old == new or person.session_id != new:
        person.wonders(f"has {old}, {new}, and {person.session_id} in its place")
    if person.chance():
        person.does("pass")


def is_forgotten(person: Person) -> None:
    """Is forgotten, with a session of any status; and may come again, as somebody new."""
    person.has_a_session()
    is_checked = person.chance()
    if is_checked:
        person.does("submit")
    elif person.chance():
        person.does("fail" if person.chance() else "pass")
    forgotten = person.id
    try:
        for _ in range(2):
            heard = person.asks("redact")
            if not heard.is_good:
                person.is_refused(heard)
    finally:
        if is_checked:  # else it can never be redacted
            person.is_judged("pass")
    if person.chance():
        person.has_a_session()
        if person.id == forgotten:
            person.wonders(f"is {forgotten} again, who is forgotten")


def fails_too_often(person: Person) -> None:
    """Fails until no session is given; then somebody at the application lets them begin again."""
    person.has_a_session()
    old = person.session_id
    person.does("fail", code=_EXPIRED)
    for _ in range(_LIMIT - 1):
        person.is_judged("fail", code=_EXPIRED)
    for _ in range(5):
        heard = person.opens()
        if not heard.is_good:
            break
    if not heard.is_good and heard.answer.get("code") != "submission-limit":
        person.is_refused(heard)
    person.has_a_session(replaces=old)
    person.does("pass")


def is_asked_otherwise(person: Person) -> None:
    """Changes the open session, which loses nothing of ours."""
    person.has_a_session()
    person.changes({"step": "second"})
    person.has_a_session()
    metadata = person.at_stripe()["metadata"]
    if (metadata.get("step"), metadata.get("idv_id")) != ("second", person.id):
        person.wonders(f"has {metadata}")


def is_checked(person: Person) -> None:
    """Waits for Stripe's check: meanwhile nothing is opened, and nothing is canceled."""
    person.has_a_session()
    person.does("submit")
    if "entry" in person.opens().answer:
        person.wonders("is asked again, and being checked")
    heard = person.asks("cancel")
    if heard.answer.get("code") != "processing":
        person.is_refused(heard)
    person.is_judged("pass" if person.chance() else "fail")


def shares_a_reference(person: Person) -> None:
    """Has the same reference as a session of a stranger's, which stays the stranger's."""
    strangers = person.meets_a_link()
    person.has_a_session()
    if person.session_id == strangers:
        person.wonders(f"is let into {strangers}, which is a stranger's")


def is_taken_over(person: Person) -> None:
    """Is taken over with the session that the application's own code has made, and with no other."""
    begun = person.was_begun()
    person.has_a_session(adopt=begun)
    if person.session_id != begun:
        person.wonders(f"has {person.session_id} beside {begun}, which was begun before")
    if person.chance():
        person.does("pass" if person.chance() else "fail")


def comes_back(person: Person) -> None:
    """Comes back some day, after any story."""
    heard = person.opens()
    if not heard.is_good:
        person.is_refused(heard, "submission-limit", "too-many")


STORIES: tuple[Story, ...] = (
    *(is_verified, is_forgotten, begins_again, leaves, ends_it, walks_away, is_verified_at_last, is_checked, is_ended),
    *(fails_too_often, is_asked_otherwise, shares_a_reference, is_taken_over),
)


def people(shop: Shop, count: int, seed: int, stories: Sequence[Story] = STORIES) -> list[Callable[[], None]]:
    """So many people; every story is lived before any is lived again."""

    def person(number: int) -> Callable[[], None]:
        return lambda: Person(shop, number, seed).lives(stories[number % len(stories)])

    return [person(number) for number in range(count)]
