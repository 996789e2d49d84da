"""The byte-level tokenizer: round trips, special tokens, and the same tokenizer read back from a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lightning_cispo.configs.schema import ModelConfig
from lightning_cispo.model.chat import END_SENTENCE, TEMPLATE, render, tool_results
from lightning_cispo.model.spelling import spellings
from lightning_cispo.model.tokenizer import TokenizerError, decode, encode, encode_filled, eos_ids, load_tokenizer
from tests.model.oracle import RELEASE, needs_release

TAGS = ["<think>", "</think>", "<tool_calls>", "</tool_calls>"]
MARKERS = ["<begin_of_document>", "<end_of_document>", "<beginning_of_sentence>", "<end_of_sentence>"]
TOKENIZER = load_tokenizer("bytes")

words = st.sampled_from([*TAGS, *MARKERS, "<", "think>", " ", "\n", "\x00"])
texts = st.lists(st.one_of(st.text(), words)).map("".join)


@given(texts)
@settings(deadline=None)
def test_text_to_ids_to_text(text):
    ids = encode(TOKENIZER, text)
    assert all(0 <= i < len(TOKENIZER) for i in ids)
    assert decode(TOKENIZER, [*ids, TOKENIZER.eos_token_id]) == text
    if not ids or ids[-1] != TOKENIZER.eos_token_id:
        assert decode(TOKENIZER, ids) == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>")))
@settings(deadline=None)
def test_ids_are_the_bytes(text):
    assert encode(TOKENIZER, text) == list(text.encode())


@given(st.lists(st.integers(0, ModelConfig().vocab_size - 1)))
@settings(deadline=None)
def test_any_ids_decode(ids):
    """Those too by which a model's vocabulary is larger than the tokenizer's."""
    text = decode(TOKENIZER, np.array(ids, dtype=np.int32))
    assert isinstance(text, str)


@pytest.mark.parametrize("text, read", [("a\ud83db", "a\ufffdb"), ("\ud83d\ude00", "\U0001f600"), ("\udc00", "\ufffd")])
def test_halves_of_surrogate_pairs_end_no_run(text, read):
    assert decode(TOKENIZER, encode(TOKENIZER, text)) == read


def test_tags_and_markers_are_single_tokens_within_the_smallest_vocabulary():
    for token in TAGS + MARKERS:
        assert len(encode(TOKENIZER, token)) == 1
    assert len(TOKENIZER) == 264 <= ModelConfig().vocab_size
    assert TOKENIZER.eos_token == END_SENTENCE


def test_only_the_final_eos_is_dropped():
    eos = TOKENIZER.eos_token_id
    ids = encode(TOKENIZER, "<think>a</think>b")
    assert decode(TOKENIZER, [*ids, eos]) == "<think>a</think>b"
    assert decode(TOKENIZER, [eos, *ids, eos, eos]) == f"{END_SENTENCE}<think>a</think>b{END_SENTENCE}"
    # where others skip special tokens, the model's words stay
    assert TOKENIZER.decode([*ids, eos], skip_special_tokens=True) == "<think>a</think>b"


SPECIAL = {TOKENIZER.convert_tokens_to_ids(marker) for marker in MARKERS}


def specials(ids: list[int]) -> list[int]:
    return [i for i in ids if i in SPECIAL]


@given(texts, texts, texts)
@settings(deadline=None)
def test_content_never_makes_special_tokens(system, question, result):
    """Neither what users and tools write nor what a model called before; the text stays what it was."""
    calls = [{"name": "f" + system, "arguments": {question: [result]}}]
    messages = [
        {"role": "system", "content": system + "s"},
        {"role": "user", "content": [{"type": "text", "text": question}]},
        {"role": "assistant", "content": result, "tool_calls": calls},
        {"role": "tool", "name": question, "content": result},
    ]
    tools = [{"name": system, "description": question}]
    ids = encode_filled(TOKENIZER, render, messages, tools)
    begin, open_, close = (TOKENIZER.convert_tokens_to_ids(MARKERS[i]) for i in (0, 2, 3))
    assert specials(ids) == [begin, *[open_, close] * 5, open_]
    assert decode(TOKENIZER, ids) == render(messages, tools)
    assert not specials(encode_filled(TOKENIZER, str, question + system))


def test_content_without_special_spellings_is_encoded_as_ever():
    messages = [{"role": "user", "content": " <think>a</think> <end_of_sentence \n"}]
    assert encode_filled(TOKENIZER, render, messages) == encode(TOKENIZER, render(messages))
    results = [("f", "1"), ("g", "<end_of_sentence>")]
    ids = encode_filled(TOKENIZER, tool_results, results)
    assert decode(TOKENIZER, ids) == tool_results(results)
    assert len(specials(ids)) == 3 and len(specials(encode(TOKENIZER, tool_results(results)))) == 4


def test_spellings_that_overlap_and_the_marking_character_itself():
    text = "<end_of_<end_of_sentence>sentence><end_of_sentence><end_of_document>" + chr(0xF0000) + chr(0xF0001)
    ids = encode_filled(TOKENIZER, str, text)
    assert ids == list(text.encode())


def test_nothing_is_added_around_text():
    assert encode(TOKENIZER, "") == []
    assert encode(TOKENIZER, "ab") == [97, 98]


def test_read_back_from_a_folder(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    text = "<beginning_of_sentence>user name=user\nß <think> 日本 </think>  x<tool_calls></tool_calls><end_of_document>"
    assert encode(again, text) == encode(TOKENIZER, text)
    assert decode(again, encode(again, text)) == text
    assert (again.eos_token_id, again.bos_token_id, len(again)) == (259, 258, 264)
    assert again.chat_template.strip() == TEMPLATE.strip()


@pytest.mark.parametrize("content", [None, "not JSON", "{}"])
def test_no_tokenizer_there(tmp_path, content, monkeypatch):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_folder_that_does_not_exist():
    with pytest.raises(TokenizerError, match="no such folder"):
        load_tokenizer("./not/there")


@needs_release
def test_a_folder_with_the_releases_merges(tmp_path):
    """GPT-2's byte-level BPE of 200,000 tokens, as the release configures it; <think> is plain text in it."""
    settings = json.loads((RELEASE / "tokenizer_config.json").read_text())
    merges = [line for line in (RELEASE / "merges.txt").read_text().splitlines() if not line.startswith("#version")]
    base = [TOKENIZER.convert_ids_to_tokens(i) for i in range(256)]
    vocabulary = {token: i for i, token in enumerate([*base, *(line.replace(" ", "") for line in merges)])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    shutil.copy(RELEASE / "merges.txt", tmp_path / "merges.txt")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.eos_token == END_SENTENCE and len(tokenizer) >= 200_000
    text = "  Größe 日本\u2028 <think>x</think>\n\n\tint main() { return 0; } \U0001f600 <end_of_sentence>"
    ids = encode_filled(tokenizer, str, text)
    assert tokenizer.eos_token_id not in ids and decode(tokenizer, ids) == text
    assert len(ids) < len(text)
    assert b"".join(spellings(tokenizer)[i] for i in ids) == text.encode()
    assert encode(tokenizer, text)[-1] == tokenizer.eos_token_id
    turns = [{"role": "user", "content": text}]
    assert encode_filled(tokenizer, render, turns).count(tokenizer.eos_token_id) == 1


def test_ids_are_spelled_of_their_bytes():
    spelled = spellings(TOKENIZER)
    assert len(spelled) == len(TOKENIZER) and spelled[:256] == [bytes([i]) for i in range(256)]
    assert b"<think>" in spelled and END_SENTENCE.encode() in spelled


def test_spellings_of_another_alphabet():
    """SentencePiece's: spaces that its decoder takes off the beginning of a text, and bytes without a piece."""
    pieces = {"\u2581Hello": b" Hello", "\u2581": b" ", "lo": b"lo", "<0xE2>": b"\xe2", "é": "é".encode()}
    core = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=None, byte_fallback=True))
    parts = decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    core.decoder = decoders.Sequence(list(parts))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert tokenizer.decode([0, 0]) == "Hello Hello"
    assert spellings(tokenizer) == list(pieces.values())


