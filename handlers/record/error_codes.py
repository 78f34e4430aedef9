"""Stripe's last_error codes as data: the class of each, and the action that the class owes.

The list is stripe-python 16.1.0's VerificationSession.LastError.code, and one that its parameters name; the classes are
our judgement. The enumeration is open: an unknown code gets the default.
"""

from enum import StrEnum


class ErrorClass(StrEnum):
    """The class of an error code, by its remedy."""

    RETRY = "retry"  # trying again may well succeed
    REMINDER = "reminder"  # the person left before the end
    OTHER_DEVICE = "other_device"
    OTHER_DOCUMENT = "other_document"
    CONTACT = "contact"  # the email address or phone number was not confirmed; the person may give another
    ALTERNATIVE = "alternative"  # no retry can help: another way to verify is needed
    UNDER_AGE = "under_age"  # a policy decision, and careful wording
    FRAUD_SIGNAL = "fraud_signal"  # for a reviewer; never shown to the person


CLASSES = {
    "abandoned": ErrorClass.REMINDER,
    "consent_declined": ErrorClass.ALTERNATIVE,
    "country_not_supported": ErrorClass.ALTERNATIVE,
    "device_not_supported": ErrorClass.OTHER_DEVICE,
    "under_supported_age": ErrorClass.UNDER_AGE,
    "document_expired": ErrorClass.OTHER_DOCUMENT,
    "document_type_not_supported": ErrorClass.OTHER_DOCUMENT,
    "document_type_not_allowed": ErrorClass.OTHER_DOCUMENT,  # only options.document.allowed_types causes it
    "document_unverified_other": ErrorClass.RETRY,
    "selfie_document_missing_photo": ErrorClass.OTHER_DOCUMENT,
    "selfie_face_mismatch": ErrorClass.RETRY,
    "selfie_manipulated": ErrorClass.FRAUD_SIGNAL,
    "selfie_unverified_other": ErrorClass.RETRY,
    "id_number_insufficient_document_data": ErrorClass.OTHER_DOCUMENT,
    "id_number_mismatch": ErrorClass.RETRY,
    "id_number_unverified_other": ErrorClass.RETRY,
    "email_unverified_other": ErrorClass.CONTACT,
    "email_verification_declined": ErrorClass.CONTACT,
    "phone_unverified_other": ErrorClass.CONTACT,
    "phone_verification_declined": ErrorClass.CONTACT,
}

# The action that a failure of each class owes.
OWED = {
    ErrorClass.RETRY: "email_retry_prompt",
    ErrorClass.REMINDER: "email_retry_prompt",
    ErrorClass.OTHER_DEVICE: "email_retry_prompt",
    ErrorClass.OTHER_DOCUMENT: "email_retry_prompt",
    ErrorClass.CONTACT: "email_retry_prompt",
    ErrorClass.ALTERNATIVE: "email_alternative",
    ErrorClass.UNDER_AGE: "email_alternative",
    ErrorClass.FRAUD_SIGNAL: "alert_review",
}


def classify(code: str | None) -> ErrorClass:
    """The class of a code: RETRY for an unknown code, and for a failure without one."""
    return CLASSES.get(code or "", ErrorClass.RETRY)
