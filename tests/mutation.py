"""Which mistakes do the tests see? One operator or constant of a formula is changed at a time, and the tests that run
that line are asked.

    make mutation                                       300 mutants drawn by a seed, the table into tests/mutation.md
    python tests/mutation.py --module lib/losses --sample 0     all mutants of a module or a folder of them
    python tests/mutation.py --show lib/stats.py:3              one mutant, as a diff

A mutant costs about a second: this process has imported torch, pytest and all else that is not ours, and each mutant
lives in a fork of it, which imports lib with one changed module and stops at the first test that fails. A first fork
runs the unchanged tests under a tracer, so that a mutant gets the tests that execute its line, the fastest first. What
was found stays in the cache as long as module and test are as they were; a session that was stopped goes on.

Not mutated: texts, annotations, decorators, and what only a message says (`raise`, `assert`, f-strings). A mutant
that no test can tell from the original is named in tests/mutation.md, with the reason, and counts as explained.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import hashlib
import importlib.abc
import importlib.util
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "tests/mutation.md"
TESTS = {  # a folder of lib, or a module -> the tests that may see its mistakes, besides those of its own folder
    "lib/losses": ["tests/losses"],
    "lib/quantization": ["tests/quantization"],
    "lib/bandit": ["tests/bandit"],
    "lib/constraint": ["tests/constraint"],
    "lib/stats.py": ["tests/test_stats.py", "tests/harness/test_coverage.py"],
    "lib/engine/logprobs.py": [
        "tests/engine/test_logprobs.py", "tests/engine/test_objectives.py", "tests/engine/test_head.py",
        "tests/engine/test_trunk.py", "tests/engine/test_architecture.py",
    ],
    "lib/studies/mrpo/exact.py": ["tests/studies/mrpo"],
    "lib/studies/mrpo/convex.py": ["tests/studies/mrpo"],
}  # fmt: skip
GOAL = 0.95
LEAST_LIMIT = 20.0  # seconds of a mutant; or so many times what its tests took unchanged
TIMES = 5.0

# ---- mutants

SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or,
    ast.Or: ast.And, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPARED = {  # the limit itself on the other side, and the other side
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
}  # fmt: skip
PAIRS = (
    ("min", "max"), ("argmin", "argmax"), ("amin", "amax"), ("minimum", "maximum"), ("any", "all"), ("sum", "mean"),
    ("floor", "ceil"), ("tril", "triu"), ("cumsum", "cumprod"), ("log1p", "log"), ("expm1", "exp"),
)  # fmt: skip
NAMES = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
DROPPED = ("detach", "abs", "clamp", "round", "clone", "exp", "log", "flip", "sort")  # x.detach() -> x


class Mutant(NamedTuple):
    """One change: `where` and `change` name it in words that stay when lines move."""

    module: str  # lib/losses/dpo.py
    number: int  # among the module's
    line: int
    where: str  # the function, with its class
    change: str  # what stood there -> what stands there now


def mutants(module: str, text: str) -> list[Mutant]:
    """All mutants of a module's text, in its order."""
    found: list[Mutant] = []
    seen: Counter = Counter()
    for number, (holder, field, at, new, where, line) in enumerate(list(_sites(ast.parse(text)))):
        old = _get(holder, field, at)
        part = isinstance(old, (ast.operator, ast.cmpop, ast.boolop))  # of what it stands in
        before = ast.unparse(holder if part else old)
        _set(holder, field, at, new)
        change = " ".join(f"{before} -> {ast.unparse(holder if part else new)}".split())
        _set(holder, field, at, old)
        seen[where, change] += 1
        more = f" ({seen[where, change]}.)" if seen[where, change] > 1 else ""
        found.append(Mutant(module, number, line, where, change + more))
    return found


def mutated(mutant: Mutant, text: str) -> ast.Module:
    """The module with that one change."""
    tree = ast.parse(text)
    holder, field, at, new, _, _ = list(_sites(tree))[mutant.number]
    _set(holder, field, at, new)
    return ast.fix_missing_locations(tree)


def _get(holder: ast.AST, field: str, at: int | None) -> ast.AST:
    return getattr(holder, field) if at is None else getattr(holder, field)[at]


def _set(holder: ast.AST, field: str, at: int | None, new: ast.AST) -> None:
    if at is None:
        setattr(holder, field, new)
    else:
        getattr(holder, field)[at] = new


