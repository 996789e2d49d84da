"""Generated reasoning problems with checkable answers: reasoning-gym's families that withstand a policy.

Importing this room does not import reasoning-gym (1.8 s, 100 MB); the first generated problem does.
"""

from rewards.logic.compact import COMPACT, compact
from rewards.logic.families import ADMITTED, REJECTED, Judge
from rewards.logic.generation import check_params, generate
from rewards.logic.judge import judge

__all__ = ["ADMITTED", "COMPACT", "REJECTED", "Judge", "check_params", "compact", "generate", "judge"]
