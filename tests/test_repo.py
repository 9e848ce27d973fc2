"""Rules of the repository as a whole: import levels, declared dependencies, a test file for each module, clean
files."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lib.harness.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTION = {
    "yaml": "pyyaml",
    "profanity_check": "alt-profanity-check",
}  # where the import's name is not the package's
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((ROOT / "lib").rglob("*.py"))
}

# room -> (floor, packages at import, packages inside functions). A room imports its own modules and rooms on floors
# below it.
PLAIN = {"torch", "numpy"}
MODEL = PLAIN | {"transformers", "peft", "safetensors"}
ROOMS = {
    "data": (1, PLAIN, {"datasets", "pandas"}),
    "stats": (1, {"numpy", "scipy"}, set()),
    "losses": (1, PLAIN, set()),
    "quantization": (1, PLAIN | {"scipy"}, {"bitsandbytes", "safetensors", "compressed_tensors"}),
    "constraint": (1, PLAIN, set()),
    "taxonomy": (1, {"yaml"}, set()),
    "harness": (
        2,
        {"numpy", "pandas", "matplotlib", "papermill", "nbformat", "nbclient", "typer", "tqdm", "psutil"},
        {"torch", "ray", "IPython", "transformers", "nbconvert"},
    ),
    "engine": (3, MODEL, {"bitsandbytes", "gguf", "tokenizers", "accelerate", "compressed_tensors"}),
    "scoring": (
        4,
        MODEL | {"scipy", "yaml"},
        {
            "lm_eval",
            "datasets",
            "pandas",
            "vaderSentiment",
            "afinn",
            "profanity_check",
            "better_profanity",
            "rouge_score",
        },
    ),
    "bandit": (5, PLAIN, set()),
    "synthesis": (5, PLAIN, {"openai"}),
    "speed": (5, MODEL | {"pandas"}, {"trl", "accelerate", "datasets"}),
    "studies": (6, MODEL | {"pandas"}, set()),
}
OF_LIB = {"harness": {"lib.stats", "lib.taxonomy"}}  # a room that may use less than the floors below it


def room_of(module: str) -> str:
    """The room of `module`: 'lib.quantization.rtn' lies in quantization."""
    room = module.split(".")[1]
    assert room in ROOMS, f"{module} lies in no room: add it to ROOMS in tests/test_repo.py"
    return room


def imports(path: Path) -> list[tuple[str, bool]]:
    """(imported module, whether at the top of the file) for every import statement; `from lib import x` gives lib.x."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import, write it from lib"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append(
                    (whole if whole in MODULES or node.module == "lib" else node.module, id(node) not in inside)
                )
    return found


def lib_imports(module: str) -> set[str]:
    return {name for name, _ in imports(MODULES[module]) if name.split(".")[0] == "lib"} - {"lib", module}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "lib"])
def test_imports_go_only_downwards(module):
    room = room_of(module)
    floor, at_import, inside = ROOMS[room]
    for name, top in imports(MODULES[module]):
        package = name.split(".")[0]
        if package == "lib":
            below = ROOMS[room_of(name)][0] < floor and any(name.startswith(x) for x in OF_LIB.get(room, {"lib."}))
            assert below or room_of(name) == room, f"{module} (floor {floor}) may not import {name}"
            if room == "studies" and room_of(name) == room:
                assert name.split(".")[2] == module.split(".")[2], (
                    f"{module} may not import another study's {name}: move what both use down"
                )
        elif package not in sys.stdlib_module_names:
            assert package in at_import | inside, f"{module} (floor {floor}) may not import {package}"
            assert package in at_import or not top, (
                f"{module} (floor {floor}) may import {package} only inside a function"
            )


def test_no_import_cycles():
    left = {module: lib_imports(module) & MODULES.keys() for module in MODULES}
    while ready := [m for m, needs in left.items() if not needs & left.keys()]:
        for module in ready:
            del left[module]
    assert not left, f"these import each other: {sorted(left)}"


