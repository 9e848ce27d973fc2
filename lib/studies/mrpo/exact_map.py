"""What the exact world is asked: a few cells whose every world is recorded, and a map of means around them.

A number of the map is the mean over worlds of a difference of two arms, with its 95 % interval over them: a row of
exhibit "map", dataset "n 64, quality 0.9" or a section's ("epsilon 0.1, quality 0.9"), arm "mrpo minus dpo".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from lib.harness import workers
from lib.harness.presets.mrpo import EXACT, RULES
from lib.studies.mrpo.exact import Draws, Second, draw
from lib.studies.mrpo.exact_arms import CONTROLS, Cell, bench, cell, equally_far, worth

REWARD, EQUAL = "expected reward", "expected reward, equal KL"
ITEMS = (REWARD, EQUAL, "accuracy", "accuracy, without reference")
MAPPED = (REWARD, EQUAL, "accuracy")
NOT_MOVED = ("base", "kd", "second, untrained", *CONTROLS)  # KD stays near the start and would hold all others there
COMPARED = (("mrpo", "dpo"), ("mrpo", "multi-dpo"), ("single", "mrpo"), ("mrpo", "mrpo-unclipped"))
MORE = 5  # references at most
Rows = list[tuple]  # (dataset, "a minus b", metric, value, low, high, worlds)


def measured(draws: Draws, c: Cell, arms: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """arm -> metric -> (W,): what each is worth in a cell, the expected reward at equal KL too where it takes part."""
    b, moving = bench(draws, c), [arm for arm in arms if arm not in NOT_MOVED]
    out = {arm: worth(b, arm) for arm in arms}
    for arm, far in equally_far(b, moving).items() if moving else ():
        out[arm][EQUAL] = far[REWARD]
    return out


def headline_cells(cfg) -> dict[str, Cell]:
    """The cells of `presets.mrpo.EXACT`."""
    few, many, q = cfg.exact_scarce, cfg.exact_abundant, cfg.exact_good
    good, same = Second((q,)), Second((cfg.exact_start,), correlation=1.0)
    return {
        "exact scarce, good second": cell(cfg, few, good),
        "exact scarce, wrong second": cell(cfg, few, Second((-q,))),
        "exact scarce, mis-scored second": cell(cfg, few, Second((q,), misscored=True)),
        "exact abundant, good second": cell(cfg, many, good),
        "exact scarce, sure labels": cell(cfg, few, good, labels="deterministic"),
        "exact scarce, the truth second": cell(cfg, few, Second((1.0,))),
        "exact scarce, the same second": cell(cfg, few, same),
    }


def record_cells(run, cfg) -> None:
    """Every world of every headline cell as items, cells side by side."""
    draws, ids = draw(cfg), [f"{cfg.seed}-{w}" for w in range(cfg.worlds)]
    jobs = {name: partial(measured, draws, c, EXACT[name]) for name, c in headline_cells(cfg).items()}
    for name, found in workers.each(jobs, run=run, desc=""):
        for arm, scores in found.items():
            for metric in (m for m in ITEMS if m in scores):
                run.items(name, arm, metric, ids, scores[metric].tolist())
            for metric in (m for m in scores if m.startswith("KL")):
                run.metric("exact", name, arm, metric, scores[metric].mean(), n=cfg.worlds)


def compared(name: str, draws: Draws, c: Cell, pairs: Sequence[tuple[str, str]] = COMPARED) -> Rows:
    """A cell's rows: a minus b in the same worlds, for each pair of arms."""
    found = measured(draws, c, list(dict.fromkeys(arm for pair in pairs for arm in pair)))
    return [
        (name, f"{a} minus {b}", metric, *_mean(found[a][metric] - found[b][metric]))
        for a, b in pairs
        for metric in MAPPED
    ]


def _mean(d: Tensor) -> tuple[float, float, float, int]:
    """Mean of a difference over worlds, its 95 % interval, their number."""
    value, half = d.mean().item(), 1.96 * (d.std() / len(d) ** 0.5).item()
    return value, value - half, value + half, len(d)


def map_row(cfg, draws: Draws, n: int) -> Rows:
    """The map at n pairs, over the qualities of the second reference."""
    found: Rows = []
    for q in map(float, cfg.items_of("exact_qualities")):
        found += compared(f"n {n}, quality {q:g}", draws, cell(cfg, n, Second((q,))))
    return found


def epsilons(cfg, draws: Draws) -> Rows:
    """Across CTRO's window at a good, a useless and a wrong second reference: from DPO (0) to unclipped (none)."""
    found: Rows = []
    for text in cfg.items_of("exact_epsilons"):
        for q in (cfg.exact_good, 0.0, -cfg.exact_good):
            c = cell(cfg, cfg.exact_scarce, Second((q,)), epsilon=None if text == "none" else float(text))
            found += compared(f"epsilon {text}, quality {q:g}", draws, c, (("mrpo", "dpo"),))
    return found


def counts(cfg, draws: Draws) -> Rows:
    """Across the number of references, each as good as the good one, with an error of its own."""
    found: Rows = []
    for k in range(2, MORE + 1):
        c = cell(cfg, cfg.exact_scarce, Second((cfg.exact_good,) * (k - 1)))
        found += compared(f"references {k}", draws, c, (("mrpo", "dpo"), ("multi-dpo", "dpo"), ("geometric", "dpo")))
    return found


def rules(cfg, draws: Draws) -> Rows:
    """Across the weights' rules, with a good and a wrong reference beside the primary: who finds the good one?"""
    c = cell(cfg, cfg.exact_scarce, Second((cfg.exact_good, -cfg.exact_good)))
    arms = ("mrpo", *RULES, "geometric", "arithmetic", "multi-dpo")
    return compared("good and wrong", draws, c, [(arm, "dpo") for arm in arms])


def settings(cfg, draws: Draws) -> Rows:
    """Whether MRPO's gain hangs on what is ours: the anchor, beta, the references' shared error."""
    found: Rows = []
    few, good = cfg.exact_scarce, Second((cfg.exact_good,))
    for factor in (0.1, 10.0):
        c = cell(cfg, few, good, anchor=factor * cfg.exact_anchor)
        found += compared(f"anchor times {factor:g}", draws, c)
    for factor in (0.3, 3.0):
        found += compared(f"beta times {factor:g}", draws, cell(cfg, few, good, beta=factor * cfg.exact_beta))
    for rho in (0.5, 0.9):
        c = cell(cfg, few, good._replace(correlation=rho))
        found += compared(f"errors correlated {rho:g}", draws, c)
    return found


SECTIONS = {"window": epsilons, "references": counts, "weights": rules, "settings": settings}


def record_map(run, cfg) -> None:
    """The map and its sections as metrics, rows side by side."""
    draws = draw(cfg)
    jobs = {f"map: {n} pairs": partial(map_row, cfg, draws, int(n)) for n in cfg.items_of("exact_pairs")}
    jobs |= {f"map: {name}": partial(section, cfg, draws) for name, section in SECTIONS.items()}
    for _, found in workers.each(jobs, run=run, desc=""):
        for dataset, arm, metric, value, low, high, n in found:
            run.metric("map", dataset, arm, metric, value, low=low, high=high, n=n)
