"""Numbers: answers derived from the question's text alone, in exact arithmetic."""

from __future__ import annotations

import math
import re
from fractions import Fraction


def integers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"-?\d+", text)]


def prime_factors(number: int) -> list[int]:
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found


def base_conversion(question: str) -> str:
    named = {"binary": "base-2", "hexadecimal": "base-16"}
    found = re.search(r"convert the (\S+) number (\w+) to (\S+)$", question.strip())
    assert found
    given, asked = (int(named.get(base, base).removeprefix("base-")) for base in (found[1], found[3]))
    number, base, digits = int(found[2], given), asked, ""
    while number:
        number, digit = divmod(number, base)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


def count_primes(question: str) -> str:
    low, high = integers(question)
    return str(sum(len(prime_factors(n)) == 1 for n in range(max(2, low), high + 1)))


def dice(question: str) -> str:
    sides = [int(n) for n in re.findall(r"1d(\d+)", question.split("What")[0])]
    found = re.search(r"rolling (\d+) or higher", question)
    assert found
    totals = {0: 1}
    for side in sides:
        after: dict[int, int] = {}
        for total, ways in totals.items():
            for face in range(1, side + 1):
                after[total + face] = after.get(total + face, 0) + ways
        totals = after
    chance = Fraction(sum(n for total, n in totals.items() if total >= int(found[1])), math.prod(sides))
    return f"{chance.numerator}/{chance.denominator}"


def gcd(question: str) -> str:
    return str(math.gcd(*integers(question)))


def lcm(question: str) -> str:
    return str(math.lcm(*integers(question)))


def count_bits(question: str) -> str:
    return str(bin(integers(question)[-1]).count("1"))
