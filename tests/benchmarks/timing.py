"""What is measured of one synchronous RL step, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step. `generate_s` includes the rewards, `update_s` all the rest, weight publication too."""

    generate_s: float
    update_s: float
    generated: int  # response tokens
    trained: int  # response tokens that the loss counted

    @property
    def seconds(self) -> float:
        return self.generate_s + self.update_s


COLUMNS = ("side", "s/step", "generate s", "update s", "tok/s end to end")


def row(side: str, steps: Sequence[StepTime]) -> list[str]:
    """Medians over the steps; tokens/s is that of the median step."""
    seconds = median(step.seconds for step in steps)
    parts = median(step.generate_s for step in steps), median(step.update_s for step in steps)
    tokens = median(step.generated for step in steps)
    return [side, *(f"{value:.3f}" for value in (seconds, *parts)), f"{tokens / seconds:,.0f}"]


def ratio_row(ours: Sequence[StepTime], peer: Sequence[StepTime]) -> list[str]:
    """How many times faster ours is, from the medians."""

    def times(pick: str) -> float:
        return median(getattr(step, pick) for step in peer) / median(getattr(step, pick) for step in ours)

    whole = f"{times('seconds'):.2f}x"
    return ["ratio", whole, f"{times('generate_s'):.2f}x", f"{times('update_s'):.2f}x", whole]


def table(ours: Sequence[StepTime], peer: Sequence[StepTime] = ()) -> str:
    """Markdown: ours, and the peer with the ratio where there is one."""
    rows = [list(COLUMNS), ["---"] + ["---:"] * (len(COLUMNS) - 1), row("ours", ours)]
    if peer:
        rows += [row("TRL", peer), ratio_row(ours, peer)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
