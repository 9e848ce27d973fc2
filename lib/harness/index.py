"""The pages a person reads, generated from the cited runs: results/tables, results/figures, results/README.md and the
claims table of the root README. A test regenerates them and fails on any difference."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from lib.harness import claims, paths, plots, results

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
SHOWN = ["paper", "claim", "statement", "published", "ours", "n", "seeds", "verdict"]


def build() -> dict[Path, str]:
    """Path -> text of every generated page and table; figures apart (see `write`)."""
    runs = results.cited(results.load_runs())
    table = claims.evaluate(runs)
    metrics = (
        pd.concat([r.metrics() for r in runs], ignore_index=True)
        if runs
        else pd.DataFrame(columns=results.METRIC_COLUMNS)
    )
    pages = {
        paths.TABLES / "claims.csv": table.to_csv(index=False, float_format="%.6g"),
        paths.TABLES / "tuning.csv": tuning(results.load_runs()).to_csv(index=False, float_format="%.6g"),
        paths.TABLES / "weights.csv": weights(results.load_runs()).to_csv(index=False, float_format="%.6g"),
        paths.TABLES / "learning_rates.csv": rates(results.load_runs()).to_csv(index=False, float_format="%.6g"),
        paths.TABLES / "speed.csv": speed([r for r in runs if r.manifest["paper"] == "speed"]).to_csv(
            index=False, float_format="%.4g"
        ),
        paths.TABLES / "metrics.csv": metrics.to_csv(index=False, float_format="%.8g"),
    }
    index, readme = paths.RESULTS / "README.md", paths.ROOT / "README.md"
    pages[index] = _between(index, "# Results\n\n" + f"{BEGIN}\n{END}\n", _index(runs, table))
    if readme.exists() and BEGIN in readme.read_text():
        timed = speed_markdown([r for r in runs if r.manifest["paper"] == "speed" and r.manifest["preset"] == "small"])
        pages[readme] = _between(readme, "", claims_summary(table) + timed)
    return pages


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
    `judged.choose`."""
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


SPEED = ["task", "peer", "metric", "ours", "peer_value", "ratio", "low", "high", "n", "device", "run_id"]


def speed(runs) -> pd.DataFrame:
    """Side-by-side timings: medians, and the median of the paired ratios with the smallest and the largest; above 1 we
    are better."""
    rows = []
    for r in runs:
        wide = r.items().pivot(index=["dataset", "arm", "prompt_id"], columns="metric", values="value")
        for (task, peer), g in wide.groupby(level=[0, 1], sort=False):
            for metric, ratio in {
                "per second": g["ours per second"] / g["peer per second"],
                "peak GB": g["peer peak GB"] / g["ours peak GB"],
            }.items():
                mine, other = g[f"ours {metric}"].median(), g[f"peer {metric}"].median()
                rows.append(
                    (
                        task,
                        peer,
                        metric,
                        mine,
                        other,
                        ratio.median(),
                        ratio.min(),
                        ratio.max(),
                        len(g),
                        r.manifest["device"],
                        r.dir.name,
                    )
                )
    return pd.DataFrame(rows, columns=SPEED)


def write() -> list[Path]:
    """Write tables, pages and figures; returns their paths."""
    paths.check_writable(paths.TABLES)
    out = []
    for path, text in build().items():
        path.write_text(text)
        out.append(path)
    runs = results.cited(results.load_runs(preset="small"))
    for paper in sorted({r.manifest["paper"] for r in runs} & set(claims.PAPERS)):
        out += plots.index_figures(paper, [r for r in runs if r.manifest["paper"] == paper], paths.FIGURES)
    if any(r.manifest["paper"] == "speed" for r in runs):
        out.append(
            plots.save(
                plots.speed(speed([r for r in runs if r.manifest["paper"] == "speed"])), paths.FIGURES / "speed.svg"
            )
        )
    return out


def check() -> list[str]:
    """What differs between the files and what the cited runs give; empty if the index is true."""
    problems = [
        f"{p.name} is not what the runs give: run `make results`"
        for p, t in build().items()
        if not p.exists() or p.read_text() != t
    ]
    for r in results.cited(results.load_runs()):
        m = r.metrics()
        twice = m.duplicated(["exhibit", "dataset", "arm", "metric"])
        problems += [f"{r.dir.name}: {n} metric rows twice" for n in [int(twice.sum())] if n]
    return problems


def copy_notebook(run: results.RunRecord) -> Path | None:
    """Put the executed notebook of a run where readers find it."""
    from lib.harness import notebooks

    source = run.dir / "notebook.ipynb"
    if not source.exists():
        return None
    target = paths.RESULTS / "notebooks" / f"{run.manifest['notebook']}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    notebooks.executed_copy(source, target)
    return target


def claims_markdown(table: pd.DataFrame) -> str:
    """The claims as a table: ours with its interval."""
    shown = table.assign(ours=[_number(r) for r in table.itertuples()], verdict=[f"**{v}**" for v in table.verdict])[
        SHOWN
    ]
    return shown.to_markdown(index=False, disable_numparse=True)