def test_harness_does_not_load_torch():
    """A command that lists papers or reads results answers at once."""
    harness = [m for m in MODULES if m.startswith("lib.harness")]
    assert len(harness) >= 8
    code = (
        "import importlib, sys\nfor m in sys.argv[1:]: importlib.import_module(m)\nprint(*{'torch', 'transformers'} "
        "& set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code, *harness], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_every_import_is_declared():
    extras = PROJECT["project"]["optional-dependencies"]
    needed = PROJECT["project"]["dependencies"]
    optional = [*extras["bench"], *extras["scale"], *extras["teachers"]]
    plain = {normal(r) for r in needed}
    for module, path in MODULES.items():
        for name, top in imports(path):
            package = name.split(".")[0]
            if package == "lib" or package in sys.stdlib_module_names:
                continue
            distribution = normal(DISTRIBUTION.get(package, package))
            assert distribution in (plain if top else plain | {normal(r) for r in optional}), (
                f"{module}: {package} is not in pyproject.toml"
            )


def normal(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def test_environment_installs_this_repository_and_nothing_else():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    wanted = lines[lines.index("dependencies:") + 1 :]
    assert wanted == ["- python=3.11", "- pip", "- pip:", "- -e .[dev]"]


def test_the_lock_covers_what_is_declared():
    """constraints.txt: one exact version a package, for everything that pyproject.toml names but torch, and within what
    it allows; no place on a disk and no build for one kind of machine."""
    from packaging.requirements import Requirement

    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if not x.startswith("#")]
    assert lines and all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    locked = {normal(name).replace(".", "-"): version for name, version in (line.split("==") for line in lines)}
    assert len(locked) == len(lines) and "torch" not in locked
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["dev"], *extras["bench"], *extras["teachers"]]
    for requirement in map(Requirement, wanted):
        if (name := normal(requirement.name)) not in ("torch", "plumbline"):
            assert locked[name] in requirement.specifier, f"{name} {locked[name]} for {requirement}"


def test_make_installs_by_the_lock_and_into_an_active_conda_environment(tmp_path):
    """What make would do, from its dry run: .venv with the lock; conda's active environment but not its base."""
    make = lambda **env: subprocess.run(  # noqa: E731
        ["make", "-n", "check"], cwd=tmp_path, capture_output=True, text=True, env={"PATH": os.environ["PATH"]} | env
    ).stdout  # fmt: skip
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    plain, base = make(), make(CONDA_PREFIX="conda", CONDA_DEFAULT_ENV="base")
    assert plain == base and ".venv/bin/python -m pip install -c constraints.txt -e '.[dev]'" in plain
    inside = make(CONDA_PREFIX="conda/envs/mine", CONDA_DEFAULT_ENV="mine")
    assert "conda/envs/mine/bin/python -m pip install -c constraints.txt -e '.[dev]'" in inside
    assert ".venv/bin/python" not in inside and "conda/envs/mine/bin/python -m ruff" in inside
    assert "rm -rf conda" not in inside


def test_the_citation_names_the_papers_of_the_readme():
    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(cited)
    assert cited["version"] == PROJECT["project"]["version"] and cited["license"] == PROJECT["project"]["license"]
    links = re.findall(r"^\| \[.*?\]\((https://arxiv.org/abs/[\d.]+)\)", (ROOT / "README.md").read_text(), re.M)
    assert [r["url"] for r in cited["references"]] == links and len(links) >= 5
    for r in cited["references"]:
        assert {"type", "title", "authors"} <= set(r) and r["authors"]
        assert r["identifiers"][0]["value"] == "arXiv:" + r["url"].rpartition("/")[2]


@pytest.mark.parametrize("module", [m for m, p in MODULES.items() if p.name != "__init__.py"])
def test_every_module_has_its_tests(module):
    """lib/engine/models.py -> tests/engine/test_models*.py, or the tests of its folder as a whole,
    tests/engine/test_engine.py."""
    *folders, name = module.split(".")[1:]
    room = ROOT.joinpath("tests", *folders)
    found = list(room.glob(f"test_{name}*.py"))
    if folders:
        found += [*room.glob(f"test_{folders[-1]}.py"), *room.parent.glob(f"test_{folders[-1]}.py")]
    assert found, f"{module} has no {room.relative_to(ROOT)}/test_{name}.py"


def test_tests_lie_as_lib_does():
    """Every file of tests/ names the module or the folder it is about; two are about the repository as a whole,
    test_mutation.py is about the tests."""
    whole = {"test_repo.py", "test_workflows.py", "test_mutation.py"}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.parent.relative_to(ROOT / "tests")
        there = ROOT / "lib" / folder
        names = [p.stem for p in there.iterdir() if p.suffix == ".py" or p.is_dir()] + [there.name]
        about = [n for n in names if path.stem.removeprefix("test_") == n or path.stem.startswith(f"test_{n}_")]
        assert path.name in whole or about, f"{path.relative_to(ROOT)} names nothing in lib/{folder}"


