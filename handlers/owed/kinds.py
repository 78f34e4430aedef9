"""KINDS: one row per kind of action, with all that it may and may not do."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """The properties of every action of a kind; one that is left out does not hold."""

    setting: str | None = None  # the setting that asks for it: while it is empty, no action is written down
    survives_redaction: bool = False  # still owed when the person is forgotten
    survives_superseding: bool = False  # still owed when the record has moved on
    survives_burning: bool = False  # a mail that is owed about a burned session, too
    dropped_at_limit: bool = False  # no longer owed when the submissions are used up
    owed_at_limit: bool = False  # owed because they are used up
    kept_by_purge: bool = False  # since an old event would owe it again
    owed_when_burned: bool = False  # owed because another session was begun in the place of this one
    in_order: bool = False  # owed for each change, whose number is the cause, and told in the order of these numbers
    forgets: bool = False  # owed because the person is to be forgotten
    destination: str = "mail"  # its receiver: each has threads of its own, and trouble of its own
    is_alert: bool = False  # a mail to the reviewer, and not to the person
    tells_the_person: bool = False  # a mail: one at a time, due again once the person was told another thing
    link: Literal["", "retry", "ours"] = ""  # its mail's link: RETRY_URL or else a page of ours, or always ours
    revives: bool = False  # a dead one becomes pending if it is owed again: somebody has asked for it


KINDS: dict[str, Kind] = {
    "email_verified": Kind(tells_the_person=True, survives_burning=True),
    "email_retry_prompt": Kind(tells_the_person=True, dropped_at_limit=True, link="retry"),
    "email_reminder": Kind(setting="reminder_hours", tells_the_person=True, dropped_at_limit=True, link="retry"),
    "email_canceled": Kind(tells_the_person=True),
    "email_alternative": Kind(tells_the_person=True, link="ours"),
    # It does not tell the record's state, so it does not count as the last mail.
    "email_link": Kind(survives_superseding=True, link="ours"),
    "alert_review": Kind(survives_superseding=True, owed_at_limit=True, kept_by_purge=True, is_alert=True),
    "cancel_session": Kind(owed_at_limit=True, owed_when_burned=True, kept_by_purge=True, destination="stripe"),
    "redact_session": Kind(
        survives_redaction=True,
        survives_superseding=True,
        kept_by_purge=True,
        forgets=True,
        destination="stripe",
        revives=True,
    ),
    "keep_outputs": Kind(setting="verified_outputs", destination="stripe"),
    "notify_app": Kind(
        setting="app_callback_url",
        survives_redaction=True,
        survives_superseding=True,
        in_order=True,
        destination="application",
    ),
}
# The kinds that are owed no more once the person is forgotten, or another session was begun in the place of this one.
# rule: an action that survives a redaction stays owed
ENDED_BY_REDACTION = [name for name, kind in KINDS.items() if not kind.survives_redaction]
ENDED_BY_REPLACING = [name for name, kind in KINDS.items() if not kind.survives_superseding]
TELLING = [name for name, kind in KINDS.items() if kind.tells_the_person]
# rule: a success in a burned session is told; Stripe had called it gone, and its person was in it
ENDED_BY_BURNING = [name for name in TELLING if not KINDS[name].survives_burning]
IN_ORDER = [name for name, kind in KINDS.items() if kind.in_order]
FORGETTING = [name for name, kind in KINDS.items() if kind.forgets]
WHEN_BURNED = [name for name, kind in KINDS.items() if kind.owed_when_burned]
# The kinds that a higher limit ends: their person may go on.
ENDED_BY_HIGHER_LIMIT = [name for name in ENDED_BY_REPLACING if KINDS[name].owed_at_limit]
LIMIT_CAUSE = "submission_limit"
BURNED_CAUSE = "burned"  # of the cancellation of a session that is not its verification's current one


@dataclass(frozen=True, slots=True)
class Owed:
    """An action owed because of a state; with a reason in `skipped` it is written down, and never done."""

    kind: str  # a key of KINDS
    cause: str
    skipped: str | None = None
    payload: str | None = None  # JSON: the state at the moment when it became owed
