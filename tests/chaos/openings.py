"""The judgement of openings: one session, whatever happens; compared with Stripe's sessions and with the answers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from handlers.owed.kinds import TELLING
from handlers.tables.models import ActionStatus, VerificationRecord
from tests.chaos.outside import Application, MailServer
from tests.chaos.shop import Heard, Json, Shop
from tests.chaos.verdict import Key, Tables, Verdict, message_ids

_LIVE = ("requires_input", "processing")  # the person may submit, or has: each is billed
_UNDER_WAY = 75.0  # seconds: a mail's lease, and its way
_SECRETS = ("client_secret", "url", "ephemeral_key_secret")


@dataclass(frozen=True, slots=True)
class Ours:
    """A session that was opened or adopted here, with its verification and generation, from its metadata."""

    session: Json
    verification_id: str
    generation: int

    @property
    def id(self) -> str:
        """Stripe's id."""
        return str(self.session["id"])

    @property
    def is_live(self) -> bool:
        """Whether it may still cost something."""
        return self.session["status"] in _LIVE and not self.session["redaction"]


def judge_openings(
    verdict: Verdict,
    truth: Json,
    tables: Tables,
    shop: Shop,
    views: Mapping[str, Json],
    mail: MailServer,
    application: Application,
    *,
    when: Callable[[float], float],
    lossy: bool,
) -> None:
    """Judges by the API's views after the rest; `when` gives the true time of a row's.

    A lossy database has forgotten replacements on purpose, quiet ends, and the last numbers.
    """
    ours = made = _ours(truth)
    if lossy:  # Stripe has redacted the metadata, too
        ours = {id_: one for id_, one in ours.items() if one.verification_id in views or not one.session["redaction"]}
    by_verification: defaultdict[str, list[Ours]] = defaultdict(list)
    for one in ours.values():
        by_verification[one.verification_id].append(one)
    _count(verdict, shop, ours, by_verification)
    verdict.must_be_none("people surprised or never answered", shop.surprises)
    verdict.must_be_none("verifications that are not shown", sorted(by_verification.keys() - views.keys()))
    if by_verification.keys() - views.keys():
        return
    verdict.must_be_none("two sessions open at any moment", _two_at_once(truth, ours))
    verdict.must_be_none("two sessions of one generation", _made_twice(ours.values()))
    verdict.must_be_none("open sessions that nobody comes back to", _orphans(ours.values(), views))
    verdict.must_be_none("sessions not linked to their verification", _not_linked(ours.values(), tables))
    verdict.must_be_none("openings answered with another session than Stripe has", _wrong_answers(shop.heard, made))
    verdict.must_be_none("secrets handed out twice", _twice(_secrets(shop.heard)))
    verdict.must_be_none("verifications whose standing is not the truth", _wrong_standings(by_verification, views))
    verdict.must_be_none("traces of the forgotten", _traces(by_verification, tables))
    if lossy:
        return
    verdict.must_be_none("replaced though nobody asked, or not though it was done", _wrongly_replaced(shop, tables))
    verdict.must_be_none(
        "mails about what was replaced, forgotten or ended quietly", _unwanted_mails(tables, mail, when)
    )
    verdict.must_be_none("calls of the application out of order", _out_of_order(application))


def _ours(truth: Json) -> dict[str, Ours]:
    sessions = {session["id"]: session for session in truth["sessions"]}
    found = {}
    # An adopted session has its metadata from then on, and loses it when it is redacted.
    for shown in (*(event["body"]["data"]["object"] for event in _snapshots(truth)), *truth["sessions"]):
        if "idv_id" in (metadata := shown["metadata"]):
            found[shown["id"]] = Ours(sessions[shown["id"]], metadata["idv_id"], int(metadata["idv_generation"]))
    return found


def _snapshots(truth: Json) -> Iterator[Json]:
    return (event for event in truth["events"] if not event["thin"])


def _count(verdict: Verdict, shop: Shop, ours: Mapping[str, Ours], by_verification: Mapping[str, list[Ours]]) -> None:
    openings = [heard for heard in shop.heard if heard.is_opening]
    answers = Counter(heard.answer.get("code") or heard.status or "no answer" for heard in openings)
    others = Counter(heard.status or "no answer" for heard in shop.heard if not heard.is_opening)
    told = {heard.answer["session_id"] for heard in openings if heard.is_good}
    verdict.figures["openings asked for"] = len(openings)
    verdict.figures["  answered, or refused"] = _listed(answers)
    verdict.figures["entries, cancellations and redactions answered"] = _listed(others)
    verdict.figures["verifications, and their sessions"] = f"{len(by_verification)}, {len(ours)}"
    verdict.figures["  sessions that nobody was told of"] = len(ours.keys() - told)
    verdict.figures["  openings before which a generation was burned"] = sum(
        max(one.generation for one in some) - len(some) for some in by_verification.values()
    )


def _listed(counts: Counter[Any]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=str))


def _two_at_once(truth: Json, ours: Mapping[str, Ours]) -> Iterator[str]:
    """Two live sessions, even for a moment of the run: each change of a session is an event of Stripe's, in order."""
    live: defaultdict[str, set[str]] = defaultdict(set)
    for event in _snapshots(truth):
        session = event["body"]["data"]["object"]
        if (one := ours.get(session["id"])) is None:
            continue
        mine = live[one.verification_id]
        if session["status"] in _LIVE and not session["redaction"]:
            mine.add(one.id)
        else:
            mine.discard(one.id)
        if len(mine) > 1:
            yield f"{one.verification_id}: {sorted(mine)}"