def test_every_equation_of_the_table_is_where_it_says():
    """lib/README.md: `[room/module](room/module.py) `name` ...` for each; every room stands in the picture above."""
    text = (ROOT / "lib/README.md").read_text()
    picture, table = text.split("## Where each equation lives")
    assert not [room for room in ROOMS if f"{room}/" not in picture and f"{room}.py" not in picture]
    entries = re.findall(r"\[([\w/]+)\]\(([\w/]+\.py)\)((?: `\w+`)+)", table)
    assert len(entries) > 60 and len(re.findall(r"\]\(", table)) == len(entries)
    for title, path, names in entries:
        source = (ROOT / "lib" / path).read_text()
        assert path == title + ".py"
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(def|class) {name}\b|^{name}\b.* = ", source, re.M), f"{path} has no {name}"


def test_what_the_readme_shows_of_python_runs_as_it_stands():
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    there = {}
    exec(block, there)
    assert there["losses"].dpo(*(there[x] for x in ("pi_w", "pi_l", "ref_w", "ref_l")), beta=0.1).loss.shape == (1,)


RECIPES = dict(re.findall(r"\n\*\*(.*?)\*\*[^`]*?\n\n```python\n(.*?)```", (ROOT / "lib/README.md").read_text(), re.S))


def test_recipes_are_short_and_import_what_the_packages_offer():
    """At most 15 lines each; `package.name` stands in the package's `__all__`."""
    assert len(RECIPES) == 5 == (ROOT / "lib/README.md").read_text().count("```python")
    for title, code in RECIPES.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 15 and max(map(len, lines)) <= 120, f"{title}: {len(lines)} lines"
        for package, name in re.findall(r"\b(\w+)\.(\w+)\b", code):
            if (init := ROOT / "lib" / package / "__init__.py").exists():
                assert f'"{name}"' in init.read_text(), f"{title}: {package}.{name} is not in __all__"


def recipe(title: str) -> dict:
    """The names that a recipe of lib/README.md leaves behind, run in this folder as it stands."""
    there = {}
    exec(RECIPES[title], there)
    return there


def test_recipe_a_loss_of_your_own():
    """The curve falls, and its first value is IPO's by hand: policy and primary are one model there."""
    there = recipe("A loss of your own")
    (w, l), curve = there["refs"].double().unbind(-1), there["curve"]
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    # both references within 10 % of the primary (adaptive windows sum to 0.1), then the weighted harmonic mean
    share = w.abs().mean(1) / (w.abs().mean(1) + l.abs().mean(1))
    ref = []
    for side, e in ((w, 0.1 * share), (l, 0.1 - 0.1 * share)):
        first, second = side[:, 0], side[:, 1]
        second = second.clamp((1 + e) * first, (1 - e) * first)
        ref.append(-(0.8 / first.exp() + 0.2 / second.exp()).log())
    ipo = (w[:, 0] - l[:, 0] - ref[0] + ref[1] - 1 / (2 * 0.1)) ** 2
    assert curve[0]["loss"] == pytest.approx(ipo.mean().item(), rel=1e-3)


def test_recipe_awq_and_the_tokens_it_flips():
    there = recipe("AWQ, and the tokens it flips")
    flips, tokens = there["forced"].flip.sum(), len(there["forced"].flip)
    assert 0 < flips < tokens == sum(map(len, there["answers"])) == len(there["forced"].kl)
    assert there["forced"].kl.min() >= -1e-6 and there["forced"].kl.mean() > 1e-3


def test_recipe_eight_samples_a_prompt():
    """Sixteen answers, not one answer eight times, whose log-probabilities a second pass over them gives too."""
    from lib import scoring

    there = recipe("Eight samples a prompt")
    done, prompts = there["done"], there["data"].encode(there["tokenizer"], there["asked"])
    assert len(done) == 16 and all(len({tuple(c.tokens) for c in done[i : i + 8]}) > 4 for i in (0, 8))
    for i, prompt in enumerate(prompts):
        branches = [[c.tokens] for c in done[8 * i : 8 * i + 8]]
        again = scoring.completion_logprobs(there["model"], [prompt], *branches, batch=1)[0].tolist()
        assert [sum(c.logprobs) for c in done[8 * i : 8 * i + 8]] == pytest.approx(again, abs=1e-3)


