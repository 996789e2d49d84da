"""Tokenizers: a byte-level one with M1's special tokens for models from scratch, any other through AutoTokenizer.

transformers is imported when a tokenizer is made; its tokenizer part comes without torch.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cispo.model.chat import BEGIN_DOCUMENT, BEGIN_SENTENCE, END_SENTENCE, TEMPLATE
from lightning_cispo.model.spelling import byte_letters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES = "bytes"
_END_DOCUMENT = "<end_of_document>"
_MARKERS = (BEGIN_DOCUMENT, _END_DOCUMENT, BEGIN_SENTENCE, END_SENTENCE)
_PRIVATE_USE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))  # characters that Unicode gives no meaning
_SURROGATE = re.compile("[\ud800-\udfff]")
# Not "special": these are the model's words, and decoding must keep them even where special tokens are skipped.
_TAGS = ("<think>", "</think>", "<tool_calls>", "</tool_calls>")
BYTES_SIZE = 256 + len(_MARKERS) + len(_TAGS)  # tokens of "bytes"


class TokenizerError(ValueError):
    """A tokenizer that cannot be loaded or used; the message names it."""


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """ "bytes": 264 tokens, ids 0-255 the bytes themselves. Anything else: a local folder or a hub name.

    Raises: TokenizerError when there is no such tokenizer (or no network to fetch it), or it has no eos token.
    """
    if name == BYTES:
        return _byte_tokenizer()
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise TokenizerError(f"tokenizer {name!r}: no such folder")
    from transformers import AutoTokenizer

    try:
        # A checkpoint's own code is neither needed nor run, nor is anybody asked about it.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exceptions for malformed files
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TokenizerError(f"tokenizer {name!r}: cannot be loaded from a folder or the hub: {first_line}") from error
    if tokenizer.eos_token_id is None:
        raise TokenizerError(f"tokenizer {name!r} has no end-of-sequence token: responses could never end")
    return tokenizer


def _byte_tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(byte_letters())}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in _MARKERS])
    core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in _TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN_SENTENCE,
        eos_token=END_SENTENCE,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of exactly this text: special tokens where the text spells them, none added.

    Halves of surrogate pairs, which JSON can bring, are joined; one without its other half becomes U+FFFD.
    """
    if _SURROGATE.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return tokenizer.encode(text, add_special_tokens=False)


@functools.lru_cache(maxsize=4)
def longest_token(tokenizer: Any) -> int | None:
    """Bytes that no token's text exceeds; None where the tokenizer rewrites text before it is split into tokens."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None or core.normalizer is not None:
        return None
    return max(len(piece.encode()) for piece in tokenizer.get_vocab())


def encode_filled(tokenizer: Any, template: Callable[..., str], *content: Any) -> list[int]:
    """Token ids of template(*content), where only the template can make special tokens.

    What the content (strings in any lists and mappings: messages, tools, results) spells like one, such as
    <end_of_sentence>, stays the text it is: the spelling is encoded in two parts. All other text is encoded as `encode`
    does. Tags like <think> are words, not special tokens.

    template: `render`, `tool_results` or `prompt_text` of model.chat; `str` for plain text.
    Raises: ValueError where special tokens are spelled beside every character of the private use planes.
    """
    spelled = _spelled_special(tokenizer)
    texts = list(_strings(content))
    if spelled is None or not any(map(spelled.search, texts)):
        return encode(tokenizer, template(*content))
    taken = set().union(*texts)
    cut = next((char for char in map(chr, _PRIVATE_USE) if char not in taken), None)
    if cut is None:
        raise ValueError("the text holds every private use character: special tokens in it cannot be told apart")
    marked = _mapped(content, lambda text: spelled.sub(lambda found: found[0] + cut, text))
    return [token for part in template(*marked).split(cut) for token in encode(tokenizer, part)]


@functools.lru_cache(maxsize=8)
def _spelled_special(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches the first character of every special token's spelling, overlapping ones too."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    spellings = sorted(map(re.escape, {*added, *tokenizer.all_special_tokens}))
    return re.compile(f"(?={'|'.join(spellings)}).", re.DOTALL) if spellings else None


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        yield from _strings((*content.keys(), *content.values()))
    elif isinstance(content, (list, tuple)):
        for item in content:
            yield from _strings(item)


def _mapped(content: Any, change: Callable[[str], str]) -> Any:
    if type(content) is str:  # an enumeration's member is the template's business
        return change(content)
    if isinstance(content, Mapping):
        return {_mapped(key, change): _mapped(value, change) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_mapped(item, change) for item in content]
    return content


def eos_ids(tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a response: the tokenizer's eos first, then those that config.json and generation_config.json list.

    Chat models list two or more, such as the end of a turn and the end of a document.
    """
    return _eos_ids(str(tokenizer.name_or_path), tokenizer.eos_token_id)


@functools.lru_cache(maxsize=8)
def _eos_ids(folder: str, eos: int) -> tuple[int, ...]:
    found = [eos]
    for name in ("config.json", "generation_config.json"):
        path = Path(folder) / name
        if not folder or not path.is_file():
            continue
        try:
            listed = json.loads(path.read_text()).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            raise TokenizerError(f"{path}: not a JSON object") from None
        ids = listed if isinstance(listed, list) else [listed]
        found += [id for id in ids if type(id) is int and id >= 0]
    return tuple(dict.fromkeys(found))


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of the ids without the eos that ends them; every other token is kept as it is spelled."""
    ids = [int(i) for i in ids]
    if ids and ids[-1] in eos_ids(tokenizer):
        ids.pop()
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
