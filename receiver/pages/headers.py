"""The bounds of a page in a browser: it loads only our files and, with the button, Stripe's."""

import re
from urllib.parse import urlsplit

from starlette.requests import Request

from config.settings import LOOPBACK, settings

_STRIPE_JS = "https://js.stripe.com"
_AND_BELOW = "https://*.js.stripe.com"  # docs.stripe.com/security/guide
_HOOKS, STRIPES_PAGES, _STRIPES_API = "https://hooks.stripe.com", "https://verify.stripe.com", "https://api.stripe.com"
PLAIN = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ASSET = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # for an image that is opened by itself
_PORTS = {"https": ":443", "http": ":80"}


def entering() -> str:
    """The policy of the page with the button.

    Chromium applies form-action also to the redirect by which a form is answered, so Stripe's pages stand in it.
    """
    here, script = _local_stripe(), origin(settings().stripe_js_url.get_secret_value())
    scripts = (script, _AND_BELOW) if script == _STRIPE_JS else (script,)
    more = (*here, *settings().csp_extra)
    sources = {
        "default-src": ("'none'",),
        "script-src": ("'self'", *scripts, *here),
        "frame-src": (*scripts, _HOOKS, STRIPES_PAGES, *more),
        "connect-src": ("'self'", _STRIPES_API, *more),
        "style-src": ("'self'",),
        "img-src": ("'self'",),
        "form-action": ("'self'", STRIPES_PAGES, *more),
        "base-uri": ("'none'",),
        "frame-ancestors": ("'none'",),
    }
    return "; ".join(f"{name} {' '.join(dict.fromkeys(allowed))}" for name, allowed in sources.items())


def leads_to_stripe(url: object) -> bool:
    """Whether a redirect may go there: to Stripe's own pages, those of a local Stripe, or an origin of CSP_EXTRA."""
    if not isinstance(url, str) or not re.fullmatch(r"[!-\[\]-~]+", url):  # a browser reads other letters as it likes
        return False
    # rule: nobody is sent to another place than Stripe's own
    return origin(url) in (STRIPES_PAGES, *_local_stripe(), *map(origin, settings().csp_extra))


def origin(url: str) -> str:
    """`https://host:port` of an address, without its scheme's usual port; "" if it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in _PORTS or not parts.netloc:
        return ""
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(_PORTS[parts.scheme])}"


def _local_stripe() -> tuple[str, ...]:
    base = settings().stripe_api_base.get_secret_value()
    # rule: a live key knows no other Stripe than the real one
    is_local = urlsplit(base).hostname in LOOPBACK and not settings().livemode
    return (origin(base),) if is_local else ()


def is_foreign(request: Request) -> bool:
    """Whether another site's page sends this. Without these headers it may pass: the link itself is the right to post.

    Our pages send no referrer, and so browsers call their origin `null`. No script can set Sec-Fetch-Site, so it is
    believed under every host name by which a browser reaches us.
    """
    site, sender = request.headers.get("sec-fetch-site"), request.headers.get("origin", "null").lower()
    ours = ("null", origin(settings().base_url), origin(str(request.url)))
    # rule: another site's page posts nothing here
    return site != "same-origin" and (site not in (None, "none") or (origin(sender) or sender) not in ours)
