"""The headers of every answer to a browser: nobody keeps it, indexes it, takes it for another type, or sees its URL."""

from urllib.parse import urlsplit

from config.settings import settings

NOTHING = "default-src 'none'; frame-ancestors 'none'"  # the policy of all answers but pages
EACH = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}
_YEAR = 365 * 24 * 3600


def headers(scheme: str, policy: str) -> dict[str, str]:
    """The headers of an answer with this content policy.

    No camera policy is among them, and no isolation: either stops Stripe's frame.
    """
    found = {"Content-Security-Policy": policy, **EACH}
    # A proxy that ends TLS before us may say nothing of it.
    is_secure = "https" in (scheme, urlsplit(settings().base_url).scheme)
    return {**found, "Strict-Transport-Security": f"max-age={_YEAR}"} if is_secure else found
