"""From command line or run folder to a checked `RunConfig`. Needs neither torch nor Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from lightning_cispo.configs.check import check
from lightning_cispo.configs.errors import ConfigError, refusals
from lightning_cispo.configs.keys import refuse_unknown, type_of, wanted
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.configs.usage import FOLDER, groups, usage
from lightning_cispo.configs.warn import warnings

# What may change when a run goes on; all else would make it another run.
RESUMABLE = ("resume", "dry_run", "steps", "tracking", "cluster", "evaluation", "checkpoints")

ConfigStore.instance().store(name="run_schema", node=RunConfig)


def load_config(overrides: Sequence[str], data_shorthand: bool = False) -> RunConfig:
    """Compose configs/config.yaml with Hydra overrides (`model=small`, `steps=20`).

    With `resume=<run folder>` the folder's config.yaml is the base instead. `data_shorthand` reads
    `data=<file or hub name>` as what to evaluate on. Raises ConfigError.
    """
    parsed = [_parse(text) for text in (_file_data(overrides) if data_shorthand else overrides)]
    resume = [override.value() for override in parsed if override.key_or_group == "resume"]
    if resume and resume[-1] is not None:
        return _resumed(str(resume[-1]), parsed)
    lines = [f"{override.key_or_group}={override.get_value_element_as_str()}" for override in parsed]
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return _checked(lambda: compose("config", lines), lines, trains=not data_shorthand)


def load_yaml(path: str | Path) -> RunConfig:
    """A whole configuration from one file, as `to_yaml` writes it. Raises ConfigError."""
    return _checked(lambda: _merged(path), trains=False)


def to_yaml(config: RunConfig) -> str:
    """Every key with its value, as YAML that `load_yaml` reads."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def main_config(
    command: str,
    arguments: Sequence[str] | None,
    *preflight: Callable[[RunConfig], None],
    data_shorthand: bool = False,
) -> RunConfig:
    """A program's configuration. Prints help, warnings, or one `error:` line with exit code 2, whichever is due.

    `command` is its name in the help. Without `arguments` those of the command line count. `preflight` are further
    checks, which raise ConfigError.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(usage(command))
        raise SystemExit(0)
    with refusals():
        config = load_config(arguments, data_shorthand)
        for checked in preflight:
            checked(config)
    for warning in warnings(config):
        print(f"warning: {warning}", file=sys.stderr)
    return config


def _file_data(overrides: Sequence[str]) -> list[str]:
    """`data=<file>` -> `data.eval=<file>`, with the group for files unless an experiment has chosen one."""
    chosen = any(text.startswith("experiment=") for text in overrides)
    written: list[str] = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key != "data" or value in groups()["data"]:
            written.append(text)
        else:
            written += [f"data.eval={value}"] if chosen else ["data=file", f"data.eval={value}"]
    return written


def _parse(text: str) -> Override:
    if text.startswith("-"):
        raise ConfigError(f"unknown option {text}: settings are written key=value, without dashes; --help lists them")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        raise ConfigError(
            f"{text}: must read key=value; put a value with special characters in quotes of its own: 'key=\"value\"'"
        ) from None
    key, options = override.key_or_group, groups()
    if override.is_delete():
        raise ConfigError(f"{text}: keys can't be taken away; set one to null where it may be empty")
    if override.is_sweep_override():
        raise ConfigError(f"{text}: one run takes one value; a list goes in brackets: {key}=[...]")
    if key in options:
        if override.value() not in options[key]:
            raise ConfigError(f"{text}: must be one of {', '.join(options[key])}")
    else:
        type_of(key)
        refuse_unknown(override.value(), f"{key}.")
    override.type = OverrideType.CHANGE  # a `+` adds nothing where every key exists
    return override


def _merged(path: str | Path) -> DictConfig:
    try:
        given = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except Exception as error:  # the YAML library has no common base class for what it finds malformed
        raise ConfigError(f"{path}: not YAML: {_first_line(error)}") from None
    try:
        refuse_unknown(OmegaConf.to_container(given))
        return OmegaConf.merge(OmegaConf.structured(RunConfig), given)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_explained(error, ())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _resumed(folder: str, overrides: list[Override]) -> RunConfig:
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"resume={folder}: must be the folder of a run; there is no {path / 'config.yaml'}")

    def build() -> DictConfig:
        stored = _merged(path / "config.yaml")
        for override in overrides:
            key = override.key_or_group
            if key in groups():
                raise ConfigError(f"{override.input_line}: a resumed run keeps its configuration; leave {key} out")
            before = OmegaConf.select(stored, key)
            OmegaConf.update(stored, key, override.value())
            if OmegaConf.select(stored, key) != before and key.split(".")[0] not in RESUMABLE:
                raise ConfigError(
                    f"{override.input_line}: can't change when a run is resumed (it has {before}); "
                    f"these can: {', '.join(RESUMABLE[1:])}"
                )
        stored.runs_dir, stored.name = str(path.resolve().parent), path.resolve().name
        return stored

    return _checked(build, [str(override.input_line) for override in overrides])


def _checked(build: Callable[[], DictConfig], overrides: Sequence[str] = (), trains: bool = True) -> RunConfig:
    """Build, convert to plain objects, check; every way of being wrong leaves as a ConfigError."""
    try:
        composed = build()
        refuse_unknown(OmegaConf.to_container(composed))
        config: Any = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error, overrides)) from None
    check(config, trains)
    return config


def _explained(error: BaseException, overrides: Sequence[str]) -> str:
    """One line out of Hydra's and OmegaConf's nested ones: the key, the value given, what it must be."""
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "full_key", None):
        cause = cause.__cause__ or cause.__context__
    if cause is None or isinstance(cause, InterpolationResolutionError):
        return f"{cause.full_key}: {_first_line(cause)}" if cause else _first_line(error)
    key = str(cause.full_key)  # type: ignore[attr-defined]
    given = next((line for line in reversed(overrides) if line.startswith(f"{key}=")), None)
    if given is None:  # inside a list or mapping, or in a file
        given = next((line for line in overrides if line in str(error)), "")
        given = f"{given}: {key}" if given else key
    try:
        return f"{given}: must be {wanted(type_of(key))}"
    except ConfigError:  # the key is only the end of one
        return f"{given}: {_first_line(cause)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
