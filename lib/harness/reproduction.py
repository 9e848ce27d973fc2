"""Papers and seeds, one run after the other or side by side, then the pages that are made from them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lib.harness import board, claims, index, paths, presets, results, runner, runs
from lib.harness.progress import duration
from lib.harness.runner import INTERRUPTED, OK, TERMINATED, RunResult


def reproduce(
    which: Sequence[str], preset: str, seeds: Sequence[int] | None = None, force: bool = False, jobs: int = 1
) -> int:
    """All papers and seeds (those that the preset plans, unless given), then the index; goes on after a failure and
    returns the first failing exit code. Several jobs at a time run in processes of their own, of one thread each."""
    if jobs < 1:
        raise ValueError(f"at least one run at a time, given jobs {jobs}")
    todo = [(p, s) for p in which for s in (presets.seeds(p, preset) if seeds is None else seeds)]
    configs = {(paper, seed): runner.validate(paper, preset, seed, {})[1] for paper, seed in todo}
    left = [k for k in todo if force or runner.finished(configs[k]) is None]
    if preset == "study" and left:
        seconds = sum(runner.expected_seconds(configs[k]) for k in left) / min(jobs, len(left))
        runner.say(f"{len(left)} of {len(todo)} runs are missing; expect {duration(seconds)} in all")
    outcome = {}
    if jobs > 1:
        with ThreadPoolExecutor(jobs) as pool:
            outcome = dict(zip(todo, pool.map(lambda k: _apart(k[0], k[1], preset, force), todo)))
    else:
        for k, (paper, seed) in enumerate(todo, 1):
            runner.say(f"[{k}/{len(todo)}] {paper}, preset {preset}, seed {seed}")
            outcome[paper, seed] = runner.run(paper, preset=preset, seed=seed, force=force)
            if outcome[paper, seed].code in (INTERRUPTED, TERMINATED):
                break
    failed = {k: r for k, r in outcome.items() if r.code != OK}
    left = [job for job in todo if job not in outcome]
    for paper in which:
        fresh = [results.RunRecord(r.dir) for (p, _), r in outcome.items() if p == paper and r.code == OK and r.dir]
        if fresh and paper not in claims.PAPERS:
            print(index.speed_text(fresh))
        elif fresh and preset == "smoke":
            runner.say(f"\n{paper}: preset smoke shows that it runs and measures nothing; PRESET=small does")
        elif fresh:
            runner.say(f"\n{paper}: headline claims, the newest of {len(fresh)} run(s) here beside the cited ones")
            print(board.beside(claims.beside(paper, fresh[-1], results.evidence(results.load_runs(paper)))))
    if preset != "smoke":
        _publish(which)
    for (paper, seed), r in failed.items():
        runner.say(f"FAILED {paper} seed {seed}: {r.reason} ({r.dir})")
    if left:
        runner.say(f"NOT RUN {', '.join(f'{paper} seed {seed}' for paper, seed in left)}")
    return next((r.code for r in failed.values()), OK)


def _apart(paper: str, seed: int, preset: str, force: bool) -> RunResult:
    """`run` in a process of its own with one thread: two such use two cores better than one of two threads."""
    command = [sys.executable, "-m", "lib.harness.cli", "run", paper, "--preset", preset, "--seed", str(seed)]
    began = runs.now()
    code = runner.spawn([*command, *(["--force"] if force else [])], f"{paper} seed {seed}", {"OMP_NUM_THREADS": "1"})
    mine = [r for r in results.load_runs(paper, preset) if r.manifest.get("seed") == seed]
    new = [r for r in mine if r.manifest.get("start", "") >= began] or mine[-1:]
    return RunResult(new[-1].dir if new else None, code, "" if code == OK else f"exit code {code}")


def _publish(which: Sequence[str]) -> None:
    for paper in which:
        mine = [r for r in results.cited(results.load_runs(paper)) if r.manifest["preset"] in ("small", "study")]
        newest = max(
            (r for r in mine if (r.dir / "notebook.ipynb").exists()), key=lambda r: r.manifest["start"], default=None
        )
        if newest:
            index.copy_notebook(newest)
    written = index.write()
    table = claims.evaluate(results.load_runs())
    if len(asked := table[table.paper.isin(which)]):
        runner.say("\nThe board, from all cited runs (results/README.md has details and controls):\n")
        print(board.text(asked))
    runner.say(f"\nFigures: {paths.FIGURES} ({sum(p.suffix == '.svg' for p in written)} files), tables: {paths.TABLES}")
    if results.git_state()[1]:
        runner.say("Code or data differ from the last commit: these runs are recorded but not cited in the index.")
