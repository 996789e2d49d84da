"""Keep a key out of everything but the one header that it belongs in."""

from __future__ import annotations

import base64
import json
import os
import re
from urllib.parse import quote

_SENDABLE = re.compile(r"[\x21-\x7e]+")  # printable ASCII: anything else breaks the header, or is a paste's accident
_REDACTED = "[redacted]"


class Secret:
    """Hold the value of an environment variable, without the blanks around it. Its repr does not show it."""

    def __init__(self, variable: str):
        self.variable = variable
        self._value = os.environ.get(variable, "").strip()

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Secret({self.variable!r})"

    def problem(self) -> str | None:
        """Return why the value cannot be sent in a header, without showing it, or None."""
        if not self._value or _SENDABLE.fullmatch(self._value):
            return None
        return f"the value of ${self.variable} holds blanks, line breaks or characters beyond ASCII"

    def bearer(self) -> dict[str, str]:
        """Return the header to send. Raises ValueError for a value that no header can hold."""
        if problem := self.problem():
            raise ValueError(problem)
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def redact(self, text: str) -> str:
        """Return `text` without the value, as it is or as JSON, a URL or base64 spell it."""
        if not self._value:
            return text
        value = self._value
        spellings = {value, json.dumps(value)[1:-1], quote(value, safe=""), base64.b64encode(value.encode()).decode()}
        for spelling in sorted(spellings, key=len, reverse=True):
            text = text.replace(spelling, _REDACTED)
        return text
