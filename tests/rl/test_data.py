"""One reader of data sets: what it takes, exactly as it stands there, and what it refuses by row."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import math
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from lightning_cispo.configs.schema import ChatTemplate, DataConfig
from lightning_cispo.model.tokenizer import decode, load_tokenizer
from lightning_cispo.rl.data.errors import DataError
from lightning_cispo.rl.data.sources import open_sources
from lightning_cispo.rl.held_out import held_out_prompts
from lightning_cispo.rl.prompts import training_stream

TOKENIZER = load_tokenizer("bytes")
ROWS = [{"question": f"What is {i} + 1?", "answer": str(i + 1), "level": i, "note": None} for i in range(7)]


def lines(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path: Path, rows) -> None:
    """`rows` in the format that the file's name says."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        names = list(rows[0])
        text = "\n".join([",".join(names), *(",".join(f'"{row[name]}"' for name in names) for row in rows)])
        path.write_text(text + "\n")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines(*rows).encode()))
    else:
        path.write_text(json.dumps(rows, indent=1) if path.suffix == ".json" else "\n" + lines(*rows))


def data(*names: object, **options) -> DataConfig:
    options = {"verifier": "exact", "chat_template": ChatTemplate.minimax_m1, **options}
    return DataConfig(train=list(map(str, names)), **options)


def problems(*names: object, **options) -> list:
    rows = open_sources(data(*names, **options)).train
    assert rows is not None
    return [rows[index] for index in range(len(rows))]


