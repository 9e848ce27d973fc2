"""What was tried before the cited runs, from runs of clean code: settings, learning rates, weights."""

from __future__ import annotations

import pandas as pd

from lib.harness import claims

TUNING = [
    "paper",
    "arm",
    "learning rate",
    "beta",
    "bits",
    "group",
    "n_train",
    "steps",
    "start kl",
    "kept kl",
    "kept flips",
    "kept step",
    "seed",
    "run_id",
]


def tuning(runs) -> pd.DataFrame:
    """What was tried: validation KL of every trained arm before training and at the kept step, in runs of clean code
    with settings overridden."""
    rows = []
    for r in runs:
        m = r.manifest
        if m.get("status") != "done" or not m["overrides"] or m["dirty"] or m["paper"] not in claims.PAPERS:
            continue
        metrics, curve = r.metrics(), r.curve()
        if "kept kl" not in set(metrics.metric):
            continue
        wide = metrics[metrics.exhibit == "training"].pivot(index="arm", columns="metric", values="value").reset_index()
        start = curve[(curve.step == 0) & (curve.name == "validation kl")].set_index("arm").value
        same = {k: m["settings"][k] for k in ("beta", "bits", "group", "n_train")} | {
            k: m[k] for k in ("paper", "seed", "run_id")
        }
        wide = wide.assign(**same, **{"start kl": wide.arm.map(start)})
        rows.append(wide.assign(beta=wide.beta.where(wide.arm.str.contains("qdpo"))))  # the others have none
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=TUNING)
    return table[TUNING].sort_values(["paper", "arm", "bits", "group", "n_train", "beta", "learning rate", "run_id"])


TRIED = """Validation prompts, other training seeds than the cited runs. `start kl` is untrained round-to-nearest: \
it differs between machines and commits by rounding, so compare improvements. The preset takes the best of qdpo, kd, \
sft and qdpo-lora; the other arms share their family's.
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
    if len(found := tuning(runs)):
        shown = found.drop(columns=["paper", "run_id"])
        shown = shown.to_markdown(index=False, disable_numparse=False, floatfmt=".4g")
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
