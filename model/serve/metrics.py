"""Count requests and tokens for Prometheus, and log a line a request. No text of a request or an answer is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lightning_cispo.model.generation.pages import PagePool
from lightning_cispo.model.serve.runner import Runner

logger = logging.getLogger(__name__)
COUNTED = web.RequestKey("tokens", dict[str, int])  # of a request: prompt and completion tokens
_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, float("inf"))


def _pool(runner: Runner) -> PagePool:
    return runner.engine.table.pool


class Metrics:
    """One registry a server; `middleware` counts and logs, `page` is the route."""

    def __init__(self, runner: Runner):
        self.registry = CollectorRegistry()
        labels = ("route", "status")
        self._requests = Counter("cispo_requests", "requests answered", labels, registry=self.registry)
        self._seconds = Histogram(
            "cispo_request_seconds",
            "from arrival to the last byte",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter("cispo_tokens", "tokens read (prompt) and sampled", ("kind",), registry=self.registry)
        self._gauge("cispo_open_requests", "requests not yet answered", lambda: runner.open_requests)
        self._gauge("cispo_running_sequences", "sequences in decoding slots", lambda: runner.engine.running)
        self._gauge("cispo_slots", "decoding slots", lambda: runner.engine.slots)
        self._gauge(
            "cispo_kv_blocks_in_use",
            "blocks of keys and values in use",
            lambda: _pool(runner).total - _pool(runner).available,
        )
        self._gauge("cispo_kv_blocks", "blocks of keys and values in all", lambda: _pool(runner).total)

    def _gauge(self, name: str, text: str, value: Callable[[], int]) -> None:
        Gauge(name, text, registry=self.registry).set_function(value)

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": "text/plain; version=0.0.4"})

    def middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def counted(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            began, status = time.monotonic(), 499  # what stays where the client leaves
            try:
                response = await handler(request)
                status = response.status
                return response
            finally:
                self._record(request, status, time.monotonic() - began)

        return counted

    def _record(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "unknown"
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        tokens = request.get(COUNTED, {})
        for kind, count in tokens.items():
            self._tokens.labels(kind).inc(count)
        if route not in ("/health", "/metrics"):
            counts = "".join(f" {kind}={count}" for kind, count in tokens.items())
            logger.info("%s %s %s%s %.3f s", request.method, route, status, counts, seconds)
