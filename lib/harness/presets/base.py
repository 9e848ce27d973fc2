"""One setting with its three values and its source, and the resolved settings of one run."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.harness import cache, inputs

PRESETS = ("smoke", "small", "study", "paper")
NOT_SEEN = "not seen"
DEVICE, DEVICE_HELP = r"cpu|mps|cuda(:\d+)?", "cpu, cuda, cuda:1 for the second of several GPUs, or mps"
AUTO = "0: as many as memory holds by its forecast, at most the batch"  # of MICRO
OPTIMIZERS = ["none", "8bit", "paged-8bit"]
OPTIMIZER_HELP = "AdamW's moments: none is torch's in float32; 8bit, or paged-8bit of a GPU, are bitsandbytes'"
AS_SMALL: Any = object()  # what preset study has where nothing else is said
Value = bool | int | float | str | None


class UnknownSetting(KeyError):
    """A name that no setting has; says which one was probably meant."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr, quotes and all


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One hyper-parameter: its value at each preset, what the paper has, and where that stands.

    `published` is the value seen in the source, None where none was seen. `allowed` is a tuple or list of values, or a
    tuple of exactly two numbers, read as a closed range; None allows all. `many` marks a string that is a
    comma-separated list, each item of which must be allowed, and stands in it once unless `repeats`. `always` are
    items that are put in front where they are left out, `never_first` such as cannot lead; `needs` says of an item
    which other must be there too. A preset's value may be None (no limit, or not used); preset study has
    that of small unless given. `form`: the regular expression that a text must match, told as `help`.
    """

    smoke: Value
    small: Value
    paper: Value
    published: Any
    source: str
    help: str
    study: Value = AS_SMALL
    allowed: tuple | list | None = None
    many: bool = False
    repeats: bool = False
    always: tuple[str, ...] = ()
    never_first: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    form: str | None = None

    def __post_init__(self) -> None:
        if self.study is AS_SMALL:
            object.__setattr__(self, "study", self.small)
        if not self.source or not self.help:
            raise ValueError("a setting needs a source and a help text, so that a reader can judge its value")
        kind = self.kind
        if self.many and kind is not str:
            raise ValueError(f"many is for strings, this setting is {kind.__name__}")
        for preset in PRESETS:
            if getattr(self, preset) is not None:
                object.__setattr__(self, preset, self.checked(preset, getattr(self, preset)))

    @property
    def kind(self) -> type:
        """bool, int, float or str: what its values are; float where some are whole numbers and some are not."""
        kinds = {type(v) for v in (self.smoke, self.small, self.study, self.paper) if v is not None}
        if kinds == {int, float}:
            return float
        if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
            names = sorted(k.__name__ for k in kinds)
            raise TypeError(f"the values of a setting share one of bool, int, float, str; given {names or 'only None'}")
        return kinds.pop()

    def checked(self, name: str, value: Any) -> Value:
        """`value` as this setting's type; TypeError or ValueError in one sentence naming what is allowed."""
        kind = self.kind
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise TypeError(f"{name} takes {_A[kind]}, given {value!r} ({type(value).__name__}){_hint(kind, value)}")
        value = kind(value)  # numpy's float64 is a float too: keep the plain one
        if kind is float and math.isnan(value):
            raise ValueError(f"{name} is not a number (nan)")
        for item in split(value) if self.many else [value]:
            self._check_allowed(name, item)
        return self._together(name, value) if self.many else value

    def _together(self, name: str, value: str) -> str:
        """A list's items as they go together; what is measured of one would otherwise fail after all the work."""
        items = split(value)
        same = {_number(item) for item in items}
        if len(same) < len(items) and not self.repeats:
            twice = next(a for k, a in enumerate(items) if _number(a) in map(_number, items[:k]))
            raise ValueError(f"{name} names {twice} twice, given {value!r}")
        if items[0] in self.never_first:
            raise ValueError(f"{name} cannot begin with {items[0]}, given {value!r}")
        for item, other in self.needs.items():
            if item in items and other not in items:
                raise ValueError(f"{name} takes {item} only together with {other}, given {value!r}")
        left_out = [item for item in self.always if item not in items]
        return ",".join([*left_out, value]) if left_out else value

    def _check_allowed(self, name: str, value: Value) -> None:
        if self.form and not re.fullmatch(self.form, str(value)):
            raise ValueError(f"{name} takes {self.help}; given {value!r}")
        if self.allowed is None:
            return
        if _is_range(self.allowed):
            low, high = self.allowed
            if isinstance(value, str) or not low <= value <= high:
                raise ValueError(f"{name} lies in {low} .. {high}, given {value!r}")
        elif value not in self.allowed:
            items = ", ".join(map(str, self.allowed))
            near = nearest(value, self.allowed) if isinstance(value, str) else ""
            raise ValueError(f"{name} takes {'any of' if self.many else 'one of'} {items}, given {value!r}{near}")


