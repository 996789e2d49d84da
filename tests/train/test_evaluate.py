"""What an evaluation plans, says and returns; tests/train/test_end_to_end.py runs one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_cispo.configs.file import to_yaml
from lightning_cispo.configs.load import load_config
from lightning_cispo.model import checkpoint
from lightning_cispo.model.network import MiniMax
from lightning_cispo.model.tokenizer import load_tokenizer
from lightning_cispo.rl.types import Group
from lightning_cispo.train.evaluate import main, table
from lightning_cispo.train.state import RunState
from lightning_cispo.train.weights import weights_state
from tests.rl.builders import group


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 80 steps as it leaves its folder, without having trained."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    config = load_config(["experiment=smoke", "sampling.max_tokens=40", f"runs_dir={folder.parent}"])
    saved = folder / "checkpoints" / "step-000080"
    network = MiniMax(config.model).initialize(0)
    checkpoint.save(saved / "model", config.model, network.named_parameters(), load_tokenizer("bytes"))
    (saved / "state.json").write_text(json.dumps(asdict(RunState(step=80))))
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    texts = ["1 + 1?", "1 + 1?", "x" * 90, "2 + 2?", "3 + 3?"]
    path.write_text("".join(json.dumps({"question": text, "answer": "2"}) + "\n" for text in texts))
    return path


def test_a_dry_run_shows_the_evaluation(run: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = f"checkpoint={run}", f"data={questions}", "evaluation.samples=3", "evaluation.temperature=0", "dry_run=true"
    assert main(given) == 0
    out = capsys.readouterr().out
    assert f"{run / 'checkpoints/step-000080/model'}, after step 80" in out
    assert f"as in {run / 'config.yaml'}" in out
    assert f"{questions}: 3 of 5 problems; left out: 1 longer than data.max_prompt_tokens=64, 1 repeated" in out
    assert "3 problems x 3 = 9 responses" in out and "greedy, at most 40 tokens" in out and "evaluate-mine" in out
    for word in ("learner + ", "updates", "an update", "optimizer "):
        assert word not in out.partition("\n\n")[0], "nothing is trained"


def test_evaluations_of_nothing_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([f"checkpoint={run}", "evaluation.problems=0"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: evaluation.problems=0: leaves nothing to evaluate; set how many\n"


def test_where_weights_stand(run: Path, tmp_path: Path) -> None:
    state = weights_state(str(run))
    assert state and state.reached == "after step 80" and weights_state(str(tmp_path)) is None
    assert RunState(warm_start_step=9).reached == "after the warm start" and RunState().reached == "before training"


def test_estimates_over_fewer_problems_say_so() -> None:
    rows = table([group([1.0, 0.0]), group([1.0, None]), group([None, None])]).splitlines()
    assert len(rows) == 1 and rows[0].split()[:3] == ["all", "2", "problems"]
    assert "pass@1 75.0 % [" in rows[0] and "avg@2 75.0 % [" in rows[0]
    assert "pass@2 100.0 % [" in rows[0] and rows[0].endswith(" (n=1)")


@pytest.mark.parametrize(("groups", "code"), [([group([None])], 1), ([group([0.0])], 0)])
def test_an_evaluation_without_a_verdict_ends_with_1(
    run: Path, groups: list[Group], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stub:
        def __init__(self, config, learner):
            self.console = SimpleNamespace(line=print)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def publish_folder(self, folder):
            assert folder == str(run)

        def evaluate(self):
            return groups

    monkeypatch.setattr("lightning_cispo.train.run.Run", Stub)
    monkeypatch.setattr("lightning_cispo.train.conclude.conclude", lambda run, command: 0)
    assert main([f"checkpoint={run}"]) == code
    assert ("pass@1" in capsys.readouterr().out) == (code == 0)
