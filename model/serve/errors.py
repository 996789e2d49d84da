"""What a client is told when its request can't be served, in OpenAI's shape."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

logger = logging.getLogger(__name__)
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 100


class RequestError(Exception):
    """A refusal with its HTTP status."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def body(self) -> dict[str, Any]:
        return error_body(str(self), self.status, self.param, self.code)


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def shown(value: Any) -> str:
    """A client's value for a message: cut where it is long or deep."""
    return _short.repr(value)


def told(error: Exception) -> RequestError:
    """What the client is told of an exception. One that is no RequestError is a fault of the server, and logged."""
    if isinstance(error, RequestError):
        return error
    logger.error("a request failed", exc_info=error)
    return RequestError("the server failed at this request", status=500)


@web.middleware
async def in_shape(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every refusal and failure in OpenAI's shape."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        said = f"{request.method} {request.path}: {error.reason}"
        return web.json_response(error_body(said, error.status), status=error.status)
    except ConnectionError:  # the client has left: nobody reads this
        return web.Response(status=499)
    except Exception as error:
        refusal = told(error)
        return web.json_response(refusal.body(), status=refusal.status)
