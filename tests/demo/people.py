"""The persons of the demo, their steps at the local Stripe day by day, and the outcome that must come of these."""

from typing import NamedTuple

from tests.payloads.expected import VERIFIED, Outcome


class Person(NamedTuple):
    """One person. Each day is a row of the local Stripe's actions; their deliveries are one of DELIVERED.

    `page:pass` and `page:CODE` are the outcomes that a person picks who comes by a link: the application has opened
    her verification, and gives her the first link to her page; later she takes the one in her newest mail.
    """

    story: str
    days: tuple[str, ...]
    outcome: Outcome
    delivered: str = "in order"
    has_address: bool = True


# Policies of the local Stripe for its webhook endpoint.
DELIVERED: dict[str, dict[str, object]] = {
    "in order": {},
    "twice": {"copies": 2},
    "last first": {"hold": True},
    "shuffled": {"hold": True},
    "as twins": {},
}

PROMPT = "email_retry_prompt done"
PASSES = ("submit pass",)

PEOPLE = {
    "Anna": Person("verified at once", PASSES, Outcome("verified", 1, None, VERIFIED)),
    "Bruno": Person("verified; events arrived shuffled", PASSES, Outcome("verified", 1, None, VERIFIED), "shuffled"),
    "Clara": Person(
        "an expired document, then verified",
        ("submit fail:document_expired", "submit pass"),
        Outcome("verified", 2, None, (PROMPT, *VERIFIED)),
    ),
    "David": Person(
        "failed twice",
        ("submit fail:selfie_face_mismatch", "submit fail:document_unverified_other"),
        Outcome("requires_input", 2, "document_unverified_other", (PROMPT, PROMPT)),
    ),
    "Emma": Person(
        "declined consent: no retry can help",
        ("decline",),
        Outcome("requires_input", 0, "consent_declined", ("email_alternative done",)),
    ),
    "Farid": Person("canceled", ("cancel",), Outcome("canceled", 0, None, ("email_canceled done",))),
    "Greta": Person(
        "verified, later redacted", (*PASSES, "redact"), Outcome("verified", 1, None, VERIFIED, redacted=True)
    ),
    "Henri": Person("every event delivered twice", PASSES, Outcome("verified", 1, None, VERIFIED), "twice"),
    "Ines": Person("the last event arrived first", PASSES, Outcome("verified", 1, None, VERIFIED), "last first"),
    "Jonas": Person("left before the end", ("abandon",), Outcome("requires_input", 0, "abandoned", (PROMPT,))),
    "Kira": Person("being checked; a success was forged", ("submit",), Outcome("processing", 0, None)),
    "Lars": Person("two events for every change", PASSES, Outcome("verified", 1, None, VERIFIED), "as twins"),
    "Mia": Person(
        "verified, but gave no address",
        PASSES,
        Outcome("verified", 1, None, ("email_verified skipped: no address",)),
        has_address=False,
    ),
    "Nils": Person(
        "a failure arrived after its cure",
        ("submit fail:document_expired submit pass",),
        Outcome("verified", 2, None, ("email_retry_prompt skipped: superseded", *VERIFIED)),
        "last first",
    ),
    "Olga": Person(
        "verified, overridden by a reviewer",
        (*PASSES, "override"),
        Outcome("requires_input", 1, "document_unverified_other", (PROMPT, *VERIFIED)),
    ),
    "Paul": Person(
        "failed three times: canceled",
        ("submit fail:selfie_face_mismatch",) * 3,
        Outcome(
            "canceled",
            3,
            "selfie_face_mismatch",
            (
                "alert_review done",
                "cancel_session done",
                "email_canceled done",
                PROMPT,
                PROMPT,
                "email_retry_prompt skipped: submission limit",
            ),
        ),
    ),
    "Rosa": Person(
        "a manipulated selfie",
        ("submit fail:selfie_manipulated",),
        Outcome("requires_input", 1, "selfie_manipulated", ("alert_review done",)),
    ),
    "Tara": Person(
        "failed on her page; back on it by a mail's link",
        ("page:document_expired", "page:pass"),
        Outcome("verified", 2, None, (PROMPT, *VERIFIED)),
    ),
}

# The service's answers to the deliveries: all of Stripe's, one of a type that is not ours, and a forged one.
DELIVERIES = {"accepted": 68, "duplicate": 3, "ignored": 1, "refused (400)": 1}
