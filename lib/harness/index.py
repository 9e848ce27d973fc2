"""The pages a person reads, generated from the cited runs: results/tables, results/figures, results/README.md and the
claims table of the root README. A test regenerates them and fails on any difference."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lib.harness import board, claims, forest, front, machine, pages, paths, plots, results, style, tried

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def build() -> dict[Path, str]:
    """Path -> text of every generated page and table; figures apart (see `write`)."""
    everything = results.load_runs()
    runs = results.evidence(everything)
    table = claims.evaluate(runs)
    metrics = (
        pd.concat([r.metrics() for r in runs], ignore_index=True)
        if runs
        else pd.DataFrame(columns=results.METRIC_COLUMNS)
    )
    metrics = metrics[metrics.exhibit != "map"]  # hundreds of cells a run: its file and the figure hold them
    timed = speed_markdown([r for r in runs if r.manifest["paper"] == "speed"])
    out = {
        paths.TABLES / "claims.csv": table.to_csv(index=False, float_format="%.6g"),
        paths.TABLES / "weights.csv": tried.weights(everything).to_csv(index=False, float_format="%.6g"),
        paths.TABLES / "learning_rates.csv": tried.rates(everything).to_csv(index=False, float_format="%.6g"),
        paths.TABLES / "speed.csv": speed([r for r in runs if r.manifest["paper"] == "speed"]).to_csv(
            index=False, float_format="%.4g"
        ),
        paths.TABLES / "metrics.csv": metrics.to_csv(index=False, float_format="%.8g"),
    }
    index, readme = paths.RESULTS / "README.md", paths.ROOT / "README.md"
    out[index] = _between(index, f"{pages.HOW}\n{BEGIN}\n{END}\n", pages.results(runs, everything, table, timed))
    if readme.exists() and BEGIN in readme.read_text():
        out[readme] = _between(readme, "", front.page(table))
    return out


SPEED = ["task", "peer", "metric", "ours", "peer_value", "ratio", "low", "high", "n", "device", "machine", "run_id"]


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
                        machine.kind(r.manifest),
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
    runs = results.evidence(results.load_runs())
    out.append(style.save(forest.headlines(claims.evaluate(runs)), paths.ROOT / front.FIGURE))
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
    there = {r.manifest["paper"] for r in results.evidence(results.load_runs())}
    wanted = [front.FIGURE] + [
        f"results/figures/{p}_{f}.svg" for p in plots.INDEX if p in there for f in plots.INDEX[p]
    ]
    problems += [f"{f} is missing: run `make results`" for f in wanted if not (paths.ROOT / f).exists()]
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


def speed_markdown(runs) -> str:
    """The timings as a section, a column a kind of machine: ours beside the peer's, and the median ratio [range over
    the repeats]; empty without a run."""
    if not runs:
        return ""
    t = speed(runs)
    t["shown"] = [
        f"{x.ours:.3g} to {x.peer_value:.3g}: {x.ratio:.2f} [{x.low:.2f}, {x.high:.2f}]" for x in t.itertuples()
    ]
    wide = t.pivot_table(
        index=["task", "peer", "metric"], columns="machine", values="shown", aggfunc="last", sort=False
    )
    where = "; ".join(
        f"{machine.kind(m)}: {m['device']}, {m['machine']['cores']} cores of {m['machine']['processor']}, commit "
        f"{m['commit'][:7]}"
        for m in (r.manifest for r in runs)
    )
    return (
        f"\n\nOurs beside other libraries, alternating in one run on each machine ({where}); a ratio above 1 is in our "
        f"favour.\n\n{board.plain_table(wide.fillna('').reset_index())}\n"
    )


def speed_text(runs) -> str:
    """The timings for a terminal of 80 columns: a line a task and peer, then one a metric."""
    lines = []
    for (task, peer), rows in speed(runs).groupby(["task", "peer"], sort=False):
        lines.append(f"{task}, beside {peer}")
        for r in rows.itertuples():
            ratio = f"{r.ratio:.2f} times [{r.low:.2f}, {r.high:.2f}]"
            lines.append(f"  {r.metric:12}{r.ours:10.3g} to {r.peer_value:<10.3g}{ratio}")
    return "\n".join(lines)


def _between(path: Path, default: str, text: str) -> str:
    """The file with everything between the markers replaced; what a person wrote around them stays."""
    current = path.read_text() if path.exists() else default
    head, _, rest = current.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"
