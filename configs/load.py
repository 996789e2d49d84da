"""From command line or run folder to a checked `RunConfig`. Needs neither torch nor Ray."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_cispo.configs.check import check
from lightning_cispo.configs.errors import ConfigError, first_line, refusals, require
from lightning_cispo.configs.evaluation import drop_training_data, take_over
from lightning_cispo.configs.explain import explained
from lightning_cispo.configs.file import read_yaml, to_yaml
from lightning_cispo.configs.keys import refuse_unknown, type_of, wanted
from lightning_cispo.configs.resume import CHANGEABLE, changed_rates, may_change
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.configs.usage import FOLDER, groups, usage
from lightning_cispo.configs.warn import warnings
from lightning_cispo.configs.words import Sweep, value_of

__all__ = ["load_config", "load_yaml", "main_config", "to_yaml"]

_HELP = {"-h", "--help"}
_KEY = re.compile(r"\+{0,2}([A-Za-z_][\w.\[\]]*)")

ConfigStore.instance().store(name="run_schema", node=RunConfig)


class Setting(NamedTuple):
    """One `key=value` of the command line."""

    typed: str
    key: str
    value: Any  # a group's option, or the value by the key's type


def load_config(overrides: Sequence[str], data_shorthand: bool = False) -> RunConfig:
    """Compose configs/config.yaml with overrides (`model=small`, `steps=20`); the last of a key counts.

    With `resume=<run folder>` the folder's config.yaml is the base instead. `data_shorthand` is an evaluation's: it
    reads `data=<file or hub name>` as what to evaluate on, and takes over what the checkpoint's run has (see
    configs/evaluation.py). Raises ConfigError.
    """
    config, _ = _composed(overrides, data_shorthand)
    check(config, trains=not data_shorthand or config.resume is not None)
    return config


def load_yaml(path: str | Path) -> RunConfig:
    """A whole configuration from one file, as `to_yaml` writes it. Raises ConfigError."""
    config = _plain(lambda: read_yaml(path), ())
    check(config, trains=False)
    return config


def main_config(
    command: str,
    arguments: Sequence[str] | None,
    *preflight: Callable[[RunConfig], None],
    data_shorthand: bool = False,
    packages: Sequence[str] = (),
) -> RunConfig:
    """A program's configuration. Prints help, warnings, or one `error:` line with exit code 2, whichever is due.

    `command` is its name in the help. Without `arguments` those of the command line count. `preflight` are further
    checks, which raise ConfigError; before them `packages` must be installed.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with refusals():
        if _HELP & set(arguments):
            print(_help(command, arguments, data_shorthand))
            raise SystemExit(0)
        config, notes = _composed(arguments, data_shorthand)
        trains = not data_shorthand or config.resume is not None
        check(config, trains)
        require(command, *packages)
        for checked in preflight:
            checked(config)
    for warning in [*notes, *warnings(config, trains)]:
        print(f"warning: {warning}", file=sys.stderr)
    return config


def _help(command: str, arguments: Sequence[str], data_shorthand: bool) -> str:
    """The help, or of `--help algorithm` that section, with the values that the other arguments make."""
    sections = [text for text in arguments if "=" not in text and not text.startswith("-")]
    config, _ = _composed([text for text in arguments if text not in _HELP and text not in sections], data_shorthand)
    return usage(command, config, sections)


def _composed(overrides: Sequence[str], data_shorthand: bool) -> tuple[RunConfig, list[str]]:
    """The configuration without the checks of its values, and what to warn of."""
    settings = [_parse(text) for text in (_file_data(overrides) if data_shorthand else overrides)]
    resume = [setting.value for setting in settings if setting.key == "resume"]
    if resume and resume[-1]:
        return _resumed(str(resume[-1]), settings)
    chosen = [f"{setting.key}={setting.value}" for setting in settings if setting.key in groups()]

    def build() -> DictConfig:
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            composed = compose("config", chosen)
        if data_shorthand:
            take_over(composed, {setting.key: setting.value for setting in settings})
        for setting in settings:
            if setting.key not in groups():
                OmegaConf.update(composed, setting.key, setting.value)
        if data_shorthand:
            drop_training_data(composed)
        return composed

    return _plain(build, settings), []


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


def _parse(text: str) -> Setting:
    if text.startswith("-"):
        raise ConfigError(f"unknown option {text}: settings are written key=value, without dashes; --help lists them")
    if text.startswith("~"):
        raise ConfigError(f"{text}: keys can't be taken away; set one to null where it may be empty")
    written, equals, value = text.partition("=")
    found = _KEY.fullmatch(written)
    if not found or not equals:
        raise ConfigError(f"{text}: must read key=value, such as steps=20")
    key, options = found[1], groups()
    if key in options:
        if value not in options[key]:
            raise ConfigError(f"{text}: must be one of {', '.join(options[key])}")
        return Setting(text, key, value)
    kind = type_of(key)
    try:
        setting = Setting(text, key, value_of(value, kind))
    except Sweep:
        raise ConfigError(f"{text}: one run takes one value; a list goes in brackets: {key}=[...]") from None
    except ValueError as error:
        raise ConfigError(f"{text}: must read key=value with {wanted(kind)}: {first_line(error)}") from None
    refuse_unknown(setting.value, f"{key}.")
    return setting


def _resumed(folder: str, settings: list[Setting]) -> tuple[RunConfig, list[str]]:
    path = Path(folder)
    if path.resolve().parent.name == "checkpoints":  # an earlier checkpoint of the run
        path = path.resolve().parent.parent
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"resume={folder}: must be the folder of a run; there is no {path / 'config.yaml'}")
    changed: dict[str, tuple[object, object]] = {}

    def build() -> DictConfig:
        stored = read_yaml(path / "config.yaml")
        for setting in settings:
            if setting.key in groups():
                raise ConfigError(f"{setting.typed}: a resumed run keeps its configuration; leave {setting.key} out")
            before = OmegaConf.select(stored, setting.key)
            OmegaConf.update(stored, setting.key, setting.value)
            now = OmegaConf.select(stored, setting.key)
            if now == before or setting.key == "resume":
                continue
            if not may_change(setting.key):
                raise ConfigError(
                    f"{setting.typed}: can't change when a run is resumed (it has {before}); "
                    f"these can: {', '.join(CHANGEABLE)}"
                )
            changed[setting.key] = before, now
        stored.runs_dir, stored.name = str(path.resolve().parent), path.resolve().name
        return stored

    config = _plain(build, settings)
    return config, changed_rates(changed)


def _plain(build: Callable[[], DictConfig], settings: Sequence[Setting]) -> RunConfig:
    """Build and convert to plain objects; every way of being wrong leaves as a ConfigError."""
    try:
        composed = build()
        refuse_unknown(OmegaConf.to_container(composed))
        config: Any = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error, [setting.typed for setting in settings])) from None
    return config
