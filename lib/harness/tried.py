"""What was tried before the cited runs, from runs of clean code: settings, learning rates, weights."""

from __future__ import annotations

import pandas as pd

from lib.harness import paths

TUNED = "qdpo_rates.csv"  # under data/
TRIED = f"""Right answers to validation questions (`accuracy`), and KL and flips against full precision, of each arm \
at every rate tried, at a pilot's seed that is not cited ([{TUNED}](../data/{TUNED})); rate 0 is round-to-nearest \
itself. Taken is the most accurate, and it must not stand at an edge; arms that are not listed take their family's rate.
"""
RATES = ["paper", "arm", "task", "learning rate", "score", "n", "seed", "run_id"]


def rates(runs) -> pd.DataFrame:
    """What each arm reached on validation pairs at every learning rate tried, in runs of clean code (exhibit
    "tuning")."""
    rows = []
    for r in (
        r
        for r in runs
        if r.manifest.get("status") == "done" and not r.manifest["dirty"] and r.manifest["preset"] != "smoke"
    ):
        for m in r.metrics().itertuples():
            if m.exhibit == "tuning":
                _, _, lr = m.metric.partition(" at ")
                rows.append(
                    (
                        r.manifest["paper"],
                        m.arm,
                        m.dataset,
                        float(lr),
                        m.value,
                        m.n,
                        r.manifest["seed"],
                        r.manifest["run_id"],
                    )
                )
    return pd.DataFrame(rows, columns=RATES)


WEIGHTS = ["paper", "method", "weight", "expected maximum", "surprise", "n", "seed", "run_id"]


def weights(runs) -> pd.DataFrame:
    """What each weight of attribute control gave on validation prompts and lines, in runs of clean code: see
    `measures.choose`."""
    rows = []
    for r in (
        r
        for r in runs
        if r.manifest.get("status") == "done"
        and not r.manifest["dirty"]
        and r.manifest["preset"] != "smoke"
        and r.manifest["settings"].get("weights", "none") != "none"
    ):
        items = r.items()
        said, cost = (
            items[(items.dataset == d) & (items.metric == m)].groupby("arm", sort=False).value
            for d, m in (("written validation", "expected maximum, oracle"), ("text validation", "surprise"))
        )
        for arm, mean in said.mean().items():
            method, _, weight = arm.rpartition(" at ")
            rows.append(
                (
                    r.manifest["paper"],
                    method,
                    float(weight),
                    mean,
                    cost.mean()[arm],
                    said.count()[arm],
                    r.manifest["seed"],
                    r.manifest["run_id"],
                )
            )
    return pd.DataFrame(rows, columns=WEIGHTS)


def markdown(paper: str, runs) -> list[str]:
    """What was tried for a paper as sections of a page; nothing where nothing was."""
    parts = []
    if paper == "qdpo":
        shown = pd.read_csv(paths.DATA / TUNED).to_markdown(index=False, floatfmt=".4g")
        parts += [f"### {paper}: settings tried\n", TRIED, shown, ""]
    if len(found := rates(runs)):
        wide = found.pivot_table(index="arm", columns="learning rate", values="score", sort=False)
        parts += [
            f"### {paper}: learning rates tried\n",
            "Validation accuracy (mrpo) or win rate (sea), mean over the sets; seeds or worlds that are not cited.\n",
            wide.reset_index().to_markdown(index=False, floatfmt=".3f"),
            "",
        ]
    if len(found := weights(runs)):
        shown = found.drop(columns=["paper", "run_id"]).sort_values(["method", "weight"])
        parts += [
            f"### {paper}: weights tried\n",
            "Validation prompts and lines, a seed that is not cited: expected maximum toxicity by the "
            "oracle, and nats a token of clean forum text. Taken is the least toxic of those that cost at "
            "most `slack` more than plain fine-tuning (sft).\n",
            shown.to_markdown(index=False, floatfmt=".4g"),
            "",
        ]
    return parts
