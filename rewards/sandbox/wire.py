"""Values with what they share, as bytes: all that ever leaves a sandbox.

A message is a table of nodes and the one that it is about. Containers are nodes, so that a value that stands in two
places, or in itself, arrives so. An answer goes on with the table of its request: what the request brought has its
number there, and what was changed in it is sent back. What isn't data crosses as a number of its owner's (`Owner`).
"""

from __future__ import annotations

import json
from typing import Any

from lightning_cispo.rewards.sandbox.frames import MAX_FRAME_BYTES
from lightning_cispo.rewards.sandbox.reading import Reader
from lightning_cispo.rewards.sandbox.values import NotPlain, Owner
from lightning_cispo.rewards.sandbox.writing import Writer


class Table:
    """The objects of a request and its answer, by number, with the nodes that described them."""

    def __init__(self, owner: Owner, most_bytes: int = MAX_FRAME_BYTES):
        self.owner, self.most_bytes = owner, most_bytes
        self.objects: list[Any] = []
        self.nodes: list[list[Any]] = []

    def dump(self, value: Any) -> bytes:
        """Raises NotPlain."""
        writer = Writer(self)
        root = writer.ref(value)
        body = json.dumps({"nodes": writer.added, "root": root, "changed": writer.changed()}).encode()
        if len(body) > self.most_bytes - 16:
            raise NotPlain(f"a value of {len(body)} bytes")
        return body

    def load(self, body: bytes) -> Any:
        """Raises NotPlain for whatever `dump` doesn't write."""
        try:
            message = json.loads(body)
            return Reader(self, message["nodes"]).read(message["root"], message["changed"])
        except NotPlain:
            raise
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise NotPlain(f"not plain data: {type(error).__name__}") from None