class Config(Mapping[str, Any]):
    """The settings of one run, read as `cfg.beta` or `cfg["beta"]`; cannot be changed.

    `paper`, `preset` and `seed` say what it is; `overrides` names the settings that the notebook's parameters gave.
    What they leave to the machine is `choose`n once, and read as if it had been given.
    """

    def __init__(
        self, *, paper: str, preset: str, seed: int, values: dict[str, Value], overrides: tuple[str, ...]
    ) -> None:
        self.__dict__.update(
            paper=paper, preset=preset, seed=seed, overrides=overrides, _values=dict(values), _chosen={}
        )

    def __getitem__(self, name: str) -> Any:
        try:
            return self._chosen[name] if name in self._chosen else self._values[name]
        except KeyError:
            raise UnknownSetting(f"{self.paper} has no setting {name!r}{nearest(name, self._values)}") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle look for these before there are values
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(str(error)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"settings are fixed for a run: give {name.upper()} in the parameters instead of setting it"
        )

    __delattr__ = lambda self, name: self.__setattr__(name, None)  # noqa: E731

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Config({self.paper}, preset={self.preset}, seed={self.seed}, {self._values})"

    def items_of(self, name: str) -> list[str]:
        """A comma-separated setting as a list of its items."""
        return split(self[name])

    def as_dict(self) -> dict[str, Value]:
        """A plain copy of the settings as they were given, without paper, preset and seed."""
        return dict(self._values)

    def choose(self, **values: Value) -> None:
        """Fix what the settings leave to the machine and what cannot change a result; they stay what was asked for in
        `as_dict` and in the fingerprint."""
        self._chosen.update(values)

    def chosen(self) -> dict[str, Value]:
        """What was left to the machine, by name."""
        return dict(self._chosen)

    def fingerprint(self) -> str:
        """16 hex digits that change when the paper, the preset, the seed, any setting or a file that one names does."""
        key = {"paper": self.paper, "preset": self.preset, "seed": self.seed, "settings": self._values}
        files = inputs.digests(self._values)
        return cache.fingerprint(key | {"files": files} if files else key)


RESERVED = {name for name in dir(Config) if not name.startswith("_")} | {"paper", "preset", "seed", "overrides"}


def split(text: str) -> list[str]:
    """The items of a comma-separated string, without the spaces around them."""
    return [item.strip() for item in text.split(",")]


def _number(text: str) -> float | str:
    """An item by its value: 0.5 and 0.50 are one."""
    try:
        return float(text)
    except ValueError:
        return text


def nearest(name: str, among: Any) -> str:
    """', did you mean X?' where something in `among` looks like `name`, else ''."""
    found = difflib.get_close_matches(str(name), [str(a) for a in among], n=1, cutoff=0.6)
    return f", did you mean {found[0]}?" if found else ""


_A = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def _is_range(allowed: Any) -> bool:
    return isinstance(allowed, tuple) and len(allowed) == 2 and all(type(v) in (int, float) for v in allowed)


def _hint(kind: type, value: Any) -> str:
    """YAML reads 5e-7 as a text: say how to write the number so that it is one."""
    if not isinstance(value, str) or kind not in (int, float):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if kind is int:
        return f": write {int(number)} without quotes" if number.is_integer() else ""
    mantissa, _, exponent = repr(number).partition("e")
    if exponent:
        mantissa = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"
    return f": write {mantissa} without quotes"


# ---- settings that several papers share


def columns(of: str) -> Setting:
    """COLUMNS of what a notebook reads."""
    return Setting(
        smoke="none", small="none", paper="none", published=None, source="ours",
        help=f"names of columns as field=column,field=column, where {of} have others: prompt=question,chosen=best; "
        "none", form=r"none|[^=,]+=[^=,]+(,[^=,]+=[^=,]+)*",
    )  # fmt: skip


BAD_ROWS = Setting(
    smoke=0.1, small=0.1, paper=0.1, published=None, source="ours: more than this is a file that is misread",
    help="largest share of rows with errors that is dropped and named; above it the run stops", allowed=(0.0, 1.0),
)  # fmt: skip
