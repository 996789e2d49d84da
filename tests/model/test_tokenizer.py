"""The byte-level tokenizer: round trips, special tokens, and the same tokenizer read back from a folder."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import ModelConfig
from model.chat import END_SENTENCE, TEMPLATE
from model.tokenizer import TokenizerError, decode, encode, load_tokenizer

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


@given(st.lists(st.integers(0, 263)))
@settings(deadline=None)
def test_any_ids_decode(ids):
    text = decode(TOKENIZER, np.array(ids, dtype=np.int32))
    assert isinstance(text, str)


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


_OFFLINE = """
from model.tokenizer import TokenizerError, load_tokenizer
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
    code = "import sys, model.tokenizer as t; t.load_tokenizer('bytes'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
