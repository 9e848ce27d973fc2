"""Rules of the repository as a whole: import levels, declared dependencies, a test file for each module, clean files."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lib.harness.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTION = {"yaml": "pyyaml", "profanity_check": "alt-profanity-check"}  # where the import's name is not the package's
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((ROOT / "lib").rglob("*.py"))
}

# level -> (its modules, packages at import, packages inside functions, what of lib it may import)
LEVELS = {
    "maths": (
        ["logprobs", "losses", "references", "quantization", "metrics", "stats", "bandit", "constraint", "tabular", "diversity", "merging"],
        {"torch", "numpy", "scipy"},
        {"bitsandbytes", "rouge_score", "safetensors"},
        ["maths"],
    ),
    "things": (
        ["attention", "models", "data", "trunk", "checkpoint", "nodes", "taxonomy", "taxonomy_checks"],
        {"torch", "numpy", "transformers", "peft", "safetensors", "yaml"},
        {"bitsandbytes", "lm_eval", "gguf", "tokenizers", "pandas", "accelerate"},
        ["maths", "things", "harness.assets", "harness.paths", "harness.progress"],
    ),
    "doing": (
        ["generation", "scoring", "objectives", "flipping", "training", "phases", "synthesis", "evaluation", "repair", "speed", "oracles", "preferences", "multiref", "arms", "online", "enumerated", "dialogue", "steering", "side_by_side", "judged", "toxicity", "forum", "blocks", "teachers", "phrases", "prompts", "samplers", "judges", "exams", "students", "curricula", "audit", "lessons"],
        {"torch", "numpy", "pandas", "transformers", "peft", "safetensors", "yaml"},
        {"bitsandbytes", "lm_eval", "accelerate", "datasets", "trl", "vaderSentiment", "afinn", "profanity_check", "better_profanity"},
        ["maths", "things", "doing", "harness.progress", "harness.seeding", "harness.cache", "harness.paths", "harness.workers"],
    ),
    "harness": (
        ["harness"],
        {"numpy", "pandas", "matplotlib", "papermill", "nbformat", "nbclient", "typer", "tqdm", "psutil"},
        {"torch", "ray", "IPython", "transformers"},
        ["harness", "stats", "taxonomy"],
    ),
}
# among the doing modules, who may use whom
USES = {
    "scoring": {"generation"},
    "flipping": {"generation", "scoring", "objectives"},
    "judges": {"scoring"},
    "phrases": {"judges"},
    "prompts": {"samplers"},
    "teachers": {"generation", "judges", "phrases", "prompts"},
    "blocks": {"judges", "prompts", "teachers"},
    "synthesis": {"blocks", "judges", "prompts", "samplers", "teachers"},
    "evaluation": {"generation", "scoring"},
    "preferences": {"generation", "oracles"},
    "multiref": {"scoring", "training", "preferences"},
    "arms": {"generation", "scoring", "oracles", "preferences", "evaluation", "multiref"},
    "online": {"oracles"},
    "enumerated": {"online", "oracles"},
    "dialogue": {"generation", "training", "online", "oracles"},
    "forum": {"toxicity"},
    "phases": {"training"},
    "exams": {"evaluation", "forum", "judges", "phrases"},
    "students": {"generation", "training", "phases", "exams"},
    "curricula": {"training", "phases", "students"},
    "audit": {"blocks", "evaluation", "exams", "judges", "phrases", "prompts", "samplers", "synthesis", "teachers"},
    "lessons": {"audit", "curricula", "exams", "judges", "phases", "students"},
    "steering": {"generation", "training", "forum", "toxicity"},
    "side_by_side": {"steering", "forum", "toxicity"},
    "judged": {"generation", "evaluation", "steering", "forum", "toxicity"},
    "speed": {"generation", "scoring", "objectives", "training"},
    "repair": {"generation", "scoring", "objectives", "flipping", "training", "evaluation"},
}


def level_of(module: str) -> str:
    """The level that lists `module` ('lib.quantization.rtn') or the folder it lies in."""
    parts = module.removeprefix("lib.").split(".")
    found = [level for level, (members, *_) in LEVELS.items() if parts[0] in members]
    assert len(found) == 1, f"{module} belongs to no level: add it to LEVELS in tests/test_repo.py"
    return found[0]


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
                found.append((whole if whole in MODULES or node.module == "lib" else node.module, id(node) not in inside))
    return found


def lib_imports(module: str) -> set[str]:
    return {name for name, _ in imports(MODULES[module]) if name.split(".")[0] == "lib"} - {"lib", module}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "lib"])
def test_imports_go_only_downwards(module):
    level = level_of(module)
    _, at_import, inside, of_lib = LEVELS[level]
    for name, top in imports(MODULES[module]):
        package = name.split(".")[0]
        if package == "lib":
            own = name.removeprefix("lib.")
            allowed = level_of(name) in of_lib or any(own == a or own.startswith(a + ".") for a in of_lib)
            assert allowed, f"{module} ({level}) may not import {name}"
            used = own.split(".")[0]
            if level == "doing" and level_of(name) == "doing" and used != module.split(".")[1]:
                assert used in USES.get(module.split(".")[1], set()), f"{module} may not import {name}"
        elif package not in sys.stdlib_module_names:
            assert package in at_import | inside, f"{module} ({level}) may not import {package}"
            assert package in at_import or not top, f"{module} ({level}) may import {package} only inside a function"


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
    code = "import importlib, sys\nfor m in sys.argv[1:]: importlib.import_module(m)\nprint(*{'torch', 'transformers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code, *harness], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_every_import_is_declared():
    extras = PROJECT["project"]["optional-dependencies"]
    needed = PROJECT["project"]["dependencies"]
    optional = [*extras["bench"], *extras["scale"]]
    plain = {normal(r) for r in needed}
    for module, path in MODULES.items():
        for name, top in imports(path):
            package = name.split(".")[0]
            if package == "lib" or package in sys.stdlib_module_names:
                continue
            distribution = normal(DISTRIBUTION.get(package, package))
            assert distribution in (plain if top else plain | {normal(r) for r in optional}), f"{module}: {package} is not in pyproject.toml"


def normal(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def test_every_folder_of_lib_is_packaged():
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in MODULES.values()}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_environment_installs_this_repository_and_nothing_else():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    wanted = lines[lines.index("dependencies:") + 1 :]
    assert wanted == ["- python=3.11", "- pip", "- pip:", "- -e .[dev]"]


@pytest.mark.parametrize("module", [m for m, p in MODULES.items() if p.read_text().strip()])
def test_every_module_has_its_tests(module):
    """lib.losses -> tests/test_losses.py; files of a folder share the folder's tests (lib.quantization.* -> test_quantization*.py)."""
    parts = module.split(".")[1:]
    if parts and parts[0] == "harness":
        parts = parts[1:]
    if parts:
        assert list((ROOT / "tests").glob(f"test_{parts[0]}*.py")), f"{module} has no tests/test_{parts[0]}.py"


