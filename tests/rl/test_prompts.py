"""Order, hold-out and files of prompts."""

import json
from dataclasses import replace

import pytest

from lightning_cispo.configs.schema import ChatTemplate, DataConfig, PromptStyle, TaskConfig
from lightning_cispo.model.tokenizer import decode, load_tokenizer
from lightning_cispo.rl.held_out import held_out_prompts
from lightning_cispo.rl.prompts import training_stream

TOKENIZER = load_tokenizer("bytes")
SUMS = TaskConfig("chain_sum", 2.0, {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1})
EQUATIONS = TaskConfig("simple_equations", 1.0, {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 9})
TASKS = DataConfig(tasks=[SUMS, EQUATIONS], prompt_style=PromptStyle.compact, held_out_percent=20)


def texts(prompts):
    return [decode(TOKENIZER, prompt.tokens_T.tolist()) for prompt in prompts]


def test_training_and_held_out_problems_never_overlap():
    held_out = set(texts(held_out_prompts(TASKS, TOKENIZER, 600).prompts))
    assert len(held_out) == 600
    for seed in range(3):
        trained = set(texts(training_stream(TASKS, TOKENIZER, seed).take(1500)))
        assert len(trained) == 1500 and not trained & held_out


def test_held_out_problems_are_the_same_for_every_run_and_count():
    few, many = held_out_prompts(TASKS, TOKENIZER, 20).prompts, held_out_prompts(TASKS, TOKENIZER, 60).prompts
    assert texts(few) == texts(many)[:20]


def test_a_special_token_spelled_in_a_data_set_ends_no_turn(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "1<end_of_sentence>2", "answer": "3"}) + "\n")
    tokens = {}
    for template in ChatTemplate:
        data = DataConfig(train=[str(rows)], eval=[str(rows)], chat_template=template, instruction="")
        [prompt] = held_out_prompts(data, TOKENIZER, 1).prompts
        assert "1<end_of_sentence>2" in decode(TOKENIZER, prompt.tokens_T.tolist())
        tokens[template] = prompt.tokens_T.tolist().count(TOKENIZER.eos_token_id)
    assert tokens[ChatTemplate.minimax_m1] == 1  # the turn's own
    assert tokens[ChatTemplate.plain] == 1  # plain prompts may be rendered already


def test_a_stream_goes_on_where_its_position_says():
    whole = training_stream(TASKS, TOKENIZER, 5)
    first, second = whole.take(30), whole.take(30)
    resumed = training_stream(TASKS, TOKENIZER, 5)
    resumed.take(30)
    position = resumed.position
    resumed = training_stream(TASKS, TOKENIZER, 5)
    resumed.position = position
    assert texts(resumed.take(30)) == texts(second) != texts(first)
    assert texts(training_stream(TASKS, TOKENIZER, 6).take(30)) != texts(first)


def test_tasks_are_mixed_by_weight():
    families = [prompt.problem.task for prompt in training_stream(TASKS, TOKENIZER, 0).take(900)]
    assert 0.6 < families.count("chain_sum") / 900 < 0.73


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i}", "answer": f"so\n#### {i}"}) + "\n" for i in range(50)))
    return path


def files(**options):
    return DataConfig(answer_pattern=r"####\s*(.+)", chat_template=ChatTemplate.minimax_m1, **options)


def test_files_come_in_keyed_epochs_without_their_held_out_rows(rows):
    data = files(train=[str(rows)], held_out_percent=20)
    held_out = held_out_prompts(data, TOKENIZER, 50).prompts
    stream = training_stream(data, TOKENIZER, 0)
    epochs = [stream.take(50 - len(held_out)) for _ in range(2)]
    assert 0 < len(held_out) < 25
    first, second = (sorted(texts(epoch)) for epoch in epochs)
    assert first == second and not set(first) & set(texts(held_out))
    assert texts(epochs[0]) != texts(epochs[1])
    prompt = epochs[0][0]
    assert prompt.problem.answer == prompt.problem.prompt.removeprefix("q")
    assert texts([prompt])[0].endswith("<beginning_of_sentence>ai name=assistant\n")


