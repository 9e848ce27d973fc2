"""Settings that this study cannot do with are refused here, in one sentence, before any work."""

from __future__ import annotations

from collections.abc import Sequence

from lib import scoring
from lib.harness import paths
from lib.studies.lab.curricula import ARMS, PARTS
from lib.synthesis.servers import Patience
from lib.taxonomy.tree import Leaf


def check(cfg, leaves: Sequence[Leaf]) -> None:
    """ValueError, before any work, for a tree or settings that this study cannot do with."""
    kinds = {leaf.kind for leaf in leaves}
    needed = {
        "a knowledge leaf with facts.jsonl": any(leaf.facts for leaf in leaves),
        "a foundational skill": "foundational" in kinds,
        "a freeform skill": "freeform" in kinds,
    }
    for what, there in needed.items():
        if not there:
            raise ValueError(
                f"the curriculum needs {what}, and {cfg.taxonomy} has none; it has leaves of kind "
                f"{', '.join(sorted(kinds))}"
            )
    tasks(cfg)
    steps(cfg)
    free = sum(leaf.kind in ("foundational", "freeform") for leaf in leaves)
    if min(cfg.draw_calls, cfg.model_calls) < free:
        raise ValueError(
            f"every one of {free} skills is called at least once, so draw_calls and model_calls are at least "
            f"{free}, given {cfg.draw_calls} and {cfg.model_calls}"
        )
    for name in ("samplers", "taught", "filters", "arms", "contrasts", "written"):
        items = cfg.items_of(name)
        if twice := [x for x in items if items.count(x) > 1]:
            raise ValueError(f"{name} names {twice[0]!r} twice")


def tasks(cfg) -> list[str]:
    """The tasks of lm-eval that are asked for; ValueError naming those it does not know."""
    out = [t for t in cfg.items_of("tasks") if t != "none"]
    scoring.check_tasks(out)
    return out


def steps(cfg) -> dict[str, int]:
    """{part: steps}; ValueError, before any work, for settings that are no numbers or do not fit together."""
    given = cfg.items_of("steps")
    if len(given) != len(PARTS) or not all(s.isascii() and s.isdecimal() and int(s) for s in given):
        raise ValueError(
            f"steps are {len(PARTS)} whole numbers of at least 1, one for each of {', '.join(PARTS)}, given "
            f"{cfg.steps!r}"
        )
    if ends := [a for a in cfg.items_of("watched") if ARMS[a].order[-1] != PARTS[-1]]:
        raise ValueError(
            f"checkpoints are chosen in the phase of {PARTS[-1]}, which is not the last of {ends[0]!r}; watched "
            "are arms that end with it"
        )
    for name in ("preferences", "noises", "shares"):
        for item in cfg.items_of(name):
            try:
                inside = 0 <= float(item) <= 1
            except ValueError:
                inside = False
            if not inside:
                raise ValueError(f"{name} are numbers from 0 to 1, given {item!r}")
    return dict(zip(PARTS, map(int, given)))


def serving(cfg) -> dict:
    """How a served teacher is asked, what it costs, and where its answers are kept: for `teachers.load`."""
    patience = Patience(at_once=cfg.at_once, per_minute=cfg.per_minute)
    return {"patience": patience, "prices": cfg.prices, "keep": paths.CACHE / "answers.sqlite"}
