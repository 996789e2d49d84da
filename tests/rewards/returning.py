"""A user's verifier that returns anything; apart from the others, whose processes need not load NumPy and torch."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch

from lightning_cispo.rewards.verdict import Problem, Response, Status, Verdict

_SCOPE = {"np": np, "torch": torch, "nan": math.nan, "inf": math.inf, "Fraction": Fraction, "Decimal": Decimal}


def returns(problem: Problem, response: Response) -> object:
    """Whatever Python expression the gold is."""
    return eval(problem.answer, _SCOPE | {"Verdict": Verdict, "Status": Status})
