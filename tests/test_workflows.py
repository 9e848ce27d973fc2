"""A linter of .github/workflows: what they name exists, each job has a time limit, no input is read as shell code, and
secrets reach single steps only."""

import itertools
import re
import shlex

import pytest
import typer
import yaml

from lib.harness import claims, cli, presets
from lib.harness.paths import ROOT

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
LONGEST = 360  # minutes that a person would wait for one job
ECHO = r"(?<![-\w])(echo|printf|printenv|env|set|declare|export|tee|cat)\b"


def parsed(text: str) -> dict:
    found = yaml.safe_load(text)
    return {"on" if k is True else k: v for k, v in found.items()}  # to YAML 1.1 `on` is a truth


def targets() -> set[str]:
    return set(re.search(r"^\.PHONY: (help .*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())


def commands(script: str) -> list[list[str]]:
    """The words of every command, without variables set before it."""
    found = []
    for line in script.splitlines():
        parts = shlex.shlex(line, posix=True, punctuation_chars=True)
        parts.whitespace_split = True
        for end, words in itertools.groupby(parts, key=lambda w: set(w) <= set("|&;()<>")):
            found += [] if end else [list(itertools.dropwhile(lambda w: re.fullmatch(r"\w+=.*", w), words))]
    return [words for words in found if words]


def wrong_commands(script: str) -> list[str]:
    """make targets, and commands and options of plumbline, that there are not."""
    out, app = [], typer.main.get_command(cli.app)
    for words in commands(script):
        if words[:1] == ["make"]:
            out += [f"make has no target {w}" for w in words[1:] if w not in targets()]
        if words and words[0].split("/")[-1] == "plumbline":
            command = app.commands.get(words[1])
            if command is None:
                out.append(f"plumbline has no command {words[1]}")
                continue
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            out += [f"plumbline {words[1]} has no {w}" for w in words[2:] if w.startswith("--") and w not in known]
        if words[:1] == ["bash"]:
            out += wrong_commands((ROOT / words[1]).read_text())
    return out


def minutes(value) -> float:
    """Of a job's time limit; of an expression its default."""
    found = re.search(r"\|\| '(\d+)'\) }}$", str(value))
    return float(found[1] if found else value)


def problems(text: str) -> list[str]:
    flow, out = parsed(text), []
    if flow.get("permissions") != {"contents": "read"}:
        out.append("permissions are more than contents: read")
    if not flow.get("concurrency", {}).get("group"):
        out.append("no concurrency group")
    inputs = (
        ((flow["on"] or {}).get("workflow_dispatch") or {}).get("inputs", {}) if isinstance(flow["on"], dict) else {}
    )
    out += [f"no input is called {n}" for n in set(re.findall(r"\binputs\.(\w+)", text)) - inputs.keys()]
    out += [f"{n} is asked for and not used" for n in inputs if f"inputs.{n}" not in text]
    allowed = 0  # mentions of secrets at a place that may have them
    for name, job in flow["jobs"].items():
        try:
            assert 0 < minutes(job["timeout-minutes"]) <= LONGEST
        except (KeyError, ValueError, AssertionError):
            out.append(f"job {name} has no time limit of at most {LONGEST} minutes")
        if "permissions" in job:
            out.append(f"job {name} asks for rights of its own")
        literal = [k for k, v in job.get("strategy", {}).get("matrix", {}).items() if isinstance(v, list)]
        for step in job["steps"]:
            run, uses = step.get("run", ""), step.get("uses")
            if uses and not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+(\.\d+)*|[0-9a-f]{40})", uses):
                out.append(f"{uses} is not pinned by version")
            written = re.findall(r"\$\{\{\s*(.*?)\s*\}\}", run)
            out += [f"{w} is read as shell code" for w in written if w not in [f"matrix.{k}" for k in literal]]
            out += wrong_commands(re.sub(r"\$\{\{.*?\}\}", "x", run))
            secret = [k for k, v in (step.get("env") or {}).items() if "secrets." in str(v)]
            allowed += sum(str(step["env"][k]).count("secrets.") for k in secret)
            if secret and (re.search(ECHO, run) or any(k in run for k in secret) or "set -x" in run or uses):
                out.append(f"a step that has {', '.join(secret)} could show it")
    if text.count("secrets.") != allowed or "secrets:" in text or "toJSON(secrets" in text:
        out.append("a secret is given to more than one step")
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_workflows_are_in_form(path):
    assert problems(path.read_text()) == []


GPU = (ROOT / ".github/workflows/gpu.yml").read_text()


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("contents: read", "contents: write", "permissions are more"),
        ("group: gpu", "grup: gpu", "no concurrency group"),
        ("    timeout-minutes: ", "    # ", "no time limit"),
        ("|| '120'", "|| '1440'", "no time limit"),
        ("make doctor", "make docter", "make has no target docter"),
        ("plumbline drift", "plumbline drfit", "plumbline has no command drfit"),
        ("--markdown", "--markup", "plumbline drift has no --markup"),
        ("inputs.device", "inputs.devise", "no input is called devise"),
        ("inputs.minutes", "inputs.seeds", "minutes is asked for and not used"),
        ("checkout@v4", "checkout@main", "not pinned"),
        ("      DEVICE:", "      HF_TOKEN: ${{ secrets.HF_TOKEN }}\n      DEVICE:", "more than one step"),
        ("        run: .venv/bin/plumbline run ", "        run: echo $HF_TOKEN; plumbline run ", "could show it"),
        ('"$PAPER"', '"${{ inputs.paper }}"', "inputs.paper is read as shell code"),
        ('--seed "$SEED"', '--seed "${{ matrix.seed }}"', "matrix.seed is read as shell code"),
    ],
)
def test_the_linter_sees(old, new, said):
    assert old in GPU
    found = problems(GPU.replace(old, new))
    assert any(said in f for f in found), found


def test_the_gpu_workflow_offers_the_papers_and_presets_that_there_are():
    given = parsed(GPU)["on"]["workflow_dispatch"]["inputs"]
    assert given["paper"]["options"] == ["all", *claims.PAPERS]
    assert set(given["preset"]["options"]) == set(presets.PRESETS) - {"smoke"}
    job = parsed(GPU)["jobs"]["run"]
    papers = re.search(r"\|\| '(\[.*\])'\) }}$", job["strategy"]["matrix"]["paper"])[1]
    assert yaml.safe_load(papers) == list(claims.PAPERS)
    for name in ("seeds", "device", "runner", "minutes", "preset"):  # a week's run has what is offered by default
        assert f"inputs.{name} || '{given[name]['default']}'" in GPU, name
    seeds = yaml.safe_load(f"[{given['seeds']['default']}]")
    assert all(set(seeds) & set(presets.seeds(p, "study")) for p in claims.PAPERS)
    assert all("device" in presets.settings(p) for p in claims.PAPERS)


def test_a_pipe_into_the_summary_keeps_the_exit_status():
    """GitHub runs a step's lines with pipefail only where `shell: bash` is written."""
    for path in FILES:
        for job in parsed(path.read_text())["jobs"].values():
            piped = [s for s in job["steps"] if re.search(r"\| tee\b", s.get("run", ""))]
            assert all(s.get("shell") == "bash" for s in piped)
            assert piped or path.name != "gpu.yml"
