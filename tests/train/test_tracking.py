"""Metric names, the run's files across kills and resumes, W&B without a network."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lightning_cispo.configs.schema import RunConfig, TrackingMode
from lightning_cispo.rewards.verdict import Problem, Status
from lightning_cispo.rl.types import Group, Prompt
from lightning_cispo.train.folder import free_name
from lightning_cispo.train.interrupt import StoppedAtOnce
from lightning_cispo.train.metrics import METRICS, UnknownMetric, describe, markdown
from lightning_cispo.train.tracking import Tracker, read_lines, read_metrics
from lightning_cispo.train.wandb_file import _records, history
from lightning_cispo.train.wandb_run import _mode
from tests.train.fake_run import HOSTILE, fake_config, trajectory

ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=120, check=False
    )


def group(*rewards: float | None, task: str = "chain_sum") -> Group:
    problem = Problem("1+1=", "2", "chain_sum", task)
    answers = [trajectory(f"<think>{i}</think>2", reward, i, step=3) for i, reward in enumerate(rewards)]
    return Group(Prompt(7, problem, np.zeros(4, np.int32)), answers)


# Names


def test_the_page_of_metrics_is_the_table() -> None:
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == markdown()
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names)) and all(metric.unit and metric.description for metric in METRICS)
    assert all(f"| `{name}` |" in markdown() for name in names)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("reward/mean", "reward/mean"),
        ("reward/format", "reward/<part>"),
        ("reward/my part", "reward/<part>"),
        ("eval/task/my data/pass@1", "eval/task/<family>/pass@1"),
        ("eval/pass@1", "eval/pass@1"),
        ("eval/task/openai/gsm8k/pass@1", "eval/task/<family>/pass@1"),
    ],
)
def test_a_name_finds_its_row(name: str, row: str) -> None:
    assert describe(name).name == row


@pytest.mark.parametrize("name", "reward reward/ policy/clpi eval/task//pass@1 Policy/loss xpolicy/loss".split())
def test_a_name_outside_the_table_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with Tracker(tmp_path, fake_config()) as tracker:
        with pytest.raises(UnknownMetric, match=re.escape(repr(name))):
            tracker.log(1, {"policy/loss": 1.0, name: 1.0})
    assert read_metrics(tmp_path) == []


# Files


def test_a_line_holds_step_time_and_finite_values(tmp_path: Path) -> None:
    with Tracker(tmp_path, fake_config()) as tracker:
        tracker.log(3, {"policy/loss": float("nan"), "policy/version": 4, "reward/mean": np.float32(0.5)})
    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert line.pop("time/wall_s") >= 0
    assert line == {"step": 3, "policy/loss": None, "policy/version": 4, "reward/mean": 0.5}


def test_a_killed_run_keeps_its_lines(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from tests.train.fake_run import fake_config
from lightning_cispo.train.tracking import Tracker
tracker = Tracker(Path(sys.argv[1]), fake_config())
for step in (1, 2, 3):
    tracker.log(step, {"reward/mean": step})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(code, str(tmp_path)).returncode == -9
    assert [line["reward/mean"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with Tracker(tmp_path, fake_config()) as tracker:
        tracker.log(0, {"warm_start/step": 1, "warm_start/loss": 2.0})
        for step in (1, 2, 3):
            tracker.log(step, {"reward/mean": step, "time/wall_s": 100.0 * step})
            tracker.log_traces(step, [group(1.0)])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "rew')  # killed while writing
    with open(tmp_path / "traces" / "step-000002.jsonl", "a") as file:
        file.write('{"step": 2, "pro')
    with Tracker(tmp_path, fake_config(), resumed_step=2) as tracker:
        assert sorted(int(path.stem[-6:]) for path in (tmp_path / "traces").glob("*.jsonl")) == [1, 2]
        tracker.log(3, {"reward/mean": 30})
        tracker.log_traces(2, [group(0.0)], kind="eval")
    lines = read_metrics(tmp_path)
    assert [(line["step"], line.get("reward/mean")) for line in lines] == [(0, None), (1, 1), (2, 2), (3, 30)]
    assert 200 <= lines[-1]["time/wall_s"] < 300  # goes on from the last line kept
    assert [trace["kind"] for trace in read_lines(tmp_path / "traces" / "step-000002.jsonl")] == ["train", "eval"]


def test_a_run_resumed_at_step_0_drops_its_first_evaluation(tmp_path: Path) -> None:
    with Tracker(tmp_path, fake_config()) as tracker:
        for step in (1, 2, 3):
            tracker.log(0, {"warm_start/step": step})
        tracker.log(0, {"eval/pass@1": 0.5})
        tracker.log_traces(0, [group(1.0)], kind="eval")
    with Tracker(tmp_path, fake_config(), resumed_step=0):
        pass
    assert [line.get("warm_start/step") for line in read_metrics(tmp_path)] == [1, 2, 3]
    assert not list((tmp_path / "traces").iterdir())
    with Tracker(tmp_path, fake_config(), resumed_step=0, resumed_warm_start_step=2):
        pass
    assert [line.get("warm_start/step") for line in read_metrics(tmp_path)] == [1, 2]


def test_a_start_that_failed_leaves_its_name_free(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with Tracker(tmp_path / "run", fake_config()):
        assert free_name(tmp_path, "run") == "run-2"  # one that starts now
    assert free_name(tmp_path, "run") == "run"
    with Tracker(tmp_path / "run", fake_config()) as tracker:
        tracker.log(1, {"reward/mean": 0.0})
    (tmp_path / "run-2" / "checkpoints" / "step-000001").mkdir(parents=True)
    assert free_name(tmp_path, "run") == "run-3"


def test_another_runs_metrics_are_not_written_over(tmp_path: Path) -> None:
    with Tracker(tmp_path, fake_config()) as tracker:
        tracker.log(1, {"reward/mean": 0.0})
    with pytest.raises(FileExistsError, match="resume it or choose another name"):
        Tracker(tmp_path, fake_config())
    assert len(read_metrics(tmp_path)) == 1


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ValueError):
        read_metrics(tmp_path)


def test_traces_hold_every_response_with_its_verdict(tmp_path: Path) -> None:
    masked = Group(group(0.0).prompt, [trajectory(HOSTILE, None, 0, status=Status.infra_error)])
    with Tracker(tmp_path, fake_config()) as tracker:
        tracker.log_traces(12, [group(1.0, 0.0), masked])
    first, second, third = read_lines(tmp_path / "traces" / "step-000012.jsonl")
    assert first == {
        "step": 12,
        "kind": "train",
        "group": 0,
        "sample": 0,
        "task": "chain_sum",
        "question": "1+1=",
        "prompt": "1+1=",
        "response": "<think>0</think>2",
        "gold": "2",
        "reward": 1.0,
        "correct": True,
        "parts": {"correct": 1.0, "format": 1.0},
        "error": "",
        "status": "pass",
        "stop": "eos",
        "tokens": 17,
        "versions": [3, 3],
        "mean_logprob": -0.25,
        "prompt_ids": [0] * 4,
        "token_ids": [0] * 17,
    }
    assert (second["group"], second["sample"], second["correct"]) == (0, 1, False)
    assert (third["group"], third["reward"], third["status"], third["response"]) == (1, None, "infra_error", HOSTILE)


def test_a_trace_holds_the_text_that_the_policy_read(tmp_path: Path) -> None:
    with Tracker(tmp_path, fake_config()) as tracker:
        tracker.log_traces(1, [group(1.0)], decode=lambda tokens_T: f"<user>{len(tokens_T)} tokens")
    (trace,) = read_lines(tmp_path / "traces" / "step-000001.jsonl")
    assert (trace["question"], trace["prompt"]) == ("1+1=", "<user>4 tokens")


# W&B


def test_disabled_needs_no_wandb(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["wandb"] = None  # importing it raises ImportError
from pathlib import Path
from tests.train.fake_run import fake_config
from lightning_cispo.train.tracking import Tracker
with Tracker(Path(sys.argv[1]), fake_config()) as tracker:
    tracker.log(1, {"reward/mean": 0.5})
"""
    done = python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(read_metrics(tmp_path)) == 1 and not (tmp_path / "wandb").exists()


