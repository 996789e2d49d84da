"""Every worked step of a demonstration is true, and the last one is the answer."""

import operator as operators
import re

import pytest

from lightning_cispo.configs.schema import DataConfig
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rewards import logic
from lightning_cispo.rl.demonstrations import demonstration, demonstration_samples
from lightning_cispo.rl.prompts import PromptMaker

FAMILIES = {
    "chain_sum": {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 2},
    "gcd": {"min_value": 1, "max_value": 60},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 9},
}


def prompts(family, count):
    make = PromptMaker(DataConfig(), load_tokenizer("bytes"))
    return [make(logic.generate(family, FAMILIES[family], 0, index)) for index in range(count)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_steps_are_true(family):
    for prompt in prompts(family, 200):
        text = demonstration(prompt, DataConfig(), direct=False)
        thought, answer = re.fullmatch(r"<think>(.*)</think>(.*)", text).groups()
        assert answer == prompt.problem.answer == demonstration(prompt, DataConfig(), direct=True)
        value = None
        for step in filter(None, thought.split(";")):
            left, a, operator, b, value = re.fullmatch(r"((-?\d+)([-+*/%])(\d+))=(-?\d+)", step).groups()
            compute = {"+": operators.add, "-": operators.sub, "/": operators.truediv, "%": operators.mod}[operator]
            computed = compute(int(a), int(b))
            assert computed == int(value), f"{prompt.problem.entry['compact']} {step}"
        assert family == "gcd" or value in (answer, None)


def test_the_halves_of_a_number_show_its_bits():
    make = PromptMaker(DataConfig(), load_tokenizer("bytes"))
    for index in range(100):
        prompt = make(logic.generate("count_bits", {"min_n": 1, "max_n": 4095}, 0, index))
        thought, answer = re.fullmatch(
            r"<think>(.*)</think>(.*)", demonstration(prompt, DataConfig(), direct=False)
        ).groups()
        halves = [int(half) for half in thought.split(",")]
        assert all(after == before // 2 for before, after in zip(halves, halves[1:], strict=False))
        assert answer == prompt.problem.answer == str(sum(half % 2 for half in halves))
        assert prompt.problem.entry["compact"] == f"bits({halves[0]})=" and halves[-1] == 1


def test_a_family_without_demonstrations_is_refused_by_name():
    prompt = PromptMaker(DataConfig(), load_tokenizer("bytes"))(logic.generate("lcm", {}, 0, 0))
    with pytest.raises(ValueError, match="lcm.*chain_sum"):
        demonstration(prompt, DataConfig(), direct=False)


def test_a_data_sets_worked_solution_is_the_thought():
    maker = PromptMaker(DataConfig(answer_pattern=r"####\s*(.+)"), load_tokenizer("bytes"))
    from lightning_cispo.rewards.verdict import Problem

    prompt = maker(Problem("How many?", "72", "math", "gsm8k", {"solution": "48+24 = 72.\n#### 72"}))
    text = demonstration(prompt, maker.data, direct=False)
    assert text == "<think>48+24 = 72.</think>\\boxed{72}"


def test_samples_count_the_response_alone():
    tokenizer = load_tokenizer("bytes")
    given = prompts("chain_sum", 8)
    made = demonstration_samples(given, DataConfig(), tokenizer, seed=0, step=0, direct_fraction=0.5)
    assert sum(sample.loss_mask_T.sum() * sample.scale for sample in made) == pytest.approx(1)
    for prompt, sample in zip(given, made, strict=True):
        length = len(prompt.tokens_T)
        assert not sample.loss_mask_T[:length].any() and sample.loss_mask_T[length:].all()
        assert sample.tokens_T[-1] == tokenizer.eos_token_id
    thinking = [tokenizer.convert_tokens_to_ids("<think>") in sample.tokens_T for sample in made]
    assert any(thinking) and not all(thinking)