def test_modules_stay_readable():
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert not {m: n for m, n in lengths.items() if n > 400}, "split by topic: about 300 lines a module"


# ------------------------------------------------------------------------------------------------ files


def files() -> list[Path]:
    """What git tracks or would track; in a copy without git, everything that .gitignore's folders do not hold."""
    asked = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if asked.returncode == 0:
        found = [ROOT / name for name in asked.stdout.split("\0") if name]
    else:
        ignored = {".venv", ".git", "__pycache__", "cache", ".pytest_cache", ".ruff_cache", "build"}
        found = [p for p in ROOT.rglob("*") if not ignored & set(p.relative_to(ROOT).parts) and ".egg-info" not in str(p)]
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
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(text.splitlines(), 1) if machine.search(line)]
    assert not found, f"absolute paths of one machine: {found}"


def test_no_large_files():
    large = {str(p.relative_to(ROOT)): p.stat().st_size for p in files() if p.stat().st_size > 1_000_000}
    assert not large, f"over 1 MB: {large}"


def test_make_lists_its_targets():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.search(r"^\.PHONY: (help .*)$", makefile, re.M)[1].split())
    told = set(re.findall(r"@echo 'make (\w+)", makefile))
    assert named - {"help"} == told and {t for t in named if re.search(rf"^{t}:", makefile, re.M)} == named
