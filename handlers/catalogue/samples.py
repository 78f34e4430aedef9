"""Samples of every mail and page, about made-up persons: each kind, each error code, with and without a link."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from handlers.catalogue.mails import About
from handlers.catalogue.pages import PAGES, Shown
from handlers.owed.kinds import KINDS
from handlers.record.error_codes import CLASSES, OWED, ErrorClass, classify

_SESSION = "vs_1Sample00000000000000000"
_FULL = About(
    session_id=_SESSION,
    verification_id="idv_sample",
    account="acct_1Sample",
    report_id="vr_1Sample",
    reason="What Stripe writes about it stands here.",
    link_url=f"https://app.example.com/verify?session={_SESSION}",
    submissions=1,
    dashboard_url=f"https://dashboard.stripe.com/test/identity/verification-sessions/{_SESSION}",
)
_OURS = f"https://id.example.com/verify/{_FULL.verification_id}.aSbsDw.Sample"  # a link as handlers/sessions makes it
_BARE = replace(_FULL, reason=None, link_url=None)
_UNKNOWN = (None, "a_code_that_nobody_knows")


def _codes_of(template: str, codes: Iterable[str | None]) -> list[str | None]:
    return [code for code in codes if OWED[classify(code)] == template]


_PROMPTED = _codes_of("email_retry_prompt", (*CLASSES, *_UNKNOWN))


_HERE = "/verify/token"
_SHOWN = Shown(
    word="requires_input",
    version="1",
    action_url=_HERE,
    status_url=f"{_HERE}/status",
    link_url=f"{_HERE}/link",
    continue_url="https://app.example.com/verified",
)
_MODAL = replace(_SHOWN, stripe_js_url="https://js.stripe.com/basil/stripe.js", publishable_key="pk_test_sample")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageSample:
    """One page: a name of its own, its template, and what it shows."""

    name: str
    page: str
    shown: Shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One mail: a name of its own, its template, and what it is about."""

    name: str
    template: str
    about: About


def mail_samples() -> Iterator[Sample]:
    """The samples of all mails."""
    for template in mail_templates():
        yield from samples(template)


def samples(template: str) -> Iterator[Sample]:
    """The samples of one template."""
    about = {
        "email_retry_prompt": _prompts,
        "email_reminder": lambda: {"": _FULL, "bare": _BARE},
        "email_alternative": _alternatives,
        "email_canceled": _ends,
        "email_link": lambda: {"": replace(_FULL, link_url=_OURS)},
        "alert_review": _alerts,
    }.get(template, lambda: {"": _FULL})
    for name, one in about().items():
        yield Sample(name="-".join(filter(None, (template, name))), template=template, about=one)


def page_samples() -> Iterator[PageSample]:
    """The samples of all pages: each page in each of its states."""
    several = {"todo": _to_do, "failed": _failures, "processing": _checks, "verified": _results, "limit": _limits}
    for page in PAGES:
        for name, shown in several.get(page, lambda: {"": _SHOWN})().items():
            yield PageSample(name="-".join(filter(None, (page, name))), page=page, shown=shown)


def mail_templates() -> list[str]:
    """The templates of all kinds of action that are mails."""
    return [name for name, kind in KINDS.items() if kind.destination == "mail"]


def _prompts() -> dict[str, About]:
    with_a_link = {f"{code or 'no_code'}": replace(_FULL, code=code) for code in _PROMPTED}
    return with_a_link | {f"{code or 'no_code'}-bare": replace(_BARE, code=code) for code in _PROMPTED}


def _alternatives() -> dict[str, About]:
    codes = _codes_of("email_alternative", CLASSES)
    alternatives = {f"{code}": replace(_FULL, code=code, link_url=_OURS) for code in codes}
    return alternatives | {"bare": replace(_BARE, code=codes[0])}


def _ends() -> dict[str, About]:
    limits = {f"limit-{number}": replace(_FULL, is_at_limit=True, submissions=number) for number in (1, 3)}
    return {"": _FULL, **limits}


def _alerts() -> dict[str, About]:
    codes = [code for code in CLASSES if classify(code) is ErrorClass.FRAUD_SIGNAL]
    limit = replace(_FULL, code="document_unverified_other", is_at_limit=True, will_cancel=True)
    return {code: replace(_FULL, code=code) for code in (*codes, *_UNKNOWN[1:])} | {
        "limit-1": limit,
        "limit-3": replace(limit, submissions=3, verification_id=None, account=None),
        "limit-bare": replace(limit, submissions=3, will_cancel=False, code=None, report_id=None),
    }


def _to_do() -> dict[str, Shown]:
    return {"": _MODAL, "redirect": _SHOWN}


def _failures() -> dict[str, Shown]:
    failed = replace(_MODAL, reason=_FULL.reason, submissions=1)
    prompts = {f"{code or 'no_code'}": replace(failed, code=code) for code in _PROMPTED}
    ends = {code: replace(failed, code=code, action_url=None) for code in CLASSES if code not in prompts}
    return prompts | ends | {"redirect": replace(_SHOWN, code="document_expired")}


def _checks() -> dict[str, Shown]:
    once_more = f"{_SHOWN.status_url}?times=1"
    return {
        "": replace(_SHOWN, word="processing", refresh_url=once_more),
        "not-begun": replace(_SHOWN, verify_url=_HERE),
    }


def _results() -> dict[str, Shown]:
    return {"": _SHOWN, "bare": replace(_SHOWN, continue_url=None)}


def _limits() -> dict[str, Shown]:
    return {f"{number}": replace(_SHOWN, submissions=number) for number in (1, 3)}
