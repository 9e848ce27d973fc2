"""Plumbing: presets, runs, claims, results, figures, the runner and the command line. It imports no model.

What a program calls: `runner.run` (one notebook), `results.load_runs` and `results.compare` (what came out),
`presets.resolve` (a paper's settings), `claims` (verdicts). The package imports none of them, so that `plumbline list`
answers at once.
"""

__all__ = ["claims", "presets", "results", "runner"]