OFFLINE = """
import sys
from pathlib import Path
from lightning_cispo.configs.schema import TrackingMode
from tests.train.fake_run import fake_config
from lightning_cispo.train.tracking import Tracker
mode, folder, *resumed = sys.argv[1:]
with Tracker(Path(folder), fake_config(mode=TrackingMode(mode)), int(resumed[0]) if resumed else None) as tracker:
    tracker.log(0, {"warm_start/step": 1, "warm_start/loss": 2.0})
    tracker.log(0, {"warm_start/step": 2, "warm_start/loss": 1.0})
    tracker.log(1, {"eval/pass@1": 0.5, "policy/loss": float("nan")})
"""


@pytest.fixture
def nowhere(tmp_path: Path) -> tuple[dict[str, str], Callable[[], int]]:
    """An environment in which every way out of wandb leads to a socket here, and how many came."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    url = f"http://127.0.0.1:{server.getsockname()[1]}"

    def visits() -> int:
        count = 0
        try:
            while True:
                server.accept()
                count += 1
        except BlockingIOError:
            return count

    ways = ("WANDB_BASE_URL", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    return dict.fromkeys(ways, url) | {"HOME": str(tmp_path / "home"), "NETRC": "/dev/null"}, visits


def test_offline_keeps_the_same_names_and_opens_no_connection(
    tmp_path: Path, nowhere: tuple[dict[str, str], Callable[[], int]]
) -> None:
    environment, visits = nowhere
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    first = python(OFFLINE, "offline", str(run_dir), **environment)
    assert first.returncode == 0, first.stderr
    run_id = (run_dir / "wandb_id").read_text()
    resumed = python(OFFLINE, "offline", str(run_dir), "0", **environment)
    assert resumed.returncode == 0, resumed.stderr
    assert visits() == 0
    assert (run_dir / "wandb_id").read_text() == run_id
    files = list((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [path.name for path in files] == [f"run-{run_id.strip()}.wandb"] * 2
    before, after = map(history, sorted(files))
    written = read_metrics(run_dir)[-3:]
    for line, kept in zip(after, written):
        assert {name for name in line if not name.startswith("_")} == set(kept)
    assert [line["_step"] for line in before] == [0, 1, 2]
    assert [line["_step"] for line in after] == [3, 4, 5]  # goes on where the first left off
    assert after[2]["eval/pass@1"] == 0.5


def test_online_without_a_login_is_offline_and_says_so(
    tmp_path: Path, nowhere: tuple[dict[str, str], Callable[[], int]]
) -> None:
    environment, visits = nowhere
    done = python(OFFLINE, "online", str(tmp_path), **environment)
    assert done.returncode == 0, done.stderr
    assert "not logged in" in done.stderr and visits() == 0
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_online_that_w_and_b_does_not_confirm_is_offline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb")

    def login(**options: object) -> bool:
        raise wandb.errors.AuthenticationError("no answer")

    monkeypatch.setattr(wandb, "login", login)
    assert _mode(TrackingMode.online) == "offline" and "no answer" in capsys.readouterr().err
    monkeypatch.setattr(wandb, "login", lambda **options: True)
    assert _mode(TrackingMode.online) == "online" and capsys.readouterr().err == ""


KILLED = """
import os, signal, sys
from pathlib import Path
from lightning_cispo.configs.schema import TrackingMode
from tests.train.fake_run import fake_config
from lightning_cispo.train.tracking import Tracker
folder, steps, *resumed = sys.argv[1:]
tracker = Tracker(Path(folder), fake_config(mode=TrackingMode.offline), int(resumed[0]) if resumed else None)
for step in range(int(resumed[0]) + 1 if resumed else 1, int(steps) + 1):
    tracker.log(step, {"reward/mean": step / 100})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_lines_that_a_kill_took_from_w_and_b_are_written_again_on_resume(
    tmp_path: Path, nowhere: tuple[dict[str, str], Callable[[], int]]
) -> None:
    environment, _ = nowhere
    assert python(KILLED, str(tmp_path), "52", **environment).returncode == -9
    assert python(KILLED, str(tmp_path), "53", "50", **environment).returncode == -9
    code = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "tracker.close()")
    done = python(code, str(tmp_path), "54", "51", **environment)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 3
    found = {line["step"]: line["reward/mean"] for path in files for line in history(path)}
    assert found == {step: step / 100 for step in range(1, 55)}
    steps = [line["_step"] for path in files for line in history(path)]
    assert steps == sorted(set(steps)), "W&B drops a line whose internal step goes back"