def claims_summary(table: pd.DataFrame) -> str:
    """The claims that were run as a table, and how many of each paper were not."""
    waiting = table[table.verdict == "not run"].paper.value_counts()
    rest = (
        f"Not run yet: {', '.join(f'{n} claims of {paper}' for paper, n in waiting.items())}." if len(waiting) else ""
    )
    return "\n\n".join(x for x in (claims_markdown(table[table.verdict != "not run"]), rest) if x)


def speed_markdown(runs) -> str:
    """The timings as a section with their machine and commit: median ratio [range over the repeats]; empty without a
    run."""
    if not runs:
        return ""
    t, m = speed(runs), runs[-1].manifest
    shown = t.assign(ratio=[f"{x.ratio:.2f} [{x.low:.2f}, {x.high:.2f}]" for x in t.itertuples()])
    for c in ("ours", "peer_value"):
        shown[c] = [f"{v:.3g}" for v in t[c]]
    table = shown[["task", "peer", "metric", "ours", "peer_value", "ratio", "n"]].to_markdown(
        index=False, disable_numparse=True
    )
    machine = f"{m['device']}, {m['machine']['cores']} cores of {m['machine']['processor']}, commit {m['commit'][:7]}"
    return (
        f"\n\n**Speed**, ours beside other libraries, alternating in one run ({machine}); a ratio above 1 is in our "
        f"favour.\n\n{table}\n"
    )


def claims_text(table: pd.DataFrame) -> str:
    """The claims for a terminal."""
    width = shutil.get_terminal_size((140, 40)).columns
    rows = [(r.claim, r.verdict, _number(r), r.statement) for r in table.itertuples()]
    return "\n".join(f"{c:22} {v:16} {n:30} {s}"[: max(width, 100)] for c, v, n, s in rows)


def _number(row) -> str:
    return "" if row.verdict == "not run" else f"{row.ours:.3f} [{row.low:.3f}, {row.high:.3f}]"


def _index(runs, table: pd.DataFrame) -> str:
    parts = ["## Claims\n", claims_markdown(table), ""]
    for paper in sorted({r.manifest["paper"] for r in runs} & set(claims.PAPERS)):
        mine = [r for r in runs if r.manifest["paper"] == paper and r.manifest["preset"] == "small"]
        if not mine:
            continue
        n = len({r.manifest["seed"] for r in mine})
        parts += [f"## {paper}: arms\n", f"Mean [95 % interval over prompts], {n} seed(s), preset small.\n"]
        parts += [claims.arms_table(paper, mine).to_markdown(index=False, disable_numparse=True), ""]
        parts += [f"![{name}](figures/{paper}_{name}.svg)\n" for name in plots.INDEX[paper]]
        tried = tuning(results.load_runs(paper))
        if len(tried):
            parts += [
                f"### {paper}: settings tried\n",
                TRIED,
                tried.drop(columns=["paper", "run_id"]).to_markdown(
                    index=False, disable_numparse=False, floatfmt=".4g"
                ),
                "",
            ]
        tried = rates(results.load_runs(paper))
        if len(tried):
            wide = tried.pivot_table(index="arm", columns="learning rate", values="score", sort=False)
            parts += [
                f"### {paper}: learning rates tried\n",
                "Validation accuracy (mrpo) or win rate (sea), mean over the sets; seeds or worlds that are not "
                "cited.\n",
                wide.reset_index().to_markdown(index=False, floatfmt=".3f"),
                "",
            ]
        tried = weights(results.load_runs(paper))
        if len(tried):
            parts += [
                f"### {paper}: weights tried\n",
                "Validation prompts and lines, a seed that is not cited: expected maximum toxicity by the "
                "oracle, and nats a token of clean forum text. Taken is the least toxic of those that cost at "
                "most `slack` more than plain fine-tuning (sft).\n",
            ]
            parts += [
                tried.drop(columns=["paper", "run_id"])
                .sort_values(["method", "weight"])
                .to_markdown(index=False, floatfmt=".4g"),
                "",
            ]
        notebook = mine[-1].manifest["notebook"]
        parts += [f"Executed notebook: [{notebook}](notebooks/{notebook}.ipynb)\n"]
    timed = [r for r in runs if r.manifest["paper"] == "speed" and r.manifest["preset"] == "small"]
    if timed:
        parts += [
            "## Speed" + speed_markdown(timed),
            "![speed](figures/speed.svg)\n",
            "Executed notebook: [95_speed](notebooks/95_speed.ipynb)\n",
        ]
    parts += ["## Runs cited\n"]
    rows = [
        {
            "run": f"[{r.dir.name}](runs/{r.dir.name}/manifest.json)", "commit": r.manifest["commit"][:7],
            "seconds": f"{r.manifest['seconds']:.0f}",
            "peak memory GB": r.manifest["peak memory GB"], "device": f"{r.manifest['device']}, "
                f"{r.manifest['machine']['cores']} cores", "dtype": r.manifest["dtype"],
        }
        for r in runs
    ]  # fmt: skip
    parts.append(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) if rows else "none yet")
    return "\n".join(parts)


def _between(path: Path, default: str, text: str) -> str:
    """The file with everything between the markers replaced; what a person wrote around them stays."""
    current = path.read_text() if path.exists() else default
    head, _, rest = current.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"
