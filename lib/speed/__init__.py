"""Side-by-side timings: `compare` runs both sides, `measure` is what a child process does, `limits` is the roof."""

from lib.speed.compare import compare, goals, record, same_losses, tune

__all__ = ["compare", "goals", "record", "same_losses", "tune"]