def test_recipe_success_rates_for_a_classifier():
    """R tells after the last token which answers satisfied the classifier, and began at one half for all."""
    import math

    there = recipe("Success rates for a classifier")
    last, fine = [], there["fine"]
    for k in range(64):
        last.append(there["success"][there["packed"].branch == k][-1].item())
    good, bad = ([r for r, f in zip(last, fine.tolist()) if f == which] for which in (1.0, 0.0))
    assert len(good) > 5 and len(bad) > 5
    assert sum(g > b for g in good for b in bad) / (len(good) * len(bad)) > 0.9
    assert there["curve"][0] == pytest.approx(math.log(2), rel=1e-5) and there["curve"][-1] < 0.5


def test_recipe_a_taxonomy_to_rows(monkeypatch):
    monkeypatch.chdir(ROOT)
    there = recipe("A taxonomy to rows")
    rows, leaves = there["rows"], {leaf.path for leaf in there["leaves"]}
    assert len(rows) >= 4 and {row["leaf"] for row in rows} == leaves
    assert all([m["role"] for m in row["messages"]][-2:] == ["user", "assistant"] for row in rows)


@pytest.mark.parametrize(
    "page", ["README.md", "lib/README.md", "tests/README.md", "data/README.md", "notebooks/README.md"]
)
def test_paths_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    inside = {ROOT / x for x in re.findall(r"`((?:lib|tests|notebooks|data)/[\w/.]+)`", text)}
    links = {(ROOT / page).parent / x for x in re.findall(r"\]\(([^)#:]+)\)", text)}
    assert not [str(p.relative_to(ROOT)) for p in inside | links if "cache" not in p.parts and not p.exists()]


def test_the_readme_is_read_in_a_minute():
    """Figure, commands and findings within the first screens, and no long table at all."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 80 and sum(line.startswith("|") for line in lines) <= 12
    assert lines[4].startswith("<!-- generated") and "headlines.svg" in lines[5] and lines[5].startswith("![")


def test_every_notebook_is_on_the_map():
    named = set(re.findall(r"\]\((\d\d_\w+\.ipynb)\)", (ROOT / "notebooks/README.md").read_text()))
    assert named == {p.name for p in (ROOT / "notebooks").glob("*.ipynb")}


def test_functions_take_at_most_nine_arguments():
    """More belong into a record; the one that is left has the form that transformers asks for."""
    long = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                a = node.args
                if len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs) > 9:
                    long.append(f"{module}.{node.name}")
    assert long == ["lib.engine.attention._forward"]


def test_modules_stay_readable():
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert not {m: n for m, n in lengths.items() if n > 400}, "split by topic: about 300 lines a module"


# ------------------------------------------------------------------------------------------------ files


def files() -> list[Path]:
    """What git tracks or would track; in a copy without git, everything that .gitignore's folders do not hold."""
    asked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if asked.returncode == 0:
        found = [ROOT / name for name in asked.stdout.split("\0") if name]
    else:
        ignored = {".venv", ".git", "__pycache__", "cache", ".pytest_cache", ".ruff_cache", "build"}
        found = [
            p for p in ROOT.rglob("*") if not ignored & set(p.relative_to(ROOT).parts) and ".egg-info" not in str(p)
        ]
    found = [p for p in found if p.is_file()]
    assert {"pyproject.toml", "Makefile", "test_repo.py"} <= {p.name for p in found}
    return found


def test_no_machine_paths():
    machine = re.compile(r"(?<![\w.$}~/-])/(?:work|root|home|tmp)(?:/|\b)")
    assert machine.search("open('/ro" + "ot/x')") and not machine.search("a/home/b") and not machine.search("/rooted")
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # pictures and archives
            continue
        found += [
            f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(text.splitlines(), 1) if machine.search(line)
        ]
    assert not found, f"absolute paths of one machine: {found}"


def test_no_large_files():
    large = {str(p.relative_to(ROOT)): p.stat().st_size for p in files() if p.stat().st_size > 1_500_000}
    assert not large, f"over 1.5 MB: {large}"


def test_make_lists_its_targets():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.search(r"^\.PHONY: (help .*)$", makefile, re.M)[1].split())
    told = set(re.findall(r"@echo 'make (\w+)", makefile))
    assert named - {"help"} == told and {t for t in named if re.search(rf"^{t}:", makefile, re.M)} == named
