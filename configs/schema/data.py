"""Where prompts come from, how they are shown to the policy, and how answers are judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Optional

LEAST_TEMPERATURE = 1e-6  # but for 0, greedy: logits over less overflow float32
MOST_STOP_BYTES = 1024  # of a request's stop strings together: each costs a KiB on the device


def stop_bytes(strings: Iterable[str]) -> int:
    """Of stop strings together, halves of surrogate pairs included, which JSON can bring."""
    return sum(len(string.encode("utf-8", "surrogatepass")) for string in strings)


class ChatTemplate(str, Enum):
    plain = "plain"  # the prompt text as it is
    minimax_m1 = "minimax_m1"  # the release's turns, ending in the assistant's opening


class PromptStyle(str, Enum):
    question = "question"  # the generator's own wording
    compact = "compact"  # the bare expression, for models that read characters


class Isolation(str, Enum):
    """Sandboxes for judged code, from the strictest to the least strict."""

    bwrap = "bwrap"
    unshare = "unshare"
    rlimits = "rlimits"


@dataclass
class CurriculumConfig:
    """One parameter of a family that follows the policy's pass rate while training; evaluation keeps to `params`."""

    parameter: str = "difficulty"
    least: int = 0
    most: int = 10
    step: int = 1
    raise_at: float = 0.8  # pass rate over `window` responses from which on it goes up by `step` ...
    lower_at: float = 0.1  # ... and below which it goes down
    window: int = 256


@dataclass
class TaskConfig:
    """One family of generated problems. `params` go to the family's generator, which checks their names."""

    family: str = "chain_sum"
    weight: float = 1.0
    params: Dict[str, Any] = field(default_factory=dict)
    curriculum: Optional[CurriculumConfig] = None


@dataclass
class DataConfig:
    """Either generated `tasks`, or `train`/`eval` as files (JSON lines or arrays, Parquet, CSV) or a hub dataset."""

    tasks: List[TaskConfig] = field(default_factory=list)
    prompt_style: PromptStyle = PromptStyle.question
    train: Optional[List[str]] = None  # files or globs, in a list if several; or the name of a hub dataset
    train_split: str = "train"
    eval: Optional[List[str]] = None  # alike; unset: held_out_percent of the training problems
    eval_split: str = "test"
    overlap_words: int = 0  # training rows with so many words in a row of an eval question are left out; 0: equal ones
    subset: Optional[str] = None  # a hub dataset's configuration name
    prompt_key: str = "question"  # column of text or of chat messages; a.b is the key b in a column a
    answer_key: str = "answer"  # column of the gold answer, likewise
    tools_key: Optional[str] = "tools"  # column of the tools that a row's chat offers, if there is one
    answer_pattern: Optional[str] = None  # regex; its first group is the gold answer
    instruction: str = ""  # appended to each prompt; of a chat to the last user's message
    system: str = ""  # system turn of prompts that bring none
    verifier: str = "math"  # for files and hub datasets; generated tasks bring their own
    tokenizer: str = "bytes"  # "bytes", "checkpoint", or whatever AutoTokenizer takes
    chat_template: ChatTemplate = ChatTemplate.plain
    max_prompt_tokens: int = 1024
    held_out_percent: int = 10  # share of problems that training never sees, where there is no eval


@dataclass
class CodeConfig:
    min_isolation: Isolation = Isolation.rlimits  # a sandbox of a lower level is refused
    timeout_s: float = 6.0  # computed or slept, for all tests of an answer; for each case of a program
    total_timeout_s: float = 60.0  # for all cases of a program together
    memory_mb: int = 512  # address space of the judged process
    partial: bool = False  # the fraction of tests that pass instead of all or nothing


@dataclass
class MathConfig:
    evaluated: bool = True  # an answer must be at least as evaluated as a gold that is a number: 2^10 is not 1024


@dataclass
class JudgeConfig:
    url: Optional[str] = None  # of an OpenAI-compatible endpoint, up to /v1; for data.verifier=judge
    model: str = ""
    template: str = ""  # in configs/judge, or a file; empty: grades, or pairwise
    pairwise: bool = False  # -1, 0 or 1 against the gold as reference, asked in both orders; else five grades
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the key
    timeout_s: float = 120.0  # for one answer, retries and waits included; an attempt has half of the time left
    retries: int = 4
    backoff_s: float = 1.0  # before the first retry; doubled before each further one
    budget: int = 1000000  # requests of one rollout worker
    cache: int = 10000  # verdicts kept
    concurrency: int = 16
    max_tokens: int = 1024  # of the judge's reply
    bias_threshold: float = 0.3  # correlation of grade with length, at equal correctness, that warns
    bias_window: int = 1000  # answers it is taken over, at least 10


@dataclass
class RewardsConfig:
    correct_weight: float = 1.0
    format_weight: float = 0.0  # a closed think block with an answer after it
    overlong_weight: float = 0.0  # DAPO's soft overlong penalty
    overlong_cache_tokens: int = 0  # tokens before the limit where the penalty begins
    box_weight: float = 0.0  # exactly one closed \boxed{} after the thinking
    tools_weight: float = 0.0  # tool calls, if any, in MiniMax-M1's syntax
    language_weight: float = 0.0  # share of letters in the script `language`
    language: str = "latin"  # or cjk, cyrillic, arabic ...: as Unicode names begin
    length_weight: float = 0.0  # -1 outside length_min_tokens ... length_max_tokens
    length_min_tokens: int = 0
    length_max_tokens: int = 0  # 0: no upper bound
    clip_min: float = -1.0
    clip_max: float = 1.0
    processes: int = 0  # isolated verifier processes per rollout worker; 0: the machine's cores / rollout.workers
    timeout_s: float = 5.0  # deadline of one verification; what it waits for a processor does not count
    memory_mb: int = 1024  # address space of one verifier process above its idle size
    max_queue: int = 10000  # verifications that wait; beyond that the rollout waits for room
    math: MathConfig = field(default_factory=MathConfig)
    code: CodeConfig = field(default_factory=CodeConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


@dataclass
class SamplingConfig:
    temperature: float = 1.0
    max_tokens: int = 64
    top_p: float = 1.0  # nucleus of what top_k leaves; below 1 the learner's distribution is another than the sampler's
    top_k: int = 0  # likeliest tokens to draw from; 0: all
    min_tokens: int = 0  # before these a response can't end
    stop: List[str] = field(default_factory=list)  # the token that completes one of these strings ends the response
    allow_truncated: bool = False  # train with a cut (top_p, top_k, min_tokens): the ratio begins at the mass kept
    thinking_tokens: int = 0  # thinking that is longer is closed by force; 0: never
    closing_text: str = "\n</think>\n\n"  # what closes it, with </think> in it; left out of the loss
    repetition_tokens: int = 3000  # stop after this many consecutive tokens ...
    repetition_probability: float = 0.99  # ... each above this probability (M1)


@dataclass
class EvaluationConfig:
    problems: int = 512
    samples: int = 1  # responses a problem
    every: int = 0  # steps between evaluations; 0: only before and after
    temperature: float = 1.0  # 0: greedy, always the likeliest token