def refusal(*names: object, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_sources(data(*names, **options))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("data.train=")
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.csv"])
def test_every_format_gives_the_same_problems(tmp_path, name):
    write(tmp_path / name, ROWS)
    found = problems(tmp_path / name)
    assert [(problem.prompt, problem.answer) for problem in found] == [(r["question"], r["answer"]) for r in ROWS]
    assert found[3].row["level"] == ("3" if name == "a.csv" else 3) and found[3].task == tmp_path.name


def test_several_files_and_globs_in_order(tmp_path):
    for index, name in enumerate(("b.jsonl", "a.parquet", "c.json")):
        write(tmp_path / name, ROWS[2 * index : 2 * index + 2])
    given = problems(tmp_path / "b.jsonl", tmp_path / "*.parquet", tmp_path / "c.json", tmp_path / "b.*")
    assert [problem.prompt for problem in given] == [row["question"] for row in ROWS[:6]]
    assert refusal(tmp_path / "*.csv") == f"data.train={tmp_path}/*.csv: no file matches"


def test_values_arrive_as_they_stand_in_a_file(tmp_path):
    """No column has a type: a number beside a fraction, a date's text and integers of any size stay what they are."""
    golds = ["2024-05-01", 2**63, 9007199254740993, 0.5, "007", 10**30, -3, "1e3", "１２"]
    (tmp_path / "a.jsonl").write_text(lines(*({"question": "q", "answer": gold} for gold in golds)))
    assert [problem.answer for problem in problems(tmp_path / "a.jsonl")] == list(map(str, golds))
    (tmp_path / "a.csv").write_text('\ufeffquestion,answer\r\n"a ""b"",\r\nc",2024-05-01\r\n\r\nq,1_0\r\n')
    found = [(problem.prompt, problem.answer) for problem in problems(tmp_path / "a.csv")]
    assert found == [('a "b",\r\nc', "2024-05-01"), ("q", "1_0")]
    rows = {"question": ["q"] * 2, "answer": [datetime.date(2024, 5, 1), None], "cost": [decimal.Decimal("1.50")] * 2}
    write(tmp_path / "a.parquet", [{key: values[0] for key, values in rows.items()}])
    [problem] = problems(tmp_path / "a.parquet")
    assert (problem.answer, problem.row["cost"]) == ("2024-05-01", "1.50")


def test_a_long_array_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_cispo.rl.data.files._CHUNK", 7)
    write(tmp_path / "a.json", ROWS)
    assert [problem.prompt for problem in problems(tmp_path / "a.json")] == [row["question"] for row in ROWS]


ROW_REFUSED = [
    ({"question": ["a"], "answer": "1"}, "row", "'question' message 1 is text; must have role and content"),
    ({"question": {"a": 1}, "answer": "1"}, "row", "'question' is a struct; must be text"),
    ({"question": True, "answer": "1"}, "row", "'question' is a boolean"),
    ({"question": 5, "answer": "1"}, "row", "'question' is a number; must be text"),
    ({"question": math.nan, "answer": "1"}, "row", "'question' is nan"),
    ({"question": " \n", "answer": "1"}, "row", "'question' is empty"),
    ({"question": None, "answer": "1"}, "row", "'question' is empty"),
    ({"question": "q", "answer": ["1"]}, "row", "'answer' is a list; must be text or a number"),
    ({"question": "q", "answer": {"value": 1}}, "row", "'answer' is a struct"),
    ({"question": "q", "answer": True}, "row", "'answer' is a boolean"),
    ({"question": "q", "answer": math.nan}, "row", "'answer' is nan"),
    ({"question": "q", "answer": math.inf}, "row", "'answer' is inf"),
    ({"question": "q", "answer": ""}, "row", "'answer' is empty"),
    ({"question": "q", "answer": None}, "row", "'answer' is empty"),
    ({"question": "q"}, "row", "no 'answer' (data.answer_key); it has question"),
]


@pytest.mark.parametrize(("row", "_", "said"), ROW_REFUSED, ids=[f"{row}" for row, _, _ in ROW_REFUSED])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_rows_are_refused_by_place_and_type(tmp_path, name, row, _, said):
    write(tmp_path / name, [ROWS[0], row])
    place = "line 3" if name == "a.jsonl" else "row 2"
    assert refusal(tmp_path / name).startswith(f"data.train={tmp_path / name}: {place}: {said}")


def test_types_that_only_parquet_has_are_refused(tmp_path):
    for value, said in ((b"abc", "bytes"), (datetime.datetime(2024, 5, 1), "a timestamp")):
        for key in ("question", "answer"):
            write(tmp_path / "a.parquet", [{"question": "q", "answer": "a", key: value}])
            assert f"row 1: {key!r} is {said}; must be text" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"question": "q", "answer": "1", "answer": "2"}', "line 1: key 'answer' stands there twice"),
        ("a.jsonl", '{"question": "q", "x": {"a": 1, "a": 2}}', "line 1: key 'a' stands there twice"),
        ("a.jsonl", '{"question": ', "line 1: not JSON"),
        ("a.jsonl", "[" * 100_000, "row 1: not usable: maximum recursion depth"),
        ("a.jsonl", '{"x": ' + "[" * 100_000, "line 1: not usable: maximum recursion depth"),
        ("a.jsonl", '{"question": "q", "answer": ' + "9" * 5000 + "}", "line 1: not usable: Exceeds the limit"),
        ("a.jsonl", "3", "line 1: must be an object with the keys question and answer, not a number"),
        ("a.json", '[{"question": "q", "answer": "1"}', "not closed"),
        ("a.json", '[{"question": "q", "answer": "1"} {}]', "row 1: not JSON: no comma or ] after it"),
        ("a.json", '[{"question": "q", "answer": "1"}] x', "something follows the array's end"),
        ("a.json", '[{"question": nope}]', "row 1: not JSON"),
        ("a.json", '[{"question": "q", "answer": "1"},]', "row 2: not JSON: Expecting value"),
        ("a.json", "[", "row 1: not JSON: the array is not closed"),
        ("a.json", " [ ]", "has no rows"),
        ("a.csv", "question,question\na,b\n", "line 1: column 'question' stands there twice"),
        ("a.csv", "question,answer\na\n", "line 2: 1 values for 2 columns"),
        ("a.csv", 'question,answer\na,"b', "line 2: not CSV"),
        ("a.csv", "question,gold\na,b\n", "line 2: no 'answer' (data.answer_key); it has question, gold"),
        ("a.jsonl.gz", "plain", "Not a gzipped file"),
        ("a.parquet", "plain", "not Parquet"),
    ],
)
def test_malformed_files_are_refused_in_a_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    assert said in refusal(tmp_path / name)