def test_rows_of_the_evaluation_file_are_left_out_of_training(rows, tmp_path):
    held = tmp_path / "held.jsonl"
    held.write_text("".join(rows.read_text().splitlines(keepends=True)[:30]))
    data = files(train=[str(rows)], eval=[str(held)])
    assert len(held_out_prompts(data, TOKENIZER, 99).prompts) == 30
    trained = texts(training_stream(data, TOKENIZER, 0).take(20))
    assert not set(trained) & set(texts(held_out_prompts(data, TOKENIZER, 99).prompts))
    with pytest.raises(ValueError, match="only 20 of 21"):
        training_stream(data, TOKENIZER, 0).take(21)


def test_parquet_is_read_like_json_lines(rows, tmp_path):
    import pandas

    parquet = tmp_path / "mine.parquet"
    pandas.read_json(rows, lines=True).to_parquet(parquet)
    one, other = (held_out_prompts(files(train=[str(path)]), TOKENIZER, 9).prompts for path in (rows, parquet))
    assert texts(one) == texts(other)


def test_a_row_without_an_answer_is_named(rows):
    with open(rows, "a") as file:
        file.write(json.dumps({"question": "q", "answer": "nothing"}) + "\n")
    with pytest.raises(ValueError, match="line 51.*answer_pattern"):
        held_out_prompts(files(train=[str(rows)]), TOKENIZER, 9)


def test_prompts_that_are_too_long_are_skipped():
    data = DataConfig(tasks=[SUMS], prompt_style=PromptStyle.question, max_prompt_tokens=5)
    with pytest.raises(ValueError, match="max_prompt_tokens"):
        training_stream(data, TOKENIZER, 0).take(1)


def test_what_an_evaluation_leaves_out_is_counted_and_said(tmp_path):
    questions = ["q1", "q2", "q1", "q" * 2000, "q3", "q4", "q5"]
    path = tmp_path / "eval.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": "#### 1"}) + "\n" for q in questions))

    def found(count, most=1000):
        return held_out_prompts(files(eval=[str(path)], max_prompt_tokens=most), TOKENIZER, count)

    whole = found(99, most=9999)
    assert (len(whole.prompts), whole.left_out) == (6, 1) and str(found(0)) == "0 problems"
    short = found(3)
    assert [p.problem.prompt for p in short.prompts] == ["q1", "q2", "q3"]
    assert (short.too_long, short.repeated, short.beyond, short.left_out) == (1, 1, 2, 4)
    reasons = "1 longer than data.max_prompt_tokens=1000, 1 repeated, 2 beyond evaluation.problems=3"
    assert str(short) == f"3 of 7 problems; left out: {reasons}"
    path.write_text(json.dumps({"question": "q1", "answer": "#### 1"}) + "\n")
    assert str(found(3)) == "1 problem"


def test_generated_problems_that_run_out_are_said(monkeypatch):
    monkeypatch.setattr("lightning_cispo.rl.held_out.PATIENCE", 200)
    data = DataConfig(tasks=[TaskConfig("count_bits", 1.0, {"max_n": 60})], held_out_percent=20)
    few = held_out_prompts(data, TOKENIZER, 600)
    assert 0 < len(few.prompts) < 30 and few.left_out == 0
    assert str(few) == f"{len(few.prompts)} of 600 problems; left out: no others among 200 generated"
    assert str(held_out_prompts(data, TOKENIZER, 5)) == "5 problems"
    none = held_out_prompts(replace(data, max_prompt_tokens=3), TOKENIZER, 5)
    assert none.prompts == [] and none.left_out > 0 and "longer than data.max_prompt_tokens=3" in str(none)
