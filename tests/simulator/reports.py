"""The traces of a submission: a verification report and, when it passed, the verified outputs."""

from tests.simulator import ids, reasons
from tests.simulator.store import Json, Report, Session

JENNY: Json = {
    "first_name": "Jenny",
    "last_name": "Rosen",
    "dob": {"day": 1, "month": 1, "year": 1901},
    "address": {
        "line1": "1234 Main St.",
        "line2": None,
        "city": "San Francisco",
        "state": "CA",
        "postal_code": "94111",
        "country": "US",
    },
}


def make(session: Session, created: int, code: str | None) -> Report:
    """The report of one submission; `code` is its failure, None if it passed."""
    return Report(
        id=ids.new_id("vr"),
        scope=session.scope,
        created=created,
        session_id=session.id,
        client_reference_id=session.client_reference_id,
        type=session.type,
        body=_checks(session, code),
    )


def verified_outputs(session: Session) -> Json:
    details = session.provided_details
    return JENNY | {
        "email": details.get("email"),
        "phone": details.get("phone"),
        "id_number": "0000" if session.type == "id_number" else None,
        "id_number_type": "us_ssn" if session.type == "id_number" else None,
        "sex": "female",
        "unparsed_sex": "F",
        "unparsed_place_of_birth": "San Francisco, CA",
    }


def _checks(session: Session, code: str | None) -> Json:
    failed = reasons.check_of(code) if code else None
    checks: Json = {"document": _document(), "options": session.options}
    if session.options.get("document", {}).get("require_matching_selfie") or failed == "selfie":
        checks["selfie"] = {
            "document": ids.new_id("file"),
            "selfie": ids.new_id("file"),
            "error": None,
            "status": "verified",
        }
    if session.type == "id_number" or failed == "id_number":
        checks["id_number"] = _id_number()
    for detail in ("email", "phone"):
        if session.options.get(detail) or failed == detail:
            checks[detail] = {detail: session.provided_details.get(detail), "error": None, "status": "verified"}
    if code and failed:
        checks[failed] |= {"error": {"code": code, "reason": reasons.reason(code)}, "status": "unverified"}
    return checks


def _document() -> Json:
    return JENNY | {
        "error": None,
        "expiration_date": {"day": 1, "month": 12, "year": 2035},
        "files": [ids.new_id("file"), ids.new_id("file")],
        "issued_date": {"day": 1, "month": 12, "year": 2025},
        "issuing_country": "US",
        "number": "DL1234567",
        "sex": "female",
        "status": "verified",
        "type": "driving_license",
        "unparsed_place_of_birth": "San Francisco, CA",
        "unparsed_sex": "F",
    }


def _id_number() -> Json:
    person = {key: JENNY[key] for key in ("first_name", "last_name", "dob")}
    return person | {"error": None, "id_number": "0000", "id_number_type": "us_ssn", "status": "verified"}


def redact(value: object) -> object:
    """A redacted copy: strings become [redacted], dates 1/1/1; statuses, codes, types and countries stay."""
    if isinstance(value, list):
        return []
    if isinstance(value, str):
        return "[redacted]"
    if not isinstance(value, dict):
        return value
    if set(value) == {"day", "month", "year"}:
        return {"day": 1, "month": 1, "year": 1}
    return {key: item if key in KEPT else redact(item) for key, item in value.items()}


KEPT = {"country", "issuing_country", "status", "error", "type", "id_number_type", "options"}