def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[0]).encode() + b'{"question": "\xff"}\n')
    assert "line 2: not UTF-8: byte 0xff" in refusal(tmp_path / "a.jsonl")


def test_nested_keys(tmp_path):
    row = {"prompt": "q", "reward_model": {"ground_truth": "7", "style": "rule"}, "a.b": "flat", "a": {"b": "nested"}}
    write(tmp_path / "a.parquet", [row])
    keys = {"prompt_key": "prompt", "answer_key": "reward_model.ground_truth"}
    [problem] = problems(tmp_path / "a.parquet", **keys)
    assert problem.answer == "7" and problem.row["reward_model"]["style"] == "rule"
    [problem] = problems(tmp_path / "a.parquet", prompt_key="prompt", answer_key="a.b")
    assert problem.answer == "flat"
    found = refusal(tmp_path / "a.parquet", prompt_key="prompt", answer_key="reward_model.truth")
    assert "row 1: no 'reward_model.truth' (data.answer_key)" in found and "reward_model.ground_truth" in found


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+2?"}]


def read(path: Path, **options) -> str:
    """What the policy reads of the only row."""
    options = {"prompt_key": "prompt", "held_out_percent": 0, **options}
    [prompt] = training_stream(data(path, **options), TOKENIZER, 0).take(1)
    return decode(TOKENIZER, prompt.tokens_T.tolist())


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_chat_columns_are_rendered_by_the_template(tmp_path, name):
    write(tmp_path / name, [{"prompt": CHAT, "answer": "3"}])
    assert read(tmp_path / name, instruction=" Think.", system="unused") == (
        "<begin_of_document><beginning_of_sentence>system ai_setting=assistant\nBe brief.<end_of_sentence>\n"
        "<beginning_of_sentence>user name=user\n1+2? Think.<end_of_sentence>\n"
        "<beginning_of_sentence>ai name=assistant\n"
    )
    write(tmp_path / name, [{"prompt": CHAT[1:], "answer": "3"}])
    text = {"question": "1+2?", "answer": "3"}
    write(tmp_path / "text.jsonl", [text])
    options = {"instruction": "\nx", "system": "Be kind."}
    assert read(tmp_path / name, **options) == read(tmp_path / "text.jsonl", prompt_key="question", **options)
    [problem] = problems(tmp_path / name, prompt_key="prompt")
    assert problem.prompt == "1+2?" and problem.row["prompt"][0]["content"] == "1+2?"


def test_turns_of_assistants_and_tools_and_the_tools_offered(tmp_path):
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "1+2?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]},
        {"role": "tool", "name": "add", "content": "3"},
    ]
    write(tmp_path / "a.jsonl", [{"prompt": turns, "answer": "3", "tools": [tool]}])
    text = read(tmp_path / "a.jsonl", instruction="!")
    assert "<tools>\n" + json.dumps(tool) + "\n</tools>" in text and "user\n1+2?!<end_of_sentence>" in text
    assert '{"name": "add", "arguments": {"a": 1, "b": 2}}' in text and "tool result: 3" in text
    write(tmp_path / "b.jsonl", [{"prompt": turns, "answer": "3", "tools": json.dumps([tool])}])
    assert read(tmp_path / "b.jsonl", instruction="!") == text
    assert "<tools>" not in read(tmp_path / "b.jsonl", tools_key=None)
    [problem] = problems(tmp_path / "a.jsonl", prompt_key="prompt")
    assert problem.prompt == "user: 1+2?\n\nassistant: \n\ntool: 3"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "must hold a user's message"),
        (
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "must hold a user's message and end before",
        ),
        ([{"role": "system", "content": "q"}], "must hold a user's message"),
        ([{"role": "robot", "content": "q"}], "message 1 has the role 'robot'; must be one of system, user"),
        ([{"content": "q"}], "message 1 has the role None"),
        ([{"role": "user", "content": 5}], "message 1 has a content that is a number; must be text"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "message 1 has parts that are no text"),
        ([{"role": "user", "content": ""}], "'prompt' is empty"),
    ],
)
def test_chats_that_cannot_be_rendered_are_refused(tmp_path, prompt, said):
    write(tmp_path / "a.jsonl", [{"prompt": prompt, "answer": "3"}])
    assert f"line 2: 'prompt' {said}".replace("'prompt' 'prompt'", "'prompt'") in refusal(
        tmp_path / "a.jsonl", prompt_key="prompt"
    )


