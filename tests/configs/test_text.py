"""Texts arrive as typed, and a written configuration reads back as it was."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_cispo.configs.errors import ConfigError
from lightning_cispo.configs.load import load_config, load_yaml, to_yaml
from lightning_cispo.configs.schema import RunConfig, ServeConfig, TaskConfig
from lightning_cispo.configs.settings import read_settings
from lightning_cispo.configs.words import escaped, value_of


def text(value: str) -> str:
    return value_of(value, str)


@pytest.mark.parametrize(
    "typed",
    "2024_05_01 1_0 1e3 007 0x10 1.50 true null NaN 2024-05-01 [a] [1_0] {a:1} a,b a=b yes ~ ${ #### - x: 'tis".split()
    + ["", " a ", "a b", "Answer: (.+)", r"####\s*(.+)", r"\n", "line\nline", 'say "x" and "y"', "str(3)", "é中😀"],
)
def test_a_text_is_what_was_typed(typed):
    assert text(typed) == typed
    assert load_config([f"data.system={escaped(typed)}"]).data.system == typed
    if typed:
        assert read_settings(ServeConfig, [f"name={typed}"]).name == typed


@given(st.text())
@example("'a' or 'b'")
@example("\\")
def test_any_text_is_what_was_typed(typed):
    if typed[:1] not in ("'", '"') or typed[0] != typed[-1]:
        assert text(typed) == typed


@given(st.text(), st.sampled_from("'\""))
@example('a\\"', '"')
@example("\\", "'")
def test_quotes_around_a_text_are_taken_off(inner, quote):
    """Backslashes before a quote, and at the end, are doubled inside, as Hydra has it."""
    typed, run = "", 0
    for character in inner:
        if character == quote:
            typed += "\\" * (run + 1)
        typed += character
        run = run + 1 if character == "\\" else 0
    assert text(f"{quote}{typed}{chr(92) * run}{quote}") == inner


def test_lists_and_mappings_of_texts():
    def stop(typed: str) -> list[str]:
        return load_config([f"sampling.stop={typed}"]).sampling.stop

    assert stop("[1_0]") == ["1_0"] and stop("[]") == []
    assert stop('["</answer>", 007,true, "a, b", \'c]\']') == ["</answer>", "007", "true", "a, b", "c]"]
    assert stop("</answer>") == ["</answer>"] and stop("1_0") == ["1_0"]
    assert load_config(["data.tasks=[{family: gcd, params: {max_value: 1_0}}]"]).data.tasks == [
        TaskConfig("gcd", params={"max_value": 10})  # of no declared type: a number as Hydra reads it
    ]


def test_null_is_none_where_there_may_be_none():
    assert load_config(["data.answer_pattern=null"]).data.answer_pattern is None
    assert load_config(["data.answer_pattern='(null)'"]).data.answer_pattern == "(null)"


def test_references_are_hydras_and_a_backslash_makes_them_text():
    assert load_config(["seed=7", "name=run-${seed}"]).name == "run-7"
    assert load_config([r"name=run-\${seed}"]).name == "run-${seed}"
    for typed in ("name=run-${sed}", "name=run-${", "data.answer_pattern=${(.+)}"):
        with pytest.raises(ConfigError) as caught:
            load_config([typed])
        assert str(caught.value).endswith(r"; for the text itself write \${"), caught.value


@given(st.text())
@example("Use ${seed}")
@example(r"a\${x}")
@example(r"\\\${x}\\")
@example("${")
@example("\\")
def test_an_escaped_text_means_itself(value):
    made = OmegaConf.create({"a": escaped(value), "seed": 3})
    assert OmegaConf.to_container(made, resolve=True)["a"] == value


TEXTS = st.text() | st.sampled_from(
    ["Use ${seed}", r"\${x}", "1e3", "2024-05-01", "null", "~", "yes", "0o7", "1:30", "\ud800"]
)


@settings(max_examples=30)
@given(
    TEXTS,
    TEXTS,
    st.lists(TEXTS),
    st.dictionaries(TEXTS.filter(bool), TEXTS | st.integers() | st.floats(allow_nan=False)),
)
def test_a_configuration_reads_back_from_its_file(tmp_path_factory, instruction, pattern, stop, params):
    config = RunConfig(name="x")
    config.data.tasks = [TaskConfig("gcd", params=params)]
    config.data.instruction, config.data.answer_pattern, config.sampling.stop = instruction, pattern, stop
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(to_yaml(config))
    assert read_back(file) == config


def read_back(file) -> RunConfig:
    """Without the checks of values: here only the way there and back counts."""
    from lightning_cispo.configs.file import read_yaml

    return OmegaConf.to_object(read_yaml(file))  # type: ignore[return-value]


def test_a_resumed_run_has_the_texts_it_began_with(tmp_path):
    texts = {"instruction": "Use ${seed}", "system": r"\${x}", "answer_pattern": "1_0(.)"}
    given_ = [f"data.{name}={escaped(value)}" for name, value in texts.items()]
    config = load_config(["experiment=smoke", *given_])
    assert {name: getattr(config.data, name) for name in texts} == texts
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    resumed = load_config([f"resume={tmp_path}", "steps=9"])
    assert resumed.data == config.data and load_yaml(tmp_path / "config.yaml") == config


def test_a_text_in_a_file_is_the_text_that_stands_there(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("name: 2024-05-01\ndata: {train: 1_0.jsonl, system: on, instruction: 1e3, answer_pattern: null}\n")
    read = read_back(file)
    data = read.data
    assert (read.name, data.train, data.system, data.instruction) == ("2024-05-01", ["1_0.jsonl"], "on", "1e3")
    assert data.answer_pattern is None
    file.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="name: stands there twice"):
        read_back(file)
