"""Tasks whose difficulty follows the policy's pass rate while it trains."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning_cispo.configs.schema import TaskConfig
from lightning_cispo.rewards.logic import Curriculum
from lightning_cispo.rewards.verdict import Problem
from lightning_cispo.rl.types import Group

_ENTRY = "course"  # where a problem keeps which task asked it, and at which level
_PATIENCE = 2000  # problems in a row that cannot be asked after which a level is given up
_log = logging.getLogger(__name__)


class Courses:
    """One curriculum for each task that has one, by the task's place in the list."""

    def __init__(self, tasks: Sequence[TaskConfig]):
        self.tasks = tasks
        self.curricula: dict[int, Curriculum] = {}
        self._unusable: Counter[int] = Counter()  # problems in a row, by task
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

    def note(self, problem: Problem, usable: bool) -> None:
        """Count problems that cannot be asked (held out, too long). A level that has no others is given up."""
        index, _ = problem.entry.get(_ENTRY, (-1, 0))
        if index not in self.curricula:
            return
        self._unusable[index] = 0 if usable else self._unusable[index] + 1
        if self._unusable[index] >= _PATIENCE:
            self._give_up(index)

    def retreat(self) -> bool:
        """Give up the levels of all raised curricula, where together they have too few distinct problems.

        False if none is above its lowest level.
        """
        return any([self._give_up(index) for index in self.curricula])

    def patience(self, otherwise: int) -> int:
        """Draws in a row without a new problem after which `retreat` is due; `otherwise` where it would do nothing."""
        raised = any(course.level > course.least for course in self.curricula.values())
        return min(otherwise, _PATIENCE) if raised else otherwise

    def _give_up(self, index: int) -> bool:
        course, self._unusable[index] = self.curricula[index], 0
        given_up = course.level
        if not course.retreat():
            return False
        said = "%s: level %d has too few problems; the curriculum stays at %d or below"
        _log.warning(said, self._name(index), given_up, course.most)
        return True

    def _name(self, index: int) -> str:
        """The family, with the task's place in data.tasks where several curricula share it."""
        family = self.tasks[index].family
        alone = sum(self.tasks[other].family == family for other in self.curricula) == 1
        return family if alone else f"{family}-{index}"

    def record(self, groups: Sequence[Group]) -> dict[str, float]:
        """Takes note of the verdicts, masked ones aside; gives the levels from now on as metrics."""
        for group in groups:
            index, level = group.prompt.problem.entry.get(_ENTRY, (-1, 0))
            for trajectory in group.trajectories if index in self.curricula else ():
                if trajectory.verdict.reward is not None:
                    self.curricula[index].record(trajectory.verdict.correct, level)
        return {f"curriculum/{self._name(index)}/level": float(c.level) for index, c in self.curricula.items()}

    def state(self) -> list[list[Any]]:
        """For a checkpoint: of each curriculum its level, the verdicts at it so far, its highest level, and how many
        problems in a row could not be asked."""
        return [[i, c.level, list(c.recent), c.most, self._unusable[i]] for i, c in self.curricula.items()]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        self._unusable.clear()
        for index, level, recent, *limits in state:
            if index in self.curricula:
                course = self.curricula[index]
                if limits:
                    most, self._unusable[index] = limits
                    course.most = min(course.most, max(course.least, most))
                course.level = min(course.most, max(course.least, level))
                course.recent = deque(recent)