def test_a_chat_needs_a_template_and_tools_a_list(tmp_path):
    write(tmp_path / "a.jsonl", [{"prompt": CHAT, "answer": "3", "tools": "add"}])
    said = refusal(tmp_path / "a.jsonl", prompt_key="prompt", chat_template=ChatTemplate.plain)
    assert "'prompt' holds chat messages, which data.chat_template=plain can't render" in said
    assert "'tools' is text that is no JSON" in refusal(tmp_path / "a.jsonl", prompt_key="prompt")


def test_chats_of_one_question_under_different_systems_are_different_prompts(tmp_path):
    other = [{"role": "system", "content": "Be long."}, CHAT[1]]
    write(tmp_path / "a.jsonl", [{"prompt": chat, "answer": "3"} for chat in (CHAT, other)])
    stream = training_stream(data(tmp_path / "a.jsonl", prompt_key="prompt", held_out_percent=0), TOKENIZER, 0)
    assert len({prompt.id for prompt in stream.take(2)}) == 2


def test_a_file_that_changes_under_a_run_is_named(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    rows = open_sources(data(tmp_path / "a.jsonl")).train
    (tmp_path / "a.jsonl").write_text("x" * 5000)
    with pytest.raises(DataError, match="a.jsonl: changed while the run reads it"):
        rows[3]


def test_a_data_set_is_read_once(tmp_path, monkeypatch):
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "eval.json", ROWS[:2])
    options = data(tmp_path / "train.jsonl", eval=[str(tmp_path / "eval.json")])
    opened = open_sources(options)
    monkeypatch.setattr("lightning_cispo.rl.data.sources.read_file", None)  # whoever reads again fails
    assert open_sources(options) is opened
    assert (
        len(training_stream(options, TOKENIZER, 0).take(5)) == 5
        and len(held_out_prompts(options, TOKENIZER, 9).prompts) == 2
    )
    monkeypatch.undo()
    write(tmp_path / "train.jsonl", ROWS[:5])
    assert len(open_sources(options).train) == 5


def questions(prompts) -> set[str]:
    return {prompt.problem.prompt for prompt in prompts}


def test_an_evaluation_in_another_folder_leaks_nothing_into_training(tmp_path):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "train" / "data.jsonl", ROWS)
    same = ["What is 0 + 1?", "  what is 1 + 1? ", "WHAT\nIS 2 + 1?", "What is ３ + 1?"]
    write(tmp_path / "test" / "data.jsonl", [{"question": text, "answer": "1"} for text in same])
    options = data(tmp_path / "train/data.jsonl", eval=[str(tmp_path / "test/data.jsonl")])
    sources = open_sources(options)
    assert sources.removed_N.tolist() == [True] * 4 + [False] * 3
    assert sources.summary() == ["train 7 rows, 4 of them left out as data.eval has them", "eval 4 rows"]
    assert questions(training_stream(options, TOKENIZER, 0).take(3)) == {row["question"] for row in ROWS[4:]}
    with pytest.raises(ValueError, match="only 3 of 4.*held out"):
        training_stream(options, TOKENIZER, 0).take(4)


def test_rows_that_share_a_run_of_words_with_the_evaluation_are_left_out_if_asked(tmp_path):
    story = "Anna has three red apples and gives two of them to her brother"
    write(
        tmp_path / "a.jsonl",
        [{"question": f"{story}. Then?", "answer": "1"}, {"question": "Anna sings", "answer": "1"}],
    )
    write(tmp_path / "e.jsonl", [{"question": f"One day, {story.upper()}; how many are left?", "answer": "1"}])
    eval = [str(tmp_path / "e.jsonl")]
    assert open_sources(data(tmp_path / "a.jsonl", eval=eval)).removed_N.tolist() == [False, False]
    assert open_sources(data(tmp_path / "a.jsonl", eval=eval, overlap_words=13)).removed_N.tolist() == [True, False]
    assert open_sources(data(tmp_path / "a.jsonl", eval=eval, overlap_words=14)).removed_N.tolist() == [False, False]


