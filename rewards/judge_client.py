"""Ask an OpenAI-compatible endpoint for one reply, by a deadline for all of it.

The key goes into one header of requests to the configured host and nowhere else: redirects are not followed, a proxy is
used only below TLS, and what the endpoint says is redacted before anybody reads it.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lightning_cispo.rewards.judge_options import JudgeOptions
from lightning_cispo.rewards.secret import Secret

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

_MAX_REPLY_BYTES = 1 << 20
_MAX_SHOWN_CHARS = 300
_RETRIED = (408, 409, 425, 429)


class JudgeError(Exception):
    """There is no verdict: the endpoint failed, or the budget is spent."""


class RetryableError(Exception):
    """An attempt failed, and the next may not. `wait_s`: seconds to wait before it, if the endpoint said so."""

    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s


class JudgeClient:
    """Belongs to one event loop, and is closed there."""

    def __init__(self, options: JudgeOptions):
        self.options = options
        self.url = f"{options.url.rstrip('/')}/chat/completions"
        self._session: ClientSession | None = None

    async def ask(self, prompt: str, timeout_s: float) -> str:
        """Return the reply's text. Raises RetryableError and JudgeError."""
        import aiohttp

        key = Secret(self.options.key_variable)
        try:
            headers = {"Accept-Encoding": "identity", **key.bearer()}
        except ValueError as error:
            raise JudgeError(str(error)) from None
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self.options.concurrency, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.options.max_tokens,
        }
        try:
            async with self._session.post(
                self.url,
                data=json.dumps(body).encode(),
                headers={"Content-Type": "application/json", **headers},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
                proxy=_proxy(self.url),
            ) as reply:
                content = await _read(reply)
                return _content(content) if 200 <= reply.status < 300 else _refused(reply, content, key)
        except asyncio.TimeoutError:
            raise RetryableError(f"no reply within {timeout_s:.3g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RetryableError(key.redact(f"{type(error).__name__}: {error}")[:_MAX_SHOWN_CHARS]) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _proxy(url: str) -> str | None:
    """The environment's proxy for a TLS endpoint. Without TLS it could read the key."""
    parts = urlsplit(url)
    if parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get("https")


async def _read(reply: ClientResponse) -> bytes:
    found = b""
    async for part in reply.content.iter_chunked(1 << 16):
        found += part
        if len(found) > _MAX_REPLY_BYTES:
            raise RetryableError(f"a reply of more than {_MAX_REPLY_BYTES} bytes")
    return found


def _refused(reply: ClientResponse, content: bytes, key: Secret) -> str:
    """Raise what a status that is no success means."""
    if reply.status in _RETRIED or reply.status >= 500:
        wait = reply.headers.get("Retry-After", "")
        raise RetryableError(f"HTTP {reply.status}", float(wait) if wait.isdecimal() else None)
    if 300 <= reply.status < 400:
        host = key.redact(urlsplit(reply.headers.get("Location", "")).netloc)[:_MAX_SHOWN_CHARS]
        raise JudgeError(f"HTTP {reply.status}: a redirect to {host or 'the same host'} is not followed; name its URL")
    text = " ".join(key.redact(content.decode("utf-8", "replace")).split())
    raise JudgeError(f"HTTP {reply.status}: {text[:_MAX_SHOWN_CHARS]}")


def _content(body: bytes) -> str:
    content: Any
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (IndexError, KeyError, RecursionError, TypeError, ValueError):
        raise RetryableError("a malformed reply") from None
    if not isinstance(content, str) or not content.strip():
        raise RetryableError("an empty reply")
    return content
