"""Every setting of every paper, with its source; one file a paper, each with a dict SETTINGS of name -> Setting.

A notebook's parameters cell holds UPPER_CASE names that override the preset where they are not None:

    cfg = presets.resolve("qdpo", globals())     # stops on unknown names, wrong types and values that are not allowed
    presets.table(cfg)                           # setting | here | paper | source
"""

import importlib
import pkgutil
import re
from typing import Any

import pandas as pd

from lib.harness.presets.base import NOT_SEEN, PRESETS, RESERVED, Config, Setting, UnknownSetting, nearest

__all__ = ["PRESETS", "Config", "Setting", "UnknownSetting", "names", "resolve", "settings", "table"]


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


def resolve(paper: str, namespace: dict[str, Any]) -> Config:
    """The settings of this run: the preset's values, then every UPPER_CASE name of `namespace` that is not None.

    Raises UnknownSetting (a KeyError) for a name that no setting has, TypeError for a value of the wrong type and
    ValueError for one that is not allowed, so that a misspelt parameter can never pass as the default.
    """
    known = settings(paper)
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
    return Config(paper=paper, preset=preset, seed=seed, values=values, overrides=tuple(overrides))


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
