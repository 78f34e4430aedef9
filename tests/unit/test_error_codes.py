"""The table of error codes covers Stripe's list, and each class owes something we can do."""

import typing

import pytest
from stripe.identity import VerificationSession

from handlers.outbox.registry import REGISTRY
from handlers.record.error_codes import CLASSES, OWED, ErrorClass, classify


def test_the_table_holds_exactly_the_codes_of_stripes_sdk_and_the_one_that_it_names_elsewhere() -> None:
    assert set(CLASSES) - _codes_of_the_sdk() == {"document_type_not_allowed"}
    assert _codes_of_the_sdk() < set(CLASSES)


def test_every_class_owes_an_action_that_exists() -> None:
    assert set(OWED) == set(ErrorClass)
    assert set(OWED.values()) <= set(REGISTRY)


@pytest.mark.parametrize("code", [None, "", "address_mismatch", "x" * 5000])
def test_a_code_nobody_has_seen_may_be_retried(code: str | None) -> None:
    assert classify(code) is ErrorClass.RETRY


@pytest.mark.parametrize("code", ["consent_declined", "country_not_supported", "under_supported_age"])
def test_nobody_is_asked_to_retry_what_no_retry_can_help(code: str) -> None:
    assert OWED[classify(code)] == "email_alternative"


def test_a_document_that_is_not_allowed_is_one_that_is_not_supported() -> None:
    assert CLASSES["document_type_not_allowed"] is CLASSES["document_type_not_supported"]


def test_a_fraud_signal_reaches_a_reviewer_and_never_the_person() -> None:
    assert OWED[classify("selfie_manipulated")] == "alert_review"


def _codes_of_the_sdk() -> set[str]:
    hints = typing.get_type_hints(VerificationSession.LastError)["code"]
    literals = [part for part in typing.get_args(hints) if typing.get_origin(part) is typing.Literal]
    return {code for literal in literals for code in typing.get_args(literal)}
