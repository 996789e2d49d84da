"""The server's settings: `cispo serve checkpoint=...`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional

from lightning_cispo.configs.schema.system import Precision


@dataclass
class ServeConfig:
    checkpoint: Optional[str] = None  # a folder in Hugging Face's format, or a run's
    tokenizer: str = "checkpoint"  # "checkpoint", "bytes", or whatever AutoTokenizer takes
    name: str = "checkpoint"  # of the model in requests and answers
    host: str = "127.0.0.1"  # address to listen on; beyond loopback set key_variable too
    port: int = 8000  # 0: any free one
    slots: int = 64  # sequences decoded at once
    max_length: int = 32768  # tokens of a prompt with its response
    kv_tokens: int = 0  # tokens of softmax keys and values kept; 0: what fits
    prefill_tokens: int = 2048  # prompt tokens read between two decoding steps
    repetition_tokens: int = 3000  # a response ends after this many consecutive tokens ...
    repetition_probability: float = 0.99  # ... each above this probability (M1)
    max_waiting: int = 1024  # requests that may be open at once; more are turned away
    max_body_mb: int = 16  # of one request
    max_prompt_chars: int = 0  # of one prompt, before it is tokenized; 0: 16 for each token of max_length
    key_variable: Optional[str] = None  # environment variable with the key that requests bring as Authorization: Bearer
    hosts: List[str] = field(default_factory=list)  # Host headers answered; empty: loopback's names there, else any
    precision: Precision = field(default=Precision.bfloat16)  # activations on a GPU; CPUs compute in float32
    threads: int = 0  # CPU threads; 0: all cores
