"""Recipes of rows: so many, or such shares, of each source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch


def mix(
    sources: Mapping[str, Sequence],
    amounts: Mapping[str, float],
    *,
    generator: torch.Generator,
    total: int = 0,
    replacement: bool = False,
) -> list:
    """A shuffled recipe of rows: counts (whole numbers), or with a `total` shares of it that sum to 1, exact to the row
    by largest remainders.

    Without replacement no row comes twice: ValueError if a source is too small or two chosen rows are equal.
    """
    if unknown := amounts.keys() - sources.keys():
        raise ValueError(f"amounts are of {', '.join(sources)}, given {sorted(unknown)[0]!r}")
    counts = _counts(amounts, total)
    at_most = {n: math.inf if rows and replacement else len(rows) for n, rows in sources.items()}
    if short := [n for n, c in counts.items() if c > at_most[n]]:
        raise ValueError(
            f"{short[0]} has {len(sources[short[0]])} rows, {counts[short[0]]} are asked for: take fewer, or "
            "draw with replacement"
        )
    rows = []
    for name, c in counts.items():
        n = len(sources[name])
        if replacement and c:
            picks = torch.randint(n, (c,), generator=generator, device=generator.device)
        else:
            picks = torch.randperm(n, generator=generator, device=generator.device)[:c]
        rows += [sources[name][i] for i in picks.tolist()]
    if not replacement and len(set(rows)) < len(rows):
        raise ValueError(
            f"{len(rows) - len(set(rows))} of {len(rows)} rows are repeats: remove them from the sources, or "
            "draw with replacement"
        )
    return [rows[i] for i in torch.randperm(len(rows), generator=generator, device=generator.device).tolist()]


def _counts(amounts: Mapping[str, int | float], total: int) -> dict[str, int]:
    if not total:
        if bad := [n for n, a in amounts.items() if isinstance(a, bool) or not isinstance(a, int) or a < 0]:
            raise ValueError(
                f"without a total, amounts are whole numbers of at least 0, given {amounts[bad[0]]} of {bad[0]}"
            )
        return {n: int(a) for n, a in amounts.items()}
    if not math.isclose(sum(amounts.values()), 1, abs_tol=1e-9) or min(amounts.values()) < 0:
        raise ValueError(f"with a total, amounts are shares of at least 0 that sum to 1, given {dict(amounts)}")
    exact = {n: a * total for n, a in amounts.items()}
    counts = {n: math.floor(x + 1e-9) for n, x in exact.items()}
    for n in sorted(exact, key=lambda n: counts[n] - exact[n])[: total - sum(counts.values())]:
        counts[n] += 1
    return counts
