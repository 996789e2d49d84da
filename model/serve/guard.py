"""Refuse requests that should not reach a route: without the key, for another host, or with another content type."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from lightning_cispo.model.serve.errors import error_body

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def guard(key: str | None, hosts: Sequence[str]) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """Make the middleware.

    key: what `Authorization: Bearer` must bring; None: nothing. hosts: names that the Host header may have; empty: any.
    A page in a browser can reach loopback under a name of its own (DNS rebinding): its Host header gives it away.
    """

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        if hosts and _hostname(request.host) not in hosts:
            return _refusal(421, f"Host: {request.host}: this server answers to {', '.join(hosts)}")
        if key is not None and request.path != "/health" and not _brings(request, key):
            return _refusal(401, "Authorization: must be Bearer with this server's key", {"WWW-Authenticate": "Bearer"})
        if request.method == "POST" and request.content_type != "application/json":
            return _refusal(415, "Content-Type: must be application/json")
        return await handler(request)

    return checked


def _hostname(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _brings(request: web.Request, key: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    code = "invalid_api_key" if status == 401 else None
    return web.json_response(error_body(message, status, None, code), status=status, headers=headers)
