"""What every answer to a browser carries: nobody keeps it, indexes it, takes it for another type, or learns whence."""

from urllib.parse import urlsplit

from config.settings import settings

NOTHING = "default-src 'none'; frame-ancestors 'none'"  # of what is no page
EACH = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
}
_YEAR = 365 * 24 * 3600


def headers(scheme: str, policy: str) -> dict[str, str]:
    """Of every answer, with a policy of what it may load.

    No camera policy is among them, and no isolation: either stops Stripe's frame.
    """
    found = {"Content-Security-Policy": policy, **EACH}
    # What ends TLS before us may say nothing of it.
    is_secure = "https" in (scheme, urlsplit(settings().base_url).scheme)
    return {**found, "Strict-Transport-Security": f"max-age={_YEAR}"} if is_secure else found
