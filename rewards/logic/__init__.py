"""Generated reasoning problems with checkable answers: reasoning-gym's families that withstand a policy, and ten own.

Importing this room does not import reasoning-gym (1.8 s, 100 MB); the first generated problem does.
"""

from lightning_cispo.rewards.logic.compact import COMPACT, compact
from lightning_cispo.rewards.logic.curriculum import Curriculum
from lightning_cispo.rewards.logic.families import ADMITTED, REJECTED, Judge
from lightning_cispo.rewards.logic.generation import check_params, generate
from lightning_cispo.rewards.logic.judge import judge
from lightning_cispo.rewards.logic.puzzles import MAX_DIFFICULTY, PUZZLES

__all__ = [
    "ADMITTED",
    "COMPACT",
    "MAX_DIFFICULTY",
    "PUZZLES",
    "REJECTED",
    "Curriculum",
    "Judge",
    "check_params",
    "compact",
    "generate",
    "judge",
]
