"""`cispo serve checkpoint=runs/quickstart`: answers OpenAI's protocol, on loopback unless told otherwise."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_cispo.configs.errors import ConfigError, refusals, require
from lightning_cispo.configs.schema import Precision, ServeConfig
from lightning_cispo.configs.settings import read_settings
from lightning_cispo.configs.usage import settings_usage
from lightning_cispo.model.folders import weights_folder
from lightning_cispo.model.hf_config import CheckpointError, read_config

if TYPE_CHECKING:
    from lightning_cispo.model.serve.app import Server

_SHUTDOWN_S = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal ends it. `arguments` are those of the command line unless given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with refusals():
        if asked := {"-h", "--help"} & set(given):
            typed = [argument for argument in given if argument not in asked]
            print(settings_usage("cispo serve", read_settings(ServeConfig, typed)))
            return
        config = settings(given)
        require("cispo serve", "torch", "aiohttp", "transformers", "safetensors")
        server = build(config)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_is_no_clients_fault)
    reserved = server.runner.engine.reserved
    megabytes = (reserved["state_bytes"] + reserved["kv_bytes"]) >> 20
    print(f"{config.slots} slots and {reserved['kv_tokens']} tokens of keys reserved: {megabytes} MiB", flush=True)
    with refusals():
        serve(server, config)


def _is_no_clients_fault(record: logging.LogRecord) -> bool:
    """aiohttp logs malformed HTTP, which its clients are told of, as if the server had failed."""
    from aiohttp import web
    from aiohttp.http_exceptions import HttpProcessingError

    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError))


def serve(server: Server, config: ServeConfig) -> None:
    """Until a signal ends it. Raises ConfigError for an address that can't be had."""
    from aiohttp import web

    try:
        # handler_cancellation: a client that leaves takes its request with it. The timeout, which is waited for twice,
        # is for clients that don't read how their requests ended.
        web.run_app(
            server.app, host=config.host, port=config.port, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
        )
    except OSError as error:
        raise ConfigError(f"port={config.port} host={config.host}: {error.strerror or error}") from None


def settings(arguments: list[str]) -> ServeConfig:
    """The settings of a command line of key=value. Raises ConfigError."""
    config = read_settings(ServeConfig, arguments)
    if config.checkpoint is None:
        raise ConfigError("checkpoint=null: name a folder in Hugging Face's format, or a run's")
    for key in ("slots", "max_length", "prefill_tokens", "repetition_tokens", "max_waiting", "max_body_mb"):
        if getattr(config, key) < 1:
            raise ConfigError(f"{key}={getattr(config, key)}: must be at least 1")
    for key in ("kv_tokens", "threads", "port", "max_prompt_chars"):
        if getattr(config, key) < 0:
            raise ConfigError(f"{key}={getattr(config, key)}: must be at least 0")
    if not 0 < config.repetition_probability <= 1:
        raise ConfigError(f"repetition_probability={config.repetition_probability}: must be above 0 and at most 1")
    if config.port > 65535:
        raise ConfigError(f"port={config.port}: must be at most 65535")
    server_key(config)
    return config


def server_key(config: ServeConfig) -> str | None:
    """The bearer key, from the environment. Raises ConfigError where the variable holds none that a header can."""
    if config.key_variable is None:
        return None
    key = os.environ.get(config.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        wrong = "is empty or not set" if not key else "holds a key with blanks, controls or letters beyond ASCII"
        raise ConfigError(f"key_variable={config.key_variable}: the environment variable {wrong}")
    return key


def build(config: ServeConfig) -> Server:
    """Weights, tokenizer and engine behind a server. Raises ConfigError."""
    folder = weights_folder(str(config.checkpoint))
    if not folder.is_dir():
        raise ConfigError(f"checkpoint={config.checkpoint}: no such folder")
    try:
        shape = read_config(folder)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    # Loaded for accepted settings alone: a refusal takes no seconds.
    import torch

    from lightning_cispo.model import checkpoint
    from lightning_cispo.model.generation.engine import Engine
    from lightning_cispo.model.network import MiniMax
    from lightning_cispo.model.serve.app import Limits, Server
    from lightning_cispo.model.serve.guard import LOOPBACK, guard
    from lightning_cispo.model.serve.runner import Runner
    from lightning_cispo.model.spelling import spellings
    from lightning_cispo.model.tokenizer import TokenizerError, load_tokenizer

    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = device.type == "cuda" and config.precision is Precision.bfloat16
    try:
        tokenizer = load_tokenizer(str(folder) if config.tokenizer == "checkpoint" else config.tokenizer)
        if (size := max(tokenizer.get_vocab().values()) + 1) > shape.vocab_size:
            wrong = f"has {size} tokens, the checkpoint's vocabulary {shape.vocab_size}"
            raise ConfigError(f"tokenizer={config.tokenizer}: {wrong}")
        with device:
            network = MiniMax(shape, torch.bfloat16 if half else torch.float32)
        checkpoint.load(folder, network)
    except (CheckpointError, TokenizerError) as error:
        raise ConfigError(str(error)) from None
    engine = Engine(
        network,
        config.slots,
        tokenizer.eos_token_id,
        config.prefill_tokens,
        config.repetition_tokens,
        config.repetition_probability,
        max_length=config.max_length,
        kv_tokens=config.kv_tokens or None,
        admit_slots=1,
        spellings=spellings(tokenizer),
    )
    hosts = config.hosts or ([*LOOPBACK, config.host] if config.host in LOOPBACK else [])
    limits = Limits(config.max_body_mb << 20, config.max_prompt_chars or 16 * engine.max_length)
    runner = Runner(engine, tokenizer, config.max_waiting)
    return Server(runner, config.name, limits, guard(server_key(config), hosts))


if __name__ == "__main__":
    main()
