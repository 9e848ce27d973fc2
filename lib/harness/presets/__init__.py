"""Every setting of every paper, with its source; one file a paper, each with a dict SETTINGS of name -> Setting.

A notebook's parameters cell holds UPPER_CASE names that override the preset where they are not None:

    cfg = presets.resolve("qdpo", globals())     # stops on unknown names, wrong types and values that are not allowed
    presets.table(cfg)                           # setting | here | paper | source
"""

import ast
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.harness.presets.base import NOT_SEEN, PRESETS, RESERVED, Config, Setting, UnknownSetting, nearest

__all__ = ["PRESETS", "Config", "Setting", "UnknownSetting", "names", "needed", "resolve", "seeds", "settings",
           "table"]  # fmt: skip


def names() -> list[str]:
    """The papers that have settings, by key."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def settings(paper: str) -> dict[str, Setting]:
    """All settings of a paper by name."""
    if paper not in names():
        raise ValueError(f"no paper is called {paper!r}, there are {', '.join(names())}{nearest(paper, names())}")
    found = importlib.import_module(f"{__name__}.{paper}").SETTINGS
    for name in found:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED:
            raise ValueError(
                f"presets/{paper}.py: {name!r} cannot name a setting (lower case, and none of {sorted(RESERVED)})"
            )
    return found


def first_guess(paper: str) -> dict[str, float]:
    """Preset -> seconds that its first run takes where a paper knows better than the budget of all."""
    return getattr(importlib.import_module(f"{__name__}.{paper}"), "SECONDS", {})


def resolve(paper: str, namespace: dict[str, Any]) -> Config:
    """The settings of this run: the preset's values, then every UPPER_CASE name of `namespace` that is not None.

    Raises UnknownSetting (a KeyError) for a name that no setting has, TypeError for a value of the wrong type and
    ValueError for one that is not allowed, so that a misspelt parameter can never pass as the default. A name that is
    a parameter's but for its case is refused too, and so is whatever else papermill has injected.
    """
    known = settings(paper)
    _refuse_other_names(paper, {*(name.upper() for name in known), "PRESET", "SEED"}, namespace)
    # other upper-case things (modules, paths, arrays) are no parameters, unless a setting has that name
    given = {
        name: value
        for name, value in namespace.items()
        if re.fullmatch(r"[A-Z][A-Z0-9_]*", name)
        and (
            value is None
            or isinstance(value, (bool, int, float, str))
            or name.lower() in known
            or name in ("PRESET", "SEED")
        )
    }
    for required, meaning in {"PRESET": f"one of {', '.join(PRESETS)}", "SEED": "one whole number"}.items():
        if given.get(required) is None:
            raise UnknownSetting(f"{paper} needs the parameter {required}: {meaning}")
    preset, seed = given.pop("PRESET"), given.pop("SEED")
    if preset not in PRESETS:
        raise ValueError(f"PRESET takes one of {', '.join(PRESETS)}, given {preset!r}")
    if type(seed) is not int:
        raise TypeError(f"SEED takes a whole number, given {seed!r} ({type(seed).__name__})")
    if seed < 0:
        raise ValueError(f"SEED is 0 or more, given {seed}")

    values = {name: getattr(setting, preset) for name, setting in known.items()}
    overrides = []
    for name, value in given.items():
        if name.lower() not in known:
            uppers = [k.upper() for k in known] + ["PRESET", "SEED"]
            raise UnknownSetting(
                f"{paper} has no parameter {name}{nearest(name, uppers)}; it has {', '.join(sorted(uppers))}"
            )
        if value is not None:
            values[name.lower()] = known[name.lower()].checked(name, value)
            overrides.append(name.lower())
    cfg = Config(paper=paper, preset=preset, seed=seed, values=values, overrides=tuple(overrides))
    twice = [f"{arm} ({dataset})" for (dataset, arm), n in Counter(needed(paper, cfg)).items() if n > 1]
    if twice:
        raise ValueError(f"{paper}: these settings would measure twice, and record once, {', '.join(twice)}")
    return cfg


def needed(paper: str, given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(dataset, arm) of all per-prompt scores that a run with these settings must have recorded to be complete."""
    settings(paper)  # a paper that there is
    rule = getattr(importlib.import_module(f"{__name__}.{paper}"), "needed", None)
    return rule(given) if rule else []


def seeds(paper: str, preset: str) -> list[int]:
    """The seeds that a preset is run at: 0, and of preset study those that its claims need."""
    settings(paper)
    planned = getattr(importlib.import_module(f"{__name__}.{paper}"), "SEEDS", None)
    return list(planned) if preset == "study" and planned else [0]


def _refuse_other_names(paper: str, uppers: set[str], namespace: Mapping[str, Any]) -> None:
    """UnknownSetting for names that were meant as parameters and are none: papermill takes any, and runs the defaults.

    What papermill injected is a cell of its own, which IPython's history `In` holds. Besides it any plain value whose
    name is a parameter's but for its case is one, before the notebook has variables of its own, so before there is
    a `cfg`.
    """
    wrong = [name for name in _injected(namespace.get("In")) if name not in uppers]
    if not isinstance(namespace.get("cfg"), Config):
        plain = (bool, int, float, str)
        alike = (n for n, v in namespace.items() if n not in uppers and n.upper() in uppers and isinstance(v, plain))
        wrong += [name for name in alike if name not in wrong]
    if wrong:
        told = [f"{n}, write {n.upper()}" if n.upper() in uppers else f"{n}{nearest(n.upper(), uppers)}" for n in wrong]
        raise UnknownSetting(
            f"{paper} has no parameter {'; no parameter '.join(told)}; it has {', '.join(sorted(uppers))}"
        )


def _injected(history: Any) -> list[str]:
    """Names that papermill's cells, which begin with its comment, have set."""
    cells = [c for c in history if isinstance(c, str) and c.startswith("# Parameters\n")] if history else []
    found = []
    for cell in cells:
        try:
            assigned = [a for a in ast.parse(cell).body if isinstance(a, ast.Assign)]
        except SyntaxError:
            continue
        found += [t.id for a in assigned for t in a.targets if isinstance(t, ast.Name) and t.id not in found]
    return found


def table(cfg: Config) -> pd.DataFrame:
    """One row a setting: what this run uses, what the paper has ("not seen" where we found none), and the source."""
    rows = [
        {
            "setting": name,
            "here": cfg[name],
            "paper": NOT_SEEN if known.published is None else known.published,
            "source": known.source,
        }
        for name, known in settings(cfg.paper).items()
    ]
    return pd.DataFrame(rows, columns=["setting", "here", "paper", "source"], dtype=object)
