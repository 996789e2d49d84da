"""The timed step's task, the same for both sides: prompts of random words, a vocabulary of words, a reward."""

from __future__ import annotations

import json
import random
from pathlib import Path

from lightning_cispo.rewards.verdict import Problem, Response

VOCABULARY = 512
PROMPT_TOKENS = 16


def share_of_low_words(text: str) -> float:
    """Share of a response's words from the vocabulary's lower half: near 1/2, and seldom the same twice."""
    words = [int(word[1:]) for word in text.split()]
    return sum(word < VOCABULARY // 2 for word in words) / max(1, len(words))


def verify(problem: Problem, response: Response) -> float:
    """The same as a verifier, which a rollout worker calls in an isolated process."""
    return share_of_low_words(response.text)


def prompts(count: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(f"w{rng.randrange(VOCABULARY)}" for _ in range(PROMPT_TOKENS)) for _ in range(count)]


def write_prompts(path: Path, count: int) -> None:
    """JSON lines that `data.train` takes."""
    path.write_text("".join(json.dumps({"question": text, "answer": "any"}) + "\n" for text in prompts(count)))


def write_tokenizer(folder: Path) -> None:
    """One token a word. The end of sequence is the first id that the network has no logit for: no response stops."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<eos>"])
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