def test_held_out_rows_are_chosen_by_their_normalised_question(tmp_path):
    rows = [{"question": f"What is {i} + 1?", "answer": str(i)} for i in range(300)]
    rows += [{"question": f" what is  {i} + 1?", "answer": str(i)} for i in range(300)]
    write(tmp_path / "a.jsonl", rows)
    options = data(tmp_path / "a.jsonl", held_out_percent=20)
    held = {" ".join(text.casefold().split()) for text in questions(held_out_prompts(options, TOKENIZER, 600).prompts)}
    trained = training_stream(options, TOKENIZER, 0).take(600 - 2 * len(held))
    assert 30 < len(held) < 90 and not held & {" ".join(text.casefold().split()) for text in questions(trained)}


def test_prompts_that_are_all_too_long_are_told_early(tmp_path):
    drawn = []
    rows = [{"question": f"{i} " + "word " * 200, "answer": "1"} for i in range(50)]
    write(tmp_path / "a.jsonl", rows)
    options = data(tmp_path / "a.jsonl", max_prompt_tokens=64)
    stream = training_stream(options, TOKENIZER, 0)
    draw = stream.draw
    stream.draw = lambda position: drawn.append(position) or draw(position)
    with pytest.raises(ValueError, match="only 0 of 3 distinct prompts.*101 longer than data.max_prompt_tokens"):
        stream.take(3)
    assert len(drawn) == 101  # two epochs, not twenty thousand draws


def test_a_users_verifier_sees_the_whole_row(tmp_path):
    from lightning_cispo.rewards.grader import Grader
    from lightning_cispo.rewards.verdict import Response

    (tmp_path / "a.jsonl").write_text(lines({"question": "q", "answer": "1", "unit": "m", "extra": {"k": [1, None]}}))
    [problem] = problems(tmp_path / "a.jsonl", verifier="tests.rl.test_data:sees_the_row")
    with Grader() as grader:
        verdict = grader.grade(problem, Response("x", 1, "eos", 2))
    assert verdict.correct, verdict


def sees_the_row(problem, response) -> bool:
    return problem.row["unit"] == "m" and problem.row["extra"] == {"k": [1, None]} and problem.row["answer"] == "1"


@pytest.mark.soak
def test_a_million_rows_take_bounded_memory(tmp_path):
    import psutil

    with (tmp_path / "a.jsonl").open("w") as file:
        for index in range(1_000_000):
            file.write(json.dumps({"question": f"What is {index} + {index * 7}? " + "x" * 200, "answer": index}) + "\n")
    options = data(tmp_path / "a.jsonl", max_prompt_tokens=1024)
    before = psutil.Process().memory_info().rss
    stream = training_stream(options, TOKENIZER, 0)
    assert len(stream.take(1000)) == 1000 and len(open_sources(options).train) == 1_000_000
    assert psutil.Process().memory_info().rss - before < 200 << 20


def test_a_data_set_of_the_hub_is_read_alike(monkeypatch):
    """The loading itself needs a network; what `datasets` returns is its own class."""
    import datasets

    asked = []

    def load(name, subset, split):
        asked.append((name, subset, split))
        return datasets.Dataset.from_list([{"prompt": CHAT, "reward_model": {"ground_truth": "3"}, "at": NOW}])

    NOW = datetime.datetime(2026, 1, 2)
    monkeypatch.setattr(datasets, "load_dataset", load)
    options = {"prompt_key": "prompt", "answer_key": "reward_model.ground_truth", "subset": "main"}
    [problem] = problems("owner/set", **options)
    assert asked == [("owner/set", "main", "train")] and problem.answer == "3" and problem.task == "owner/set"
    assert problem.entry["messages"] == CHAT and problem.row["at"] == "2026-01-02T00:00:00"
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: 1 / 0)
    assert "owner/other: neither a file here nor a data set of the hub: division by zero" in refusal("owner/other")
