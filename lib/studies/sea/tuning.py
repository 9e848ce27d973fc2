"""The learning rate of every method in every cell, chosen in worlds that no verdict sees, and kept as data.

    python -m lib.studies.sea.tuning [CELL ...]    tune these cells anew, all in half an hour: data/sea_rates.csv

Every method is tried at the same rates in the same worlds, side by side; its own is that at which it needs the fewest
queries to the win rates of `reaching.LEVELS` (mean of log min(T, budget): what the claims measure), on the curve
smoothed over neighbouring rates. Where the fewest are at the smallest or the largest rate tried, the grid is extended
by one until they are not.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.bandit import reaching
from lib.bandit.methods import METHODS
from lib.harness import paths
from lib.harness.presets import sea
from lib.harness.progress import announce
from lib.studies.sea import cells

RATES = (0.01, 0.02, 0.04, 0.08, 0.16)
WORLDS, SEED = 20, 10_000  # far from the seeds of studies (0 to 199) and pilots (200 and up)
SAME = {"passive-again": "passive", "passive-twice": "passive"}  # controls that are a method at its own rate
COLUMNS = ["cell", "arm", "rate", "log queries", "win rate, whole run", "worlds", "chosen"]
FURTHER = 3  # rates that a grid is extended by, at most


def tried(arm: str, cell: str, rates: Sequence[float], *, worlds: int, seed: int) -> dict[float, tuple[float, float]]:
    """rate -> (mean of log restricted queries over worlds and levels, mean win rate over the run)."""
    scores = cells.compete(arm, cell, seed=seed, worlds=worlds, lr=list(rates)).scores
    by_rate = lambda x: x.view(len(rates), -1).mean(1).tolist()  # noqa: E731
    needed = by_rate(sum(scores[f"log queries, {x}"] for x in reaching.LEVELS) / len(reaching.LEVELS))
    return dict(zip(rates, zip(needed, by_rate(scores["win rate, whole run"]))))


def tune(arm: str, cell: str, rates: Sequence[float] = RATES, *, worlds: int = WORLDS, seed: int = SEED) -> dict:
    """As `tried`, on a grid extended until its best lies inside; ValueError if it still does not."""
    found = tried(arm, cell, rates, worlds=worlds, seed=seed)
    for _ in range(FURTHER):
        if (more := beyond(found)) is None:
            return dict(sorted(found.items()))
        found |= tried(arm, cell, [more], worlds=worlds, seed=seed)
    check_inside(arm, cell, found)
    return dict(sorted(found.items()))


def lowest(found: dict[float, tuple[float, float]]) -> float:
    """The rate of the fewest queries; of equal ones that of the higher win rate."""
    return min(found, key=lambda r: (found[r][0], -found[r][1]))


def best(found: dict[float, tuple[float, float]]) -> float:
    """The rate whose queries are fewest on the curve over rates, each counted with its neighbours (1, 2, 1):
    twenty worlds leave a single point too uncertain, and what is lucky at one rate is not at the next. No edge."""
    rates = sorted(found)
    if len(rates) < 3:
        return lowest(found)
    smooth = {b: found[a][0] + 2 * found[b][0] + found[c][0] for a, b, c in zip(rates, rates[1:], rates[2:])}
    return min(smooth, key=lambda r: (smooth[r], -found[r][1]))


def beyond(found: dict[float, tuple[float, float]]) -> float | None:
    """The next rate to try where the lowest is at the edge: twice or half of it; None where it lies inside."""
    at = lowest(found)
    return 2 * at if at == max(found) else at / 2 if at == min(found) else None


def check_inside(arm: str, cell: str, found: dict[float, tuple[float, float]]) -> None:
    """ValueError if a method needs the fewest queries at the smallest or the largest rate that was tried."""
    if beyond(found) is not None:
        raise ValueError(
            f"{arm} in cell {cell!r} does best at {lowest(found):g}, the edge of the rates tried ({min(found):g} to "
            f"{max(found):g}): extend the grid before anything is compared"
        )


def read(path: Path) -> dict[tuple[str, str], float]:
    """(cell, arm) -> its rate, of a table that `main` has written; ValueError for one whose best is at an edge."""
    found: dict[tuple[str, str], dict] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            of = found.setdefault((row["cell"], row["arm"]), {})
            of[float(row["rate"])] = float(row["log queries"]), float(row["win rate, whole run"])
    for (cell, arm), of in found.items():
        check_inside(arm, cell, of)
    return {key: best(of) for key, of in found.items()}


def rate_of(rates: dict[tuple[str, str], float], cell: str, arm: str) -> float:
    """The rate of a method in a cell; KeyError in one sentence if it was never tuned there."""
    arm = SAME.get(arm, arm)
    if METHODS[arm].learn == "heads":
        return RATES[0]  # its policy stays the start
    if (cell, arm) not in rates:
        raise KeyError(f"no rate was tuned for {arm} in cell {cell!r}: python -m lib.studies.sea.tuning {cell!r}")
    return rates[cell, arm]


def write(path: Path, cell: str, arm: str, found: dict[float, tuple[float, float]]) -> None:
    """Put a method's rows into the table in place of its old ones."""
    rows = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [r for r in csv.DictReader(file) if (r["cell"], r["arm"]) != (cell, arm)]
    at = best(found)
    rows += [
        dict(zip(COLUMNS, (cell, arm, f"{r:g}", f"{q:.4f}", f"{w:.4f}", WORLDS, "yes" if r == at else "")))
        for r, (q, w) in found.items()
    ]
    order = {c: k for k, c in enumerate(cells.CELLS)}
    rows.sort(key=lambda r: (order.get(r["cell"], len(order)), r["arm"], float(r["rate"])))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def tunable(cell: str) -> list[str]:
    """The methods that need a rate in a cell: those of every cell, in the base all others too."""
    if cell == sea.TINY:
        return ["passive", "sea-logit", "sea-truth"]
    arms = sea.CORE + (sea.MORE if cell == sea.BASE else [])
    return [a for a in arms if a not in SAME and METHODS[a].learn != "heads"]


def main(names: Sequence[str]) -> None:
    path = paths.DATA / "sea_rates.csv"
    for cell in names or cells.CELLS:
        for arm in tunable(cell):
            found = tune(arm, cell)
            write(path, cell, arm, found)
            announce(f"{cell}: {arm} at {best(found):g} of {', '.join(f'{r:g}' for r in found)}")


if __name__ == "__main__":
    main(sys.argv[1:])
