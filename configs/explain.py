"""Say in one line, naming the key, what Hydra and OmegaConf say in nested exceptions."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf.errors import GrammarParseError, InterpolationResolutionError

from lightning_cispo.configs.errors import ConfigError, first_line
from lightning_cispo.configs.keys import type_of, wanted


def explained(error: BaseException, overrides: Sequence[str]) -> str:
    """The key, the value given in `overrides`, and what it must be."""
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "full_key", None):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause or error, (InterpolationResolutionError, GrammarParseError)):
        named = f"{cause.full_key}: " if cause else ""  # type: ignore[attr-defined]
        return f"{named}{first_line(cause or error)}; for the text itself write \\${{"
    if cause is None:
        return first_line(error)
    key = str(cause.full_key)  # type: ignore[attr-defined]
    given = next((line for line in reversed(overrides) if line.lstrip("+").startswith(f"{key}=")), None)
    if given is None:  # inside a list or mapping, or in a file
        given = next((line for line in overrides if key.startswith(line.lstrip("+").partition("=")[0] + ".")), "")
        given = f"{given}: {key}" if given else key
    try:
        return f"{given}: must be {wanted(type_of(key))}"
    except ConfigError:  # the key is only the end of one
        return f"{given}: {first_line(cause)}"
