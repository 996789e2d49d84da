"""What a run says on the terminal: progress bars, one line a step, pass@1 before and after."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

MISSING = "–"


class Console:
    """Bars go to stderr and vanish when done; lines go to stdout and stay. Without a terminal there are no bars."""

    def __init__(self, progress: bool = True) -> None:
        self._shown = progress and sys.stderr.isatty()

    def bar(self, total: int, label: str, unit: str = "it") -> tqdm[Any]:
        """A bar to be used in a `with`: `.update(n)` moves it, `.set_postfix(loss=1.2)` adds values.

        `label` is padded so that bars stand below one another.
        """
        return tqdm(
            total=total,
            desc=f"{label:<10}",
            unit=unit,
            leave=False,
            dynamic_ncols=True,
            disable=not self._shown,
            smoothing=0.1,
        )

    def line(self, text: str) -> None:
        """A line of text that a bar on the screen does not run through."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def supervised(self, step: int, steps: int, loss: float) -> None:
        """A tenth of the warm start at a time, where no bar shows it."""
        if not self._shown and (step % -(-steps // 10) == 0 or step == steps):
            self.line(f"warm start {step:>{len(str(steps))}}/{steps}  loss {loss:.3f}")

    def step(self, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        self.line(step_line(step, steps, metrics))
        if metrics.get("groups/kept") == 0:
            judged = "reward/mean" in metrics
            why = "within each, all judged responses are equal" if judged else "no response has a verdict"
            self.line(f"step {step}: no group carried a gradient, the weights did not change; {why}")

    def evaluation(self, label: str, metrics: Mapping[str, float], error: str = "") -> None:
        """One line of an evaluation under `label`. `error` is what a verifier that failed said."""
        self.line(f"{label}: {evaluation_text(metrics, error)}")


def step_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """The step in one line of constant layout; what was not measured is a dash."""

    def show(name: str, form: str, width: int, scale: float = 1.0) -> str:
        value = metrics.get(name)
        return f"{MISSING if value is None else format(value * scale, form):>{width}}"

    count = f"{step:>{len(str(steps))}}/{steps}"
    return "  ".join(
        [
            f"step {count}",
            f"reward {show('reward/mean', '.3f', 6)}",
            f"correct {show('reward/correct', '.1f', 5, 100)}%",
            f"length {show('response/tokens_mean', '.1f', 6)} p99 {show('response/tokens_p99', '.0f', 5)}",
            f"entropy {show('policy/entropy', '.3f', 5)}",
            f"kept {_kept(metrics):>7}",
            f"clip {show('policy/clip_fraction', '.1f', 4, 100)}%",
            f"grad {show('policy/grad_norm', '.1e', 7)}",
            f"{show('throughput/tokens_per_s', ',.0f', 6)} tok/s",
            f"{show('time/step_s', '.1f', 5)} s",
        ]
    )


def _kept(metrics: Mapping[str, float]) -> str:
    """`3/4`: groups trained on, of all."""
    if "groups/kept" not in metrics:
        return MISSING
    kept, dropped = metrics["groups/kept"], metrics.get("groups/dropped", 0)
    return f"{kept:.0f}/{kept + dropped:.0f}"


def evaluation_text(metrics: Mapping[str, float], error: str = "") -> str:
    """`pass@1 35.2% [31.1, 39.4], n=600, thinking 88%`, and what could not be judged."""
    masked = metrics.get("eval/masked", 0)
    unjudged = f"{masked:.0f} {'response has' if masked == 1 else 'responses have'} no verdict ({error})"
    if "eval/pass@1" not in metrics:
        return unjudged if masked else "no problems"
    parts = [f"pass@1 {pass_at_1(metrics)}", f"n={metrics['eval/problems']:.0f}"]
    parts.append(f"thinking {100 * metrics['eval/thinking']:.0f}%")
    if truncated := metrics.get("eval/truncated"):
        parts.append(f"{100 * truncated:.0f}% cut at the token limit")
    return ", ".join([*parts, unjudged] if masked else parts)


def pass_at_1(metrics: Mapping[str, float]) -> str:
    """`35.2% [31.1, 39.4]`: percent with its 95 % interval, of an evaluation's metrics."""
    value, low, high = (100 * metrics[f"eval/pass@1{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def summary_line(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> str:
    """`pass@1 before 35.2% [31.1, 39.4] -> after 58.4% [54.1, 62.6]`; an evaluation that was not made is a dash."""
    shown = [pass_at_1(metrics) if metrics else MISSING for metrics in (before, after)]
    return f"pass@1 before {shown[0]} -> after {shown[1]}"
