"""Tasks whose difficulty follows the policy's pass rate while it trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning_cispo.configs.schema import TaskConfig
from lightning_cispo.rewards.logic import Curriculum
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.types import Group

_ENTRY = "course"  # where a problem keeps which task asked it, and at which level


class Courses:
    """One curriculum for each task that has one, by the task's place in the list."""

    def __init__(self, tasks: Sequence[TaskConfig]):
        self.tasks = tasks
        self.curricula: dict[int, Curriculum] = {}
        for index, task in enumerate(tasks):
            if task.curriculum is not None:
                options = {name: value for name, value in asdict(task.curriculum).items() if name != "parameter"}
                self.curricula[index] = Curriculum(**options)

    def params(self, index: int) -> dict[str, Any]:
        """A task's parameters as they are now."""
        task = self.tasks[index]
        if task.curriculum is None:
            return task.params
        return {**task.params, task.curriculum.parameter: self.curricula[index].level}

    def mark(self, problem: Problem, index: int) -> Problem:
        if index in self.curricula:
            problem.entry[_ENTRY] = [index, self.curricula[index].level]
        return problem

    def record(self, groups: Sequence[Group]) -> dict[str, float]:
        """Takes note of the verdicts, masked ones aside; gives the levels from now on as metrics."""
        for group in groups:
            index, level = group.prompt.problem.entry.get(_ENTRY, (-1, 0))
            for trajectory in group.trajectories if index in self.curricula else ():
                if trajectory.verdict.reward is not None:
                    self.curricula[index].record(trajectory.verdict.correct, level)
        return {f"curriculum/{self.tasks[i].family}/level": float(c.level) for i, c in self.curricula.items()}

    def state(self) -> list[list[Any]]:
        """For a checkpoint: of each curriculum its level and the verdicts at it so far."""
        return [[index, course.level, list(course.recent)] for index, course in self.curricula.items()]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        for index, level, recent in state:
            if index in self.curricula:
                course = self.curricula[index]
                course.level = min(course.most, max(course.least, level))
                course.recent = deque(recent)