_OFFLINE = """
from lightning_cispo.model.tokenizer import TokenizerError, load_tokenizer
try:
    load_tokenizer("nobody/nothing")
except TokenizerError as error:
    print(error)
"""


def test_hub_name_out_of_reach(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = subprocess.run([sys.executable, "-c", _OFFLINE], capture_output=True, text=True, check=True).stdout
    assert said.startswith("tokenizer 'nobody/nothing': cannot be loaded") and said.count("\n") == 1


def test_needs_an_eos_token(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="no end-of-sequence token"):
        load_tokenizer(str(tmp_path))


def test_brings_no_torch():
    code = (
        "import sys, lightning_cispo.model.tokenizer as t; t.load_tokenizer('bytes'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_eos_of_a_checkpoint_ends_a_response(tmp_path):
    tokenizer = load_tokenizer("bytes")
    assert eos_ids(tokenizer) == (tokenizer.eos_token_id,)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, 257]}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 256}))
    loaded = load_tokenizer(str(tmp_path))
    assert eos_ids(loaded) == (loaded.eos_token_id, 257, 256)
    for id in eos_ids(loaded):
        assert decode(loaded, [104, 105, id]) == "hi"
    assert decode(loaded, [257, 104, 105]) != "hi", "only the last token ends a response"


def test_special_tokens_beside_every_private_use_character():
    tokenizer = load_tokenizer("bytes")
    taken = "".join(map(chr, (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))))
    with pytest.raises(ValueError, match="private use"):
        encode_filled(tokenizer, str, f"<end_of_sentence>{taken}")
    assert tokenizer.eos_token_id not in encode_filled(tokenizer, str, f"<end_of_sentence>{taken[1:]}")
