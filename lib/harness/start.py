"""What 00_start_here answers: is this machine ready, what will a run cost, what to open; and the same in 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import pandas as pd

from lib.harness import board, claims, front, health, notebooks, paths, presets, results, runner
from lib.harness.progress import duration

WIDTH = 80


def ready() -> str:
    """One paragraph on this machine, and what is missing, if anything is."""
    lines, bad = health.lines()
    packages = [line for line in lines if line.startswith(("OK ", "FAIL "))]
    missing = [line.split()[1] for line in packages if line.startswith("FAIL")]
    rest = [line for line in lines if line not in packages]
    fits = [m[1] for line in rest if (m := re.match(r"preset (\w+): fits", line))]
    said = f"**Not ready**: {', '.join(missing)} missing. `make` installs them." if bad else "**Ready.**"
    machine = "; ".join(line for line in rest if not line.startswith("preset"))
    return (
        f"{said} {len(packages) - len(missing)} of {len(packages)} packages; {machine}. "
        f"Presets that fit: {', '.join(fits) or 'none'}. `plumbline doctor` tells each package and GPU."
    )


def cost(paper: str, preset: str, runs: Sequence) -> tuple[float, bool]:
    """Seconds of one run of a preset, and whether they were measured here or by us: of the newest finished run of it,
    else the budget."""
    mine = [r.manifest for r in runs if r.manifest["paper"] == paper and r.manifest.get("status") == "done"]
    evidence = preset == "study"  # as which runs of small counted before there was a study
    done = [m for m in mine if not m["overrides"] and results.is_evidence(m) == evidence
        and (evidence or m["preset"] == preset)]  # fmt: skip
    return (float(done[-1]["seconds"]), True) if done else (runner.budget(paper, preset), False)


def costs() -> str:
    """A row a notebook: what each preset takes, and memory; a budget, where nothing was run yet, has a tilde."""
    runs, rows = results.load_runs(), []
    for paper in notebooks.papers():
        row = {"notebook": notebooks.find(paper).stem}
        for preset in ("smoke", "small", "study"):
            seconds, measured = cost(paper, preset, runs)
            n = len(presets.seeds(paper, preset))
            row[preset] = f"{'' if measured else '~'}{duration(seconds * n)}{f' ({n} seeds)' if n > 1 else ''}"
        there = [r.manifest["peak memory GB"] for r in runs if r.manifest["paper"] == paper and
            r.manifest.get("status") == "done" and r.manifest["preset"] != "smoke"]  # fmt: skip
        row["most memory, GB"] = f"{max(there):.1f}" if there else "–"
        rows.append(row)
    return board.plain_table(pd.DataFrame(rows))


def what_to_open() -> str:
    """The map of the notebooks, from notebooks/README.md, with the one that is done first at its head."""
    text = (paths.NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\|.*?(?=\n\n)", text, re.M | re.S)[0]
    runs = results.load_runs()
    first = min(claims.PAPERS, key=lambda p: cost(p, "small", runs)[0])
    path = notebooks.find(first).name
    return (
        f'Shortest at preset `small`: [{path}]({path}). With `PRESET = "smoke"` any of them runs in about a minute.\n\n'
        f"{table}"
    )


def found() -> str:
    """What was found so far, a row a paper, with links that lead from notebooks/."""
    return front.markdown(claims.evaluate(results.load_runs()), root="../")


def listing() -> str:
    """Papers, notebooks and newest runs, 80 columns wide."""
    lines = []
    for paper in notebooks.papers():
        runs = results.load_runs(paper)
        last = f"{runs[-1].dir.name} ({runs[-1].manifest.get('status')})" if runs else "no run yet"
        lines += [f"{paper:20}notebooks/{notebooks.find(paper).name}", *_under(last, 20)]
    return "\n".join(lines)


def settings(table: pd.DataFrame) -> str:
    """Every setting with its value, and beneath it the paper's and the source, 80 columns wide."""
    lines = []
    for r in table.itertuples(index=False):
        lines += textwrap.wrap(f"{r.setting:22}{r.here}", WIDTH, subsequent_indent=" " * 22)
        lines += _under(f"paper: {r.paper}; {r.source}", 26)
    return "\n".join(lines)


def _under(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def ending(run: results.RunRecord) -> str:
    """What stands at the end of a paper's notebook: where the run lies, whether it agrees with the cited evidence, how
    to take it home."""
    m, name = run.manifest, run.dir.name
    paper = m["paper"]
    why = results.uncited(m)
    counted = "It counts as evidence."
    if why or not results.is_evidence(m):
        counted = f"It is no evidence: {'; '.join(why) or 'verdicts are computed from preset study'}."
    kept = sorted(p.stem for p in run.dir.glob("*.safetensors"))
    weights = "; ".join(f"`plumbline export {name} --arm {arm} --to my-model`" for arm in kept)
    return "\n\n".join([
        f"**Where it lies.** `{_place(run)}`: settings, commit and versions (`manifest.json`), metrics, per-prompt "
        f"scores, curves, samples. {counted}",
        f"**Does it agree?** {_agreement(paper, run)}",
        f"**Take it home.** {f'Weights: {weights}.' if weights else 'This run keeps no weights.'} The folder is whole: "
        "copied into `results/runs` of another clone it is read there like its own.",
    ])  # fmt: skip


def _place(run: results.RunRecord) -> str:
    return run.dir.relative_to(paths.ROOT).as_posix() if run.dir.is_relative_to(paths.ROOT) else run.dir.name


def _agreement(paper: str, run: results.RunRecord) -> str:
    if run.manifest["preset"] == "smoke":
        return "Preset smoke measures nothing: there is nothing to compare."
    found = claims.beside(paper, run, results.evidence(results.load_runs(paper)))
    got = claims.agreement(found)
    if not got.compared:
        return "There is nothing cited to compare with, or no headline claim was run."
    missing = f" {got.open} could not be compared." if got.open else ""
    where = f"; outside: {', '.join(got.outside)}" if got.outside else ""
    return f"{got.agree} of {got.compared} headline claims lie where one more seed is predicted{where}.{missing}"
