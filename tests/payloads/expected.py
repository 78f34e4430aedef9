"""The end of each session in the capture."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """A record's end, with the end of each action that was owed for it."""

    status: str
    submissions: int
    code: str | None
    actions: tuple[str, ...] = ()
    redacted: bool = False


VERIFIED = ("email_verified done",)

SESSIONS = {
    # Verified at once.
    "Anna": Outcome("verified", 1, None, VERIFIED),
    # Verified at once.
    "Bruno": Outcome("verified", 1, None, VERIFIED),
    # An expired document, then verified.
    "Clara": Outcome("verified", 2, None, ("email_retry_prompt done", "email_verified done")),
    # Failed twice.
    "David": Outcome(
        "requires_input", 2, "document_unverified_other", ("email_retry_prompt done", "email_retry_prompt done")
    ),
    # Declined consent: no retry can help.
    "Emma": Outcome("requires_input", 0, "consent_declined", ("email_alternative done",)),
    # Canceled.
    "Farid": Outcome("canceled", 0, None, ("email_canceled done",)),
    # Verified, later redacted.
    "Greta": Outcome("verified", 1, None, VERIFIED, redacted=True),
    # Each event delivered twice.
    "Henri": Outcome("verified", 1, None, VERIFIED),
    # The last event arrived first.
    "Ines": Outcome("verified", 1, None, VERIFIED),
    # Left before the end.
    "Jonas": Outcome("requires_input", 0, "abandoned", ("email_retry_prompt done",)),
    # Still being checked.
    "Kira": Outcome("processing", 0, None),
    # Two events for one change.
    "Lars": Outcome("verified", 1, None, VERIFIED),
    # Verified, but has no address.
    "Mia": Outcome("verified", 1, None, ("email_verified skipped: no address",)),
    # A failure arrived after its cure.
    "Nils": Outcome("verified", 2, None, ("email_retry_prompt skipped: superseded", "email_verified done")),
}
DELIVERIES = {"accepted": 46, "duplicate": 3, "ignored": 1, "refused (400)": 1}
