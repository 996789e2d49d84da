"""Exceptions that cross from one sandbox to the other."""

from __future__ import annotations

from typing import Any

from lightning_cispo.rewards.sandbox.values import CLASSES

MAX_ERROR_CHARS = 500


class Gone(BaseException):
    """The other side can't be asked any more. No `except Exception` of a test swallows it."""


class Raised(Exception):
    """The other side raised what is no exception here, or returned what can't be sent."""


def rebuilt(kind: Any, args: list[Any], attributes: dict[str, Any], text: str) -> BaseException:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise TypeError("no exception")
    if kind in CLASSES:
        return kind(*args)
    error = kind.__new__(kind, *args)
    error.args = tuple(args)
    error.__dict__.update({str(name): value for name, value in attributes.items()}, _text=text.partition(": ")[2])
    return error


def spoken(error: Any) -> str:
    return str(error.__dict__.get("_text", "")) or BaseException.__str__(error)


def describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    except BaseException:
        return type(error).__name__[:MAX_ERROR_CHARS]