def exit_code(path: Path) -> int | None:
    """What W&B will show of the run: finished for 0, failed for others, crashed without any."""
    from wandb.proto import wandb_internal_pb2 as internal

    for data in _records(path.read_bytes()):
        record = internal.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        if record.HasField("exit"):
            return record.exit.exit_code
    return None


ENDED = """
import sys
from pathlib import Path
from lightning_cispo.configs.schema import TrackingMode
from lightning_cispo.train.run import Run
from tests.train.fake_run import fake_config
from lightning_cispo.train.tracking import Tracker
import signal

folder, how = Path(sys.argv[1]), sys.argv[2]

class Small(Run):
    def _open(self):
        from lightning_cispo.train.interrupt import StopRequest
        self.stop = StopRequest()
        self.tracker = self._stack.enter_context(Tracker(folder, fake_config(mode=TrackingMode.offline)))
        self.tracker.log(1, {"reward/mean": 0.5})
        if how == "while it opens":
            raise OSError("planted")

try:
    with Small(fake_config()) as run:
        if how == "stopped":
            run.stop.signal = signal.SIGTERM
except BaseException as error:
    print(repr(error))
"""


def test_a_tracker_ends_with_the_programs_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(Tracker, "close", lambda self, exit_code=0: ended.append(exit_code))
    for error in (None, RuntimeError("planted"), KeyboardInterrupt(), StoppedAtOnce(signal.SIGTERM)):
        with suppress(BaseException), Tracker(tmp_path, fake_config()):
            if error:
                raise error
    assert ended == [0, 1, 130, 143]


@pytest.mark.parametrize(("how", "code"), [("while it opens", 1), ("stopped", 143)])
def test_w_and_b_is_told_how_the_run_ended(
    how: str, code: int, tmp_path: Path, nowhere: tuple[dict[str, str], Callable[[], int]]
) -> None:
    environment, _ = nowhere
    done = python(ENDED, str(tmp_path), how, **environment)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert exit_code(path) == code


# Console


def test_the_default_is_offline() -> None:
    assert RunConfig().tracking.mode is TrackingMode.offline
