"""The version of the service that runs."""

from config.settings import running_commit

SERVICE = "identity-events"
VERSION = "0.1.0"  # pyproject.toml says the same; the service is never installed, so nothing else could tell


def running_version() -> str:
    """One line for people: identity-events 0.1.0 (1a2b3c4), without the brackets where no commit is known."""
    commit = running_commit()
    return f"{SERVICE} {VERSION} ({commit})" if commit else f"{SERVICE} {VERSION}"
