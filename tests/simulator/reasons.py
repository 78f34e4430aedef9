"""Stripe's codes of failed verifications, a sentence for each, and which of them leave a report."""

REASONS = {
    "abandoned": "The user left the verification flow before submitting it.",
    "consent_declined": "The user declined to be verified by Stripe.",
    "country_not_supported": "The country of the user is not supported.",
    "device_not_supported": "The user's device does not have a camera, or the camera could not be used.",
    "document_expired": "The document is expired.",
    "document_type_not_supported": "The type of the document is not supported.",
    "document_unverified_other": "The document could not be verified.",
    "email_unverified_other": "The email address could not be verified.",
    "email_verification_declined": "The user declined to verify their email address.",
    "id_number_insufficient_document_data": "The document does not hold enough data to match the ID number.",
    "id_number_mismatch": "The information provided could not be matched with the ID number.",
    "id_number_unverified_other": "The ID number could not be verified.",
    "phone_unverified_other": "The phone number could not be verified.",
    "phone_verification_declined": "The user declined to verify their phone number.",
    "selfie_document_missing_photo": "The document does not contain a photo of a face.",
    "selfie_face_mismatch": "The selfie does not match the photo on the document.",
    "selfie_manipulated": "The selfie image appears to have been manipulated.",
    "selfie_unverified_other": "The selfie could not be verified.",
    "under_supported_age": "The user is under the supported age.",
}

# The person has submitted nothing that could be checked, so there is no `processing` and no report.
BEFORE_SUBMISSION = frozenset(
    {"abandoned", "consent_declined", "country_not_supported", "device_not_supported", "under_supported_age"}
)

# The words of Stripe's script for a dialog that these codes end; after others it says that something was submitted.
DIALOG_CODES = {
    "abandoned": "session_cancelled",
    "consent_declined": "consent_declined",
    "country_not_supported": "session_cancelled",
    "device_not_supported": "device_unsupported",
    "email_verification_declined": "email_verification_declined",
    "phone_verification_declined": "phone_otp_declined",
    "under_supported_age": "under_supported_age",
}


def reason(code: str) -> str:
    """The sentence of a code; one that Stripe adds tomorrow has a sentence, too."""
    return REASONS.get(code, "The verification could not be completed.")


def check_of(code: str) -> str:
    """The check of a report that a code belongs to."""
    for check in ("selfie", "id_number", "email", "phone"):
        if code.startswith(check):
            return check
    return "document"