def _sites(tree: ast.Module) -> Iterator[tuple]:
    """(node, its field, place in a list or None, what to put there, function, line)."""
    for holder, field, at, node, where in _walk(tree, ""):
        line = getattr(node, "lineno", getattr(holder, "lineno", 1))
        for new in _instead(node):
            yield holder, field, at, new, where, line


def _walk(node: ast.AST, where: str) -> Iterator[tuple]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.Assert, ast.JoinedStr)):
                continue
            yield node, field, at, child, where
            named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
            yield from _walk(child, f"{where}.{child.name}".strip(".") if named else where)


def _instead(node: ast.AST) -> Iterator[ast.AST]:
    if type(node) in SWAPPED:
        yield SWAPPED[type(node)]()
    for other in COMPARED.get(type(node), ()):
        yield other()
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            pass  # an axis mostly, and of a matrix -1 and 1 are the same; its number is changed instead
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=inner):
            yield inner
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Attribute(attr=name, value=inner)) if name in DROPPED and not _is_module(inner):
            yield inner
        case ast.Attribute(attr=name) if name in NAMES:
            yield ast.Attribute(node.value, NAMES[name], node.ctx)
        case ast.Name(id=name) if name in NAMES and isinstance(node.ctx, ast.Load):
            yield ast.Name(NAMES[name], node.ctx)


def _is_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("np", "torch", "math", "F")


def modules(chosen: str = "lib") -> list[str]:
    """The modules that are mutated, those under a path."""
    found = []
    for path in TESTS:
        whole = [ROOT / path] if path.endswith(".py") else sorted((ROOT / path).glob("*.py"))
        found += [p.relative_to(ROOT).as_posix() for p in whole if p.name != "__init__.py"]
    return [m for m in found if m == chosen or m.startswith(chosen.rstrip("/") + "/")]


def tests_of(module: str) -> list[str]:
    return next(tests for path, tests in TESTS.items() if module == path or module.startswith(path + "/"))


# ---- forks


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from another tree."""

    def __init__(self, module: str, tree: ast.Module):
        self.name, self.path = module.removesuffix(".py").replace("/", "."), ROOT / module
        self.tree = tree

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


class _Watch:
    """A plugin of pytest: seconds and outcome of each test, its lines of some files {path: module} if asked."""

    def __init__(self, files: dict[str, str] | None = None):
        self.files, self.seconds, self.failed, self.lines = files or {}, Counter(), [], {}

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed.append(f"{report.nodeid} (cannot be collected)")

    def pytest_runtest_protocol(self, item, nextitem):
        if self.files:
            found = self.lines.setdefault(item.nodeid, set())

            def local(frame, event, _):
                if event == "line":
                    found.add((self.files[frame.f_code.co_filename], frame.f_lineno))
                return local

            def calls(frame, event, _):
                return local if frame.f_code.co_filename in self.files else None

            sys.settrace(calls)

    def pytest_runtest_logfinish(self, nodeid, location):
        if self.files:
            sys.settrace(None)


def in_a_fork(work, limit: float):
    """What `work()` returns, a JSON value, computed in a fork; None if it took longer than `limit` seconds or died."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(here)
        try:
            os.setsid()
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            try:
                said = json.dumps(work()).encode()
            except BaseException:
                said = json.dumps({"failed": [traceback.format_exc()]}).encode()
            with os.fdopen(there, "wb") as pipe:
                pipe.write(said)
        finally:
            os._exit(0)
    os.close(there)
    os.set_blocking(here, False)
    said, until = b"", time.monotonic() + limit
    try:
        while True:
            try:
                part = os.read(here, 1 << 20)
            except BlockingIOError:
                if time.monotonic() > until:
                    return None
                time.sleep(0.01)
                continue
            if not part:
                return json.loads(said) if said else None
            said += part
    finally:
        os.close(here)
        try:
            os.killpg(pid, signal.SIGKILL)  # what the fork began ends with it
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)


def _pytest(watch: _Watch, tests: list[str]) -> None:
    import pytest

    os.chdir(ROOT)
    pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"], plugins=[watch])


def covering(module: str) -> dict:
    """{"lines": {(module, line): [test, ...]}, "seconds": {test: s}} of a module's tests, unchanged, the fastest first,
    for it and all others of its folder; SystemExit if one of them fails."""
    beside = [m for m in modules() if tests_of(m) == tests_of(module)]

    def work():
        watch = _Watch({str(ROOT / m): m for m in beside})
        _pytest(watch, tests_of(module))
        return {
            "failed": watch.failed,
            "seconds": watch.seconds,
            "lines": {name: sorted(lines) for name, lines in watch.lines.items()},
        }

    found = in_a_fork(work, 3600)
    if found is None or found["failed"] or not found["lines"]:
        raise SystemExit(f"{module}: its own tests do not pass unchanged: {found and found['failed'][:3]}")
    by_line: dict[tuple[str, int], list[str]] = {}
    for test in sorted(found["lines"], key=lambda t: found["seconds"][t]):
        for name, line in found["lines"][test]:
            by_line.setdefault((name, line), []).append(test)
    return {"lines": by_line, "seconds": found["seconds"]}


