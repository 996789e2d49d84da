"""A headless Chromium driven over its DevTools pipe: pages, scripts in them, screenshots, requests they make."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from lightning_cispo.train.report.screenshot import FLAGS


class Browser:
    """One page. `requests` and `errors` collect every URL asked for and every uncaught error."""

    def __init__(self, binary: str, profile: Path) -> None:
        commands_read, self._write = os.pipe()
        self._read, events_write = os.pipe()
        # The protocol's fixed descriptors: commands on 3, events on 4.
        command = f'exec "$@" 3<&{commands_read} 4>&{events_write}'
        flags = [*FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", binary, *flags],
            pass_fds=(commands_read, events_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_read)
        os.close(events_write)
        self._buffer, self._count, self._session = b"", 0, None
        self._loaded = False
        self.requests: list[str] = []
        self.errors: list[str] = []
        pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        target = pages[0]["targetId"] if pages else self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("id") == self._count:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']['message']}")
                return reply["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise RuntimeError("the browser has gone")
            self._buffer += piece
        text, self._buffer = self._buffer.split(b"\0", 1)
        event = json.loads(text)
        parameters = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(parameters["exceptionDetails"].get("exception", {}).get("description", "?"))
            case "Log.entryAdded":
                if parameters["entry"]["level"] == "error":
                    self.errors.append(parameters["entry"]["text"])
        return event

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False, query: str = "") -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri() + query)
        while not self._loaded:
            self._next()
        self.frame()

    def frame(self) -> None:
        """Waits until what a script changed is laid out and drawn."""
        self("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def __call__(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression, promises awaited. Raises RuntimeError where it throws."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(reply["exceptionDetails"]["exception"]["description"])
        return reply["result"].get("value")

    def hover(self, selector: str, share: float) -> None:
        """Moves the pointer over an element, `share` of its width from its left."""
        box = f"document.querySelector({json.dumps(selector)})"
        self(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        left, top, width, height = self(
            f"(() => {{ const b = {box}.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }})()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + share * width, y=top + height / 2)
        self.frame()

    def screenshot(self, path: Path, full: bool = True) -> None:
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(image["data"]))

    def close(self) -> None:
        os.close(self._write)
        self._process.wait(timeout=30)
        os.close(self._read)
