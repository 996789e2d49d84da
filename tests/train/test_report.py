"""The report page: what is put into it, and what a browser makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.types import Group, Prompt
from lightning_cispo.train.report import data as report_data
from lightning_cispo.train.report import write_report, write_screenshot
from lightning_cispo.train.report.data import _water_level, embed, read_run, read_traces
from lightning_cispo.train.report.screenshot import find_chromium
from lightning_cispo.train.tracking import Tracker
from tests.train.browser import Browser
from tests.train.fake_run import HOSTILE, evaluation, fake_config, make_run, trajectory

STEPS = 45
EVALUATED = [0, 20, 40, 45]
TRACES = STEPS * 32 + len(EVALUATED) * 32 + 1


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "fake", steps=STEPS)


@pytest.fixture(scope="module")
def report(run_dir: Path) -> Path:
    return write_report(run_dir)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no chromium on the PATH: the page is not tried in a browser")
    browser = Browser(binary, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Browser, report: Path) -> Browser:
    chromium.requests.clear()
    chromium.errors.clear()
    chromium.open(report)
    assert chromium.errors == []
    return chromium


def texts(page: Browser, selector: str) -> list[str]:
    return page(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.textContent)")


def column(page: Browser, number: int) -> list[str]:
    return texts(page, f"tr.trace td:nth-child({number})")


def matching(page: Browser) -> int:
    return int(texts(page, "#trace-count")[0].split(" of ")[-1].replace(",", ""))


def choose(page: Browser, name: str, value: object) -> None:
    select = f"document.querySelector('select[name={name}]')"
    page(f"{select}.value = {json.dumps(json.dumps(value))}; {select}.dispatchEvent(new Event('change'))")


def search(page: Browser, words: str) -> None:
    box = "document.querySelector('input[type=search]')"
    page(f"{box}.value = {json.dumps(words)}; {box}.dispatchEvent(new Event('input'))")


def test_embedded_text_cannot_leave_its_element() -> None:
    assert not re.search(r"[<>&\u2028\u2029]", embed([HOSTILE]))
    assert json.loads(embed([HOSTILE])) == [HOSTILE]
    embed([HOSTILE]).encode("utf-8")


def test_the_page_asks_for_nothing_and_lets_nothing_else_run(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "script-src 'sha256-" in text
    head, page_data, script = re.split(r'<script type="application/json" id="data">|</script>\n<script>', text)
    assert page_data.count("<") == 0 and "window.hacked" in page_data
    links = re.findall(r"(?:src|href|url|import)\s*[=(]\s*[\"']?([^\"')\s>]+)", head)
    assert sorted(links) == ["#config", "#curves", "#traces", "data:,"]
    assert set(re.findall(r"https?://[^'\"\s]+", head + script)) == {"http://www.w3.org/2000/svg"}  # a name, not a link


def test_before_and_after_are_the_evaluations_around_rl(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert [line["step"] for line in run["evaluations"]] == EVALUATED
    assert run["evaluations"][0]["eval/pass@1"] == pytest.approx(0.35)
    assert dict(run["phases"])["warm start"] == pytest.approx(0.4 * 49)
    assert run["curves"]["step"] == list(range(STEPS + 1))  # a step's own line and its evaluation are one point
    assert len(run["warm_start"]["warm_start/loss"]) == 50


def test_all_traces_are_shown_while_they_fit(run_dir: Path) -> None:
    traces = read_traces(run_dir / "traces")
    assert traces["total"] == len(traces["rows"]) == TRACES


def test_more_traces_than_fit_are_sampled_from_every_step(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_data, "MAX_TRACE_BYTES", 60_000)
    traces = read_traces(run_dir / "traces")
    rows = [dict(zip(traces["fields"], row)) for row in traces["rows"]]
    assert traces["total"] == TRACES
    assert 30_000 < sum(len(embed(row)) for row in traces["rows"]) <= 60_000
    assert {row["step"] for row in rows} == set(range(STEPS + 1))
    assert {row["kind"] for row in rows if row["step"] == 20} == {"train", "eval"}
    assert read_traces(run_dir / "traces")["rows"] == traces["rows"]


def test_a_step_that_needs_less_leaves_the_rest_to_others() -> None:
    assert _water_level([10, 1000, 1000], 1010) == 500
    assert _water_level([10, 20], 1000) >= 20
    assert _water_level([], 1000) >= 0


def test_a_long_text_keeps_both_ends(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    trace = {"step": 1, "kind": "train", "group": 0, "response": "begin" + "x" * 100_000 + "end"}
    (folder / "step-000001.jsonl").write_text(json.dumps(trace) + "\n")
    response = read_traces(folder)["rows"][0][report_data.TRACE_FIELDS.index("response")]
    assert response.startswith("begin") and response.endswith("end")
    assert "characters left out" in response and len(response) < 21_000


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_summary_shows_both_evaluations(page: Browser) -> None:
    accuracy, thinking, tokens, _ = texts(page, ".tile")
    assert "35.0% → 57.9%" in accuracy and "+22.9 points" in accuracy
    assert "[30.9%, 39.1%]" in accuracy and "[53.7%, 62.2%]" in accuracy
    assert "65.0% → 87.9%" in thinking and "15.8 → 17.6" in tokens
    assert texts(page, ".badge") == ["finished"]


def test_every_curve_is_drawn_from_its_numbers(page: Browser, run_dir: Path) -> None:
    titles = texts(page, ".chart h3")
    assert len(titles) >= 18 and "Warm start: loss, nats per token" in titles and "Gradient norm" in titles
    drawn = page(
        "charts.map((chart) => [chart.spec.title, chart.spec.xs.length, chart.svg.querySelectorAll('path').length,"
        " [...chart.svg.querySelectorAll('path')].every((path) => path.getTotalLength() > 10)])"
    )
    for title, points, paths, long_enough in drawn:
        assert points >= 3 and paths >= 1 and long_enough, title
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    entropy = [line["policy/entropy"] for line in lines if "policy/entropy" in line]
    shown = page("charts.find((chart) => chart.spec.title === 'Entropy, nats').spec.series[0].ys")
    assert shown == pytest.approx(entropy, rel=1e-4)


def test_hovering_reads_the_step_under_the_pointer_off_every_chart(page: Browser) -> None:
    last = texts(page, ".chart:nth-child(5) .legend b")
    page.hover(".chart:nth-child(2) svg", 0.5)
    steps = {text for text in texts(page, ".chart .at") if text}
    assert len(steps) == 1
    step = int(steps.pop().removeprefix("step "))
    assert 15 <= step <= 30
    value = page(f"run.curves['policy/entropy'][run.curves.step.indexOf({step})]")
    assert [float(text) for text in texts(page, ".chart:nth-child(5) .legend b")] == [pytest.approx(value, rel=0.01)]
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    page.frame()
    assert texts(page, ".chart:nth-child(5) .legend b") == last


def test_smoothing_redraws_a_noisy_curve(page: Browser) -> None:
    paths = "charts.find((chart) => chart.spec.title === 'Memory of all processes, MiB').svg.querySelectorAll('path')"
    before = page(f"{paths}.length")
    page("document.getElementById('smoothing').value = 0.9")
    page("document.getElementById('smoothing').dispatchEvent(new Event('input'))")
    assert page("charts.every((chart) => chart.smoothing === 0.9)")
    assert (before, page(f"{paths}.length")) == (1, 2)  # the smoothed line, and the measured one faintly behind it
    assert page("average([0, 1, 0, 1], 0.5)") == pytest.approx([0, 2 / 3, 2 / 7, 2 / 3], abs=1e-9)


def test_sorting_orders_the_table(page: Browser) -> None:
    for number, name in ((1, "step"), (6, "tokens")):
        click = f"[...document.querySelectorAll('th button')].find((b) => b.textContent === '{name}').click()"
        page(click)
        ascending = [int(text) for text in column(page, number)]
        page(click)
        descending = [int(text) for text in column(page, number)]
        assert ascending == sorted(ascending) and descending == sorted(descending, reverse=True)
        assert ascending[0] < descending[0]
        assert page(f"document.querySelector('th:nth-child({number})').getAttribute('aria-sort')") == "descending"


def test_search_finds_text_anywhere_and_marks_it(page: Browser) -> None:
    everything = matching(page)
    search(page, "9+9=18")
    found = matching(page)
    assert 0 < found < everything
    assert all("9+9=18" in text for text in column(page, 9))
    page("document.querySelector('tr.trace').click()")
    assert texts(page, "tr.full mark") and set(texts(page, "tr.full mark")) == {"9+9=18"}
    search(page, "no such text at all")
    assert texts(page, "tbody .empty") == ["No trace matches."]
    search(page, "")
    assert matching(page) == everything


def test_filters_narrow_and_combine(page: Browser) -> None:
    everything = matching(page)
    choose(page, "kind", "eval")
    assert matching(page) == len(EVALUATED) * 32
    choose(page, "step", 20)
    assert matching(page) == 32 and set(column(page, 1)) == {"20"} and set(column(page, 2)) == {"eval"}
    choose(page, "correct", True)
    right = matching(page)
    choose(page, "correct", False)
    assert 0 < right < 32 and right + matching(page) == 32 < everything


def test_pages_turn(page: Browser) -> None:
    first = column(page, 9)
    page("document.querySelectorAll('.pager button')[1].click()")
    assert texts(page, "#trace-count")[0].startswith("26–50 of")
    assert column(page, 9) != first
    page("document.querySelectorAll('.pager button')[0].click()")
    assert column(page, 9) == first


def test_all_responses_to_a_prompt_can_be_seen_together(page: Browser) -> None:
    choose(page, "kind", "train")
    page("document.querySelector('tr.trace').click()")
    page("document.querySelector('tr.full .link').click()")
    assert matching(page) == 8 and len(set(column(page, 8))) == 1
    page("document.querySelector('.pager .link').click()")
    assert matching(page) == STEPS * 32 + 1


def test_hostile_text_is_only_text(page: Browser) -> None:
    search(page, "window.hacked")
    assert matching(page) == 1
    page("document.querySelector('tr.trace').click()")
    page.frame()
    assert texts(page, "pre.response") == [HOSTILE]
    assert page("typeof window.hacked") == "undefined"
    assert page("document.querySelectorAll('#traces :is(img, script, i, a)').length") == 0
    assert page.errors == []
    assert {url.split("?")[0] for url in page.requests} == {page("location.href")}


def test_the_config_is_there_as_written(page: Browser, run_dir: Path) -> None:
    assert texts(page, "#config pre") == [(run_dir / "config.yaml").read_text()]


@pytest.mark.parametrize("dark", [False, True])
def test_colours_follow_the_system_and_nothing_is_wider_than_a_phone(
    chromium: Browser, report: Path, dark: bool
) -> None:
    chromium.open(report, width=390, dark=dark)
    red = int(chromium("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")[0])
    assert red < 60 if dark else red > 200
    chromium("document.querySelector('tr.trace').click()")
    assert chromium("document.documentElement.scrollWidth") == 390
    assert chromium("Math.min(...charts.map((chart) => chart.svg.clientWidth))") > 250


def test_a_run_without_anything_says_so(chromium: Browser, tmp_path: Path) -> None:
    chromium.errors.clear()
    chromium.open(write_report(tmp_path))
    assert chromium.errors == []
    said = texts(chromium, ".empty")
    assert len(said) == 3 and "No metrics" in said[0] and "no traces" in said[1] and "config.yaml" in said[2]
    assert "not evaluated yet" in texts(chromium, ".tile")[0]


def test_an_unfinished_run_shows_what_it_has(chromium: Browser, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "cut", steps=60, done=7)
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "reward/me')  # killed while writing
    chromium.errors.clear()
    chromium.open(write_report(run_dir))
    assert chromium.errors == []
    assert texts(chromium, ".badge") == ["unfinished"] and "7 of 60 steps" in texts(chromium, "#facts")[0]
    assert "35.0% → –" in texts(chromium, ".tile")[0]
    assert chromium("charts.find((chart) => chart.spec.title === 'Gradient norm').spec.xs.length") == 7


def test_a_warm_start_alone_is_called_that(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write_report(make_run(tmp_path / "sft", steps=60, done=0)))
    assert texts(chromium, ".badge") == ["warm start"] and "0 of 60 steps" in texts(chromium, "#facts")[0]


def test_an_evaluation_without_a_verdict_is_one_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: evaluate-mine\n")
    line = {"step": 80, "eval/problems": 0, "eval/masked": 12, "eval/left_out": 3}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    run = read_run(tmp_path)
    assert run["evaluation_only"] and run["evaluations"] == [line]


def test_an_evaluation_shows_all_its_accuracies(chromium: Browser, tmp_path: Path) -> None:
    found = evaluation(0.25, problems=40) | {"eval/pass@8": 0.75}
    (tmp_path / "config.yaml").write_text("name: evaluate-mine-2\nsteps: 100\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 80, "time/wall_s": 9.0, **found}) + "\n")
    chromium.errors.clear()
    chromium.open(write_report(tmp_path))
    assert chromium.errors == []
    assert texts(chromium, ".badge") == ["evaluation"] and texts(chromium, "#facts") == ["40 problems · 9.0 s"]
    accuracy, others, *_ = texts(chromium, ".tile")
    assert "25.0%" in accuracy and "before" not in accuracy
    assert "pass@8 75.0%" in others and "chain_sum/pass@1 31.0%" in others


def test_a_trace_shows_the_question_and_what_the_policy_read(chromium: Browser, tmp_path: Path) -> None:
    problem = Problem("What is 2+2?", "4", "chain_sum", "chain_sum")
    group = Group(Prompt(1, problem, np.array([9], np.int32)), [trajectory("4", 1.0, 0)])
    with Tracker(tmp_path, fake_config()) as tracker:
        tracker.log_traces(1, [group], decode=lambda tokens_T: f"2+2= read from {tokens_T}")
    chromium.errors.clear()
    chromium.open(write_report(tmp_path))
    assert column(chromium, 8) == ["What is 2+2?"]
    chromium("document.querySelector('tr.trace').click()")
    assert texts(chromium, "tr.full pre") == ["What is 2+2?", "2+2= read from [9]", "4"]
    assert chromium.errors == []


def test_the_picture_holds_the_main_curves(chromium: Browser, report: Path, tmp_path: Path) -> None:
    chromium.open(report, query="?picture")
    assert len(texts(chromium, ".chart")) == 9
    height = chromium("document.documentElement.getBoundingClientRect().height")
    assert 0 <= int(chromium("document.body.dataset.height")) - height < 1
    image = write_screenshot(report, tmp_path / "curves.png").read_bytes()
    assert image.startswith(b"\x89PNG") and int.from_bytes(image[16:20], "big") == 1280
    assert int.from_bytes(image[20:24], "big") == int(chromium("document.body.dataset.height"))