def judge(mutant: Mutant, cover: dict) -> dict:
    """{"caught": by which test, or "time limit", or ""} of a mutant."""
    tree = mutated(mutant, (ROOT / mutant.module).read_text())
    tests = _asked(tree, mutant, cover)
    if not tests:
        return {"caught": "", "why": "no test runs it"}
    limit = max(LEAST_LIMIT, TIMES * sum(cover["seconds"][t] for t in tests))

    def work():
        sys.meta_path.insert(0, _Mutated(mutant.module, tree))
        watch = _Watch()
        _pytest(watch, tests)
        return {"failed": watch.failed, "ran": len(watch.seconds)}

    found = in_a_fork(work, limit)
    if found is None:
        return {"caught": "time limit or death", "why": ""}
    if not found["failed"] and not found["ran"]:
        return {"caught": "cannot be imported", "why": ""}
    return {"caught": (found["failed"] or [""])[0], "why": "" if found["failed"] else f"{found['ran']} tests pass"}


def _asked(tree: ast.Module, mutant: Mutant, cover: dict) -> list[str]:
    """The tests that run the mutant's line, the fastest first: those of its statement where the tracer has not seen
    the line itself, all of the module's where the line runs at import."""
    inside = [
        n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.body[0].lineno <= mutant.line <= n.end_lineno
    ]
    if not inside:
        lines = {line for name, line in cover["lines"] if name == mutant.module}
        spans = [lines]
    else:
        held = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= mutant.line <= n.end_lineno]
        simple = [n for n in held if not isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        simple.sort(key=lambda n: n.end_lineno - n.lineno)
        spans = [{mutant.line}, *(range(n.lineno, n.end_lineno + 1) for n in simple)]
    for lines in spans:
        found = {t for n in lines for t in cover["lines"].get((mutant.module, n), ())}
        if found:
            return sorted(found, key=lambda t: cover["seconds"][t])
    return []


def warm() -> None:
    """Import all that lib and its tests import, and forget lib again: each fork imports it anew."""
    os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", MPLBACKEND="Agg")
    sys.path.insert(0, str(ROOT))
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for module in modules():
        importlib.import_module(module.removesuffix(".py").replace("/", "."))
    for name in ("transformers.models.llama.modeling_llama", "lib.engine.models", "lib.engine.training", "pandas",
                 "lib.scoring.tasks", "lib.studies.mrpo.world", "scipy.stats", "scipy.optimize", "peft"):  # fmt: skip
        importlib.import_module(name)
    for name in [n for n in sys.modules if n == "lib" or n.startswith("lib.")]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


# ---- the session


def explained(page: str) -> set[tuple[str, str, str]]:
    """(module, function, change) of the page's equivalents."""
    rows = re.findall(r"^\| (lib/\S+\.py) \| ([^|]*?) \| `(.*)` \| [^|]+ \|$", page, re.M)
    return {(module, where.strip("` "), change.replace("\\|", "|")) for module, where, change in rows}


def stands(row: dict) -> bool:
    """Whether what the store says is still so: the module is as it was, and so is the test that caught the mutant; of
    one that survived, all its tests."""
    return row["module_is"] == digest(row["module"]) and row["tests_are"] == tests_digest(row["module"], row["caught"])


def tests_digest(module: str, caught: str) -> str:
    """Of the test function that caught, or of all files that could have."""
    path, _, name = caught.partition("::")
    if name and (ROOT / path).is_file():
        name = name.split("::")[-1].partition("[")[0]
        text = (ROOT / path).read_text()
        found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == name]
        return _digest(*(ast.get_source_segment(text, n) for n in found))
    files = [p for test in tests_of(module) for p in ([ROOT / test] if test.endswith(".py") else _tests(ROOT / test))]
    return _digest(*(p.read_text() for p in files))


