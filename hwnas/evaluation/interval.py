"""How far an accuracy counted on a few images can be trusted."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(correct: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The share that `correct` of `n` stands for, with that confidence.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"correct must lie in 0..n and n be at least 1, got {correct} of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0 and n the two terms cancel, but for rounding.
    return (0.0 if correct == 0 else middle - reach), (1.0 if correct == n else middle + reach)
