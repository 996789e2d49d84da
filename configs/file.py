"""A whole configuration as a YAML file: written so that it reads back as it was, whatever its texts hold."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_cispo.configs.errors import ConfigError, first_line
from lightning_cispo.configs.keys import type_of, wanted, without_none
from lightning_cispo.configs.schema import RunConfig
from lightning_cispo.configs.words import escaped

_NULL = "tag:yaml.org,2002:null"


def to_yaml(config: RunConfig) -> str:
    """Every key with its value. Texts stand for themselves: nothing in them refers to other keys."""
    return yaml.safe_dump(_plain(config), default_flow_style=False, allow_unicode=True, sort_keys=False)


def read_yaml(path: str | Path) -> DictConfig:
    """The file over the schema's defaults, types converted. Raises ConfigError naming the file and the key."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        return _merged(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {first_line(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _merged(text: str) -> DictConfig:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        given = {} if node is None else _value(loader, node, "")
    finally:
        loader.dispose()
    if not isinstance(given, dict):
        raise ConfigError("must be a mapping of keys to values")
    try:
        return OmegaConf.merge(OmegaConf.structured(RunConfig), given)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(_explained(error)) from None


def _explained(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or "")
    try:
        return f"{key}: must be {wanted(type_of(key))}"
    except ConfigError:  # the key is only the end of one
        return f"{key}: {first_line(error)}".removeprefix(": ")


def _value(loader: yaml.SafeLoader, node: yaml.Node, key: str) -> Any:
    """A node by the declared type of its key: what is declared as text is the text that stands there."""
    kind = without_none(type_of(key)) if key else RunConfig
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node, kind)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, f"{key}.{index}") for index, item in enumerate(node.value)]
    found: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = str(name_node.value)
        if name in found:
            raise ConfigError(f"{key}.{name}".lstrip(".") + ": stands there twice")
        found[name] = _value(loader, value_node, f"{key}.{name}".lstrip("."))
    return found


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, kind: Any) -> Any:
    if get_origin(kind) is list and node.tag != _NULL and without_none(get_args(kind)[0]) is str:
        return [escaped(node.value)]  # one text is a list of one
    if kind is str and node.tag != _NULL:
        return escaped(node.value)
    value = loader.construct_object(node)
    return escaped(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