def _tests(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py"))


@cache
def digest(module: str) -> str:
    return _digest((ROOT / module).read_text(), Path(__file__).read_text().partition("# ---- forks")[0])


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def session(chosen: str, sample: int, seed: int, store: Path) -> list[dict]:
    """One row a mutant: what it was and who caught it; those that are in the store are taken from it."""
    drawn = [m for module in modules(chosen) for m in mutants(module, (ROOT / module).read_text())]
    if sample and sample < len(drawn):
        drawn = sorted(random.Random(seed).sample(drawn, sample), key=lambda m: (m.module, m.number))
    store.parent.mkdir(parents=True, exist_ok=True)
    known = {}
    for line in store.read_text().splitlines() if store.exists() else ():
        row = json.loads(line)
        known[row["module"], row["where"], row["change"]] = row
    cover, rows, warmed = {}, [], False
    for k, m in enumerate(drawn, 1):
        row = known.get((m.module, m.where, m.change))
        if row is None or not stands(row):
            if not warmed:
                warm()
                warmed = True
            group = tuple(tests_of(m.module))
            if group not in cover:
                began = time.monotonic()
                cover[group] = covering(m.module)
                took = time.monotonic() - began
                print(f"{' '.join(group)}: {len(cover[group]['seconds'])} tests unchanged in {took:.0f} s", flush=True)
            began = time.monotonic()
            said = judge(m, cover[group])
            row = {
                "module": m.module, "where": m.where, "change": m.change, **said,
                "seconds": round(time.monotonic() - began, 1), "module_is": digest(m.module),
                "tests_are": tests_digest(m.module, said["caught"]),
            }  # fmt: skip
            with store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if not row["caught"]:
                print(
                    f"[{k}/{len(drawn)}] SURVIVED {m.module}:{m.line} {m.where}: {m.change} ({row['why']})", flush=True
                )
        rows.append(row | {"line": m.line, "number": m.number})
    return rows


def table(rows: list[dict], known: set) -> tuple[str, list[dict]]:
    """The table in Markdown, a row a module; and the survivors that nobody has explained."""
    named = lambda r: (r["module"], r["where"], r["change"])  # noqa: E731
    lines = ["| module | mutants | caught | explained | survived | caught of the rest |", "|---|---|---|---|---|---|"]
    for module in [*dict.fromkeys(r["module"] for r in rows), "all"]:
        mine = [r for r in rows if module in ("all", r["module"])]
        caught, excused = sum(bool(r["caught"]) for r in mine), sum(not r["caught"] and named(r) in known for r in mine)
        rest = len(mine) - excused
        share = f"{caught / rest:.1%}" if rest else "-"
        lines.append(f"| {module} | {len(mine)} | {caught} | {excused} | {rest - caught} | {share} |")
    return "\n".join(lines), [r for r in rows if not r["caught"] and named(r) not in known]


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of the formulas, and whether the tests see them.")
    parser.add_argument("--module", default="lib", help="a module or a folder of lib")
    parser.add_argument("--sample", type=int, default=300, help="how many mutants are drawn; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into tests/mutation.md")
    parser.add_argument("--show", metavar="MODULE:NUMBER", help="print a mutant as a diff")
    given = parser.parse_args()
    if given.show:
        module, _, number = given.show.rpartition(":")
        text = (ROOT / module).read_text()
        one = mutants(module, text)[int(number)]
        both = (ast.unparse(tree).splitlines() for tree in (ast.parse(text), mutated(one, text)))
        print("\n".join(difflib.unified_diff(*both, module, one.change, lineterm="")))
        return 0
    if not modules(given.module):
        raise SystemExit(f"mutated are the modules of {', '.join(TESTS)}; given {given.module!r}")
    store = Path(os.environ.get("PLUMBLINE_CACHE") or ROOT / "data/cache") / "mutation.jsonl"
    rows = session(given.module, given.sample, given.seed, store)
    page = PAGE.read_text()
    shown, left = table(rows, explained(page))
    print(shown)
    for r in left:
        print(f"survived: {r['module']}:{r['line']} {r['where']} | `{r['change']}` | {r['why']} | {r['number']}")
    if given.write:
        head = f"{len(rows)} mutants, seed {given.seed}" if given.sample else f"all {len(rows)} mutants"
        block = f"<!-- table -->\n{head}.\n\n{shown}\n<!-- end of table -->"
        PAGE.write_text(re.sub(r"<!-- table -->.*<!-- end of table -->", lambda _: block, page, flags=re.S))
    caught = sum(bool(r["caught"]) for r in rows)
    return int(caught < GOAL * (caught + len(left)))


if __name__ == "__main__":
    raise SystemExit(main())
