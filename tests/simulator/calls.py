"""One API call: its key, account, mode and parameters."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from tests.simulator import errors, forms, ids, keys, rendering
from tests.simulator.events import Cause
from tests.simulator.settings import API_VERSION
from tests.simulator.store import PLATFORM, Json, Scope
from tests.simulator.world import World

SENSITIVE = "identity_verification_results_sensitive_read"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """The parts of a request that a route needs."""

    world: World
    method: str
    path: str
    path_params: dict[str, str]
    params: Json
    key: str
    scope: Scope
    request_id: str
    idempotency_key: str | None
    version: str
    port: int  # the caller's
    is_disconnected: Callable[[], Awaitable[bool]]

    @property
    def cause(self) -> Cause:
        return Cause(self.request_id, self.idempotency_key)

    def require(self, permission: str) -> None:
        self.world.keys.require(self.key, self.scope.account, permission)

    def expand(self, known: set[str], prefix: str = "") -> list[str]:
        """The checked paths to expand; in a list they start with `data.`."""
        asked = self.params.get("expand") or []
        paths = [str(path) for path in (asked if isinstance(asked, list) else [asked])]
        for path in paths:
            if not path.startswith(prefix):
                raise errors.not_expandable(path)
        paths = [path.removeprefix(prefix) for path in paths]
        sensitive = keys.is_restricted(self.key) and self.world.keys.allows(self.key, SENSITIVE)
        rendering.check_paths(paths, known, key=self.key, account=self.scope.account, may_see_sensitive=sensitive)
        return paths


async def read(world: World, request: Request, request_id: str) -> Call:
    """Reads a call. Raises ApiError for a bad key, an account out of reach or a body that is not readable."""
    key = world.keys.authenticate(request.headers.get("authorization"))
    return Call(
        world=world,
        method=request.method,
        path=request.url.path,
        path_params=dict(request.path_params),
        params=await _params(request),
        key=key,
        scope=_scope(world, request, key),
        request_id=request_id,
        idempotency_key=request.headers.get("idempotency-key"),
        version=request.headers.get("stripe-version", API_VERSION),
        port=request.client.port if request.client else 0,
        is_disconnected=request.is_disconnected,
    )


def _scope(world: World, request: Request, key: str) -> Scope:
    named = request.headers.get("stripe-context") or request.headers.get("stripe-account") or PLATFORM
    account = named.rsplit("/", 1)[-1]
    if not account.startswith("acct_") or account in world.keys.without_account:
        raise errors.account_not_reachable(key, account)
    return Scope(account, keys.is_live(key))


async def _params(request: Request) -> Json:
    params = forms.decode(request.url.query)
    body = await request.body()
    if not body:
        return params
    if request.headers.get("content-type", "").startswith("application/json"):
        return params | _json(body)
    try:
        return params | forms.decode(body.decode())
    except UnicodeDecodeError as error:
        raise errors.ApiError(400, "Invalid request: the body is not UTF-8.") from error


def _json(body: bytes) -> dict[str, Any]:
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.ApiError(400, "Invalid request: the body is not JSON.") from error
    if not isinstance(decoded, dict):
        raise errors.ApiError(400, "Invalid request: the body is not a hash.")
    return decoded


def new_request_id() -> str:
    return f"req_{ids.token(14)}"