def _made_twice(ours: Iterable[Ours]) -> Iterator[str]:
    return _twice(f"{one.verification_id} generation {one.generation}" for one in ours)


def _twice(found: Iterable[str]) -> Iterator[str]:
    return (one for one, count in Counter(found).items() if count > 1)


def _orphans(ours: Iterable[Ours], views: Mapping[str, Json]) -> Iterator[str]:
    """The live sessions that are not their verification's current one: nobody who opens again gets them."""
    for one in ours:
        view = views[one.verification_id]
        if one.is_live and (view["generation"], view["session_id"] or one.id) != (one.generation, one.id):
            yield f"{one.id} of {one.verification_id}, {one.generation}, beside {view['session_id']}"


def _not_linked(ours: Iterable[Ours], tables: Tables) -> Iterator[str]:
    for one in ours:
        record = tables.records.get(one.id)
        held = record and (record.verification_id, record.generation)
        if held != (one.verification_id, one.generation):
            yield f"{one.id} is of {held} instead of {one.verification_id}, {one.generation}"


def _wrong_answers(heard: Iterable[Heard], ours: Mapping[str, Ours]) -> Iterator[str]:
    for one in heard:
        if one.is_opening and one.is_good:
            answer = one.answer
            said = answer["id"], answer["generation"]
            made = ours.get(answer["session_id"])
            if made is None or (made.verification_id, made.generation) != said:
                yield f"{one.reference} heard {said} {answer['session_id']}"


def _secrets(heard: Iterable[Heard]) -> Iterator[str]:
    for one in heard:
        entry = one.answer.get("entry") or {}
        yield from (entry[name] for name in _SECRETS if name in entry)


def _wrong_standings(by_verification: Mapping[str, list[Ours]], views: Mapping[str, Json]) -> Iterator[str]:
    for verification_id, mine in by_verification.items():
        view = views[verification_id]
        replaced = {one["session_id"] for one in view["sessions"] if one["replaced_at"]}
        current = {one.generation: one.session["status"] for one in mine}.get(view["generation"], "requires_input")
        is_verified = any(one.session["status"] == "verified" and one.id not in replaced for one in mine)
        true = "verified" if is_verified else current
        if view["status"] != true:
            yield f"{verification_id} is shown as {view['status']}, and is {true}"


def _wrongly_replaced(shop: Shop, tables: Tables) -> Iterator[str]:
    requests = [heard for heard in shop.heard if "replaces" in heard.asked]
    asked = {heard.asked["replaces"] for heard in requests}
    done = {heard.asked["replaces"] for heard in requests if heard.is_good}
    whose = {record.verification_id for record in tables.records.values() if record.session_id in asked}
    for session_id, record in tables.records.items():
        if record.replaced_at and record.verification_id not in whose:
            yield f"{session_id} was replaced, which nobody asked for"
        if not record.replaced_at and session_id in done:
            yield f"{session_id} counts still, though another one was begun in its place"


def _traces(by_verification: Mapping[str, list[Ours]], tables: Tables) -> Iterator[str]:
    for verification in tables.verifications.values():
        if verification.redaction_asked_at is None:
            continue
        held = [verification.client_reference_id, verification.return_url, verification.locale]
        for one in by_verification.get(verification.id, []):
            if one.session["redaction"] is None:
                yield f"{one.id} is not redacted at Stripe"
            record = tables.records[one.id]
            held += [record.client_reference_id, record.user_id, record.last_error_reason]
            events = [event for event in tables.events.values() if event.session_id == one.id]
            held += [text for it in events for text in (it.client_reference_id, it.user_id, it.error_reason)]
        if any(held):
            yield f"{verification.id} is forgotten, and there is {[one for one in held if one]}"


def _unwanted_mails(tables: Tables, mail: MailServer, when: Callable[[float], float]) -> Iterator[str]:
    """A mail that was under way may arrive a moment later; one that became owed afterwards never goes out."""
    last = {one.message_id: one.at for one in mail.accepted}
    for action in tables.actions:
        record = tables.records[action.session_id]
        since = _since(record, action.name)
        if action.name not in TELLING or since is None:
            continue
        key: Key = (action.session_id, action.name, action.cause)
        at = max((last[one] for one in message_ids(key) if one in last), default=0.0)
        is_new = action.created_at > since and action.status == ActionStatus.DONE
        if is_new or at > when(since.timestamp()) + _UNDER_WAY:
            yield f"{key}"


def _since(record: VerificationRecord, name: str) -> Any:
    """The moment from which mails are unwanted; one about a session canceled before its replacement was right."""
    quiet_from = (record.created_at if record.ends_quietly else None, record.replacing_at)
    moments = (record.replaced_at, record.redaction_asked_at, *(quiet_from if name == "email_canceled" else ()))
    return min((at for at in moments if at), default=None)


def _out_of_order(application: Application) -> Iterator[str]:
    """The verifications with a number that was first heard after a higher one; repeated calls are no fault."""
    for whose, numbers in application.numbers.items():
        first = list(dict.fromkeys(numbers))
        if first != sorted(first):
            yield f"{whose} was told {first}"
