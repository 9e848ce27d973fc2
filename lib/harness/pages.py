"""results/README.md: how to read it, then each paper with its finding, its figure, its headline claims, and the rest
folded away."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lib.harness import board, claims, front, plots, presets, tried

HOW = """# Results

Each paper has a section: what was found in two sentences, the figure that shows it, its headline claims, and, folded
away, every other claim, the controls, the arms, what was tried before, and the runs. All of it is computed from the
per-prompt scores in `runs/`, by rules that were fixed before the runs; the log alone is written by hand.
"""
RULES = """A number is given as *value [low, high]*: the interval covers seeds and prompts (worlds in the exact worlds)
and is corrected by Holm within a paper's headline claims, and within its other claims apart. Of a difference, positive
is the claimed side. The verdict is read from the interval printed; nothing is drawn at random in between.
"""
HERE = """Beside this page: `runs/<run>/` (settings, commit, versions, seconds, metrics, per-prompt scores),
`notebooks/` (executed, with outputs), `tables/` (the same as CSV), `paper/` (what the papers printed). A run is cited
if it is complete, of committed code and without a setting overridden.
"""


def results(runs: Sequence, everything: Sequence, table: pd.DataFrame, speed: str) -> str:
    """The generated part of the page; `speed` is its section of timings, empty without a run."""
    papers = [p for p in claims.PAPERS if any(r.manifest["paper"] == p for r in runs)]
    names = {p: front.about(p)["name"] for p in papers}
    links = [f"[{n}](#{front.anchor(n)})" for n in names.values()]
    parts = ["## How to read this page\n", RULES, front.MEANING, HERE]
    parts += [" · ".join([*links, *(["[Speed](#speed)"] if speed else []), "[Log](#log)"]) + "\n"]
    parts += [picture("headlines", front.alt(table))]
    for paper in papers:
        mine = [r for r in runs if r.manifest["paper"] == paper]
        tries = tried.markdown(paper, [r for r in everything if r.manifest["paper"] == paper])
        parts += section(paper, mine, table[table.paper == paper], tries)
    if speed:
        timed = [r for r in runs if r.manifest["paper"] == "speed"]
        parts += [f"## Speed{speed}", picture("speed", plots.SPEED_ALT), folded("runs", cited(timed)),
            "[Executed notebook](notebooks/95_speed.ipynb)\n"]  # fmt: skip
    return "\n".join(parts)


def section(paper: str, runs: Sequence, table: pd.DataFrame, tries: Sequence[str] = ()) -> list[str]:
    """One paper, from the finding to its runs."""
    a, heads, figures = front.about(paper), front.heads(table), plots.INDEX.get(paper, {})
    pictures = [picture(f"{paper}_{name}", figure.alt) for name, figure in figures.items()]
    seeds, notebook = sorted({r.manifest["seed"] for r in runs}), runs[-1].manifest["notebook"]
    how = f"seeds {', '.join(map(str, seeds))}, preset {runs[0].manifest['preset']}"
    arms = board.plain_table(claims.arms_table(paper, runs))
    return [
        f"## {a['name']}\n",
        f"*{a['title']}*, [{a['link'].removeprefix('https://')}]({a['link']})\n",
        " ".join(front.finding(heads)) + "\n",
        *pictures[:1],
        f"Headline claims, {how}:\n",
        board.page(heads) + "\n",
        board.folded(table),
        folded(f"arms: mean [95 % interval over seeds and prompts], {how}", arms),
        folded("more figures", "\n".join(pictures[1:])),
        folded("settings of these runs, beside the paper's", settings(paper, runs[-1].manifest["settings"])),
        *([folded("what was tried before the cited runs", "\n".join(tries))] if tries else []),
        folded(f"runs: {len(runs)}", cited(runs)),
        f"[Executed notebook](notebooks/{notebook}.ipynb) · [log](#{front.anchor(a['name'])}-log)\n",
    ]  # fmt: skip


def settings(paper: str, used: dict) -> str:
    """What the runs used as a table, with what the paper has and where it stands; settings that came later are left
    out."""
    known = presets.settings(paper)
    return board.plain_table(pd.DataFrame([
        {"setting": name, "here": used[name], "paper": "–" if s.published is None else s.published, "source": s.source}
        for name, s in known.items() if name in used
    ]))  # fmt: skip


def picture(name: str, alt: str) -> str:
    return f"![{alt}](figures/{name}.svg)\n"


def folded(summary: str, text: str) -> str:
    """Text behind a line that opens it."""
    return f"<details><summary>{summary}</summary>\n\n{text.strip()}\n\n</details>\n" if text.strip() else ""


def cited(runs: Sequence) -> str:
    """The runs as a table: where, of which commit, how long, on what."""
    return board.plain_table(pd.DataFrame([
        {
            "run": f"[{r.dir.name}](runs/{r.dir.name}/manifest.json)",
            "commit": r.manifest["commit"][:7],
            "seconds": f"{r.manifest['seconds']:.0f}",
            "peak memory, GB": r.manifest["peak memory GB"],
            "device": f"{r.manifest['device']}, {r.manifest['machine']['cores']} cores, {r.manifest['dtype']}",
        }
        for r in runs
    ]))  # fmt: skip
