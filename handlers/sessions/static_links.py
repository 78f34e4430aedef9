"""Addresses of static links, which the Dashboard makes for a verification flow: STATIC_LINKS names them."""

from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from config.settings import settings
from handlers.sessions.views import NotFoundError


def static_link(name: str, client_reference_id: str, email: str | None) -> str:
    """The link of this name for one person; its own query and fragment stay.

    Raises NotFoundError for a name that STATIC_LINKS does not know. docs.stripe.com/identity/verification-flows names
    the two parameters.
    """
    url = dict(link.partition("=")[::2] for link in settings().static_links).get(name)
    if url is None:
        raise NotFoundError
    given = {"client_reference_id": client_reference_id, "prefilled_email": email}
    theirs = urlencode({key: value for key, value in given.items() if value}, quote_via=quote)
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=f"{parts.query}&{theirs}".lstrip("&")))
