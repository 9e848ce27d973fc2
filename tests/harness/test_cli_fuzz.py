"""The command line under words in any order: an answer, click's usage, or one sentence."""

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lib.harness import cli, fits, index, paths, reproduction, runner
from tests.fuzzing import inputs

COMMANDS = ["list", "run", "fits", "reproduce", "power", "export", "compare", "sweep", "presets", "generate",
    "taxonomy check", "notebooks check", "notebooks show"]  # fmt: skip
PAPERS, PRESETS = ["qdpo", "lab", "mrpo", "sea", "speed", "attribute_control"], ["smoke", "small", "study", "paper"]
WORDS = ["qdpo", "lab", "mrpo", "sea", "speed", "attribute_control", "qdop", "all", "smoke", "small", "study", "paper",
    "0", "1", "-1", "1e9", "nan", "0 1 2", "a b", "BETA=0.1", "beta=x", "SEED=3", "seed", "BITS=9", "=", "a=b=c",
    "lr=1e-5,1e-4", "", " ", "/nowhere/at/all", "..", "data", "templated", "http://localhost:9/v1 m", "\u2028", "x\ny",
    "--", "-h", "99999999999999999999"]  # fmt: skip

word = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), st.text(max_size=6))
FIT = {  # words that a parameter may well be given
    "paper": PAPERS, "preset": PRESETS, "seed": ["0", "3"], "seeds": ["0", "0 1"], "set_": ["BETA=0.1", "BATCH=8"],
    "grid": ["BETA=0.1,0.2", "SEED=1"], "jobs": ["1", "2", "0"], "processes": ["1", "2"], "rows": ["3", "0"],
}  # fmt: skip


@st.composite
def line(draw):
    """The words of a command: its own parameters, mostly all that it needs, some of them with words that fit."""
    name = draw(st.sampled_from(COMMANDS))
    command = typer.main.get_command(cli.app)
    for part in name.split():
        command = command.commands[part]
    out = []
    for one in draw(st.permutations(command.params)):
        needed, wrong = one.required or one.param_type_name == "argument", draw(st.integers(0, 7)) == 0
        if one.name == "help" or wrong if needed else draw(st.integers(0, 2)):
            continue
        given = draw(word if draw(st.integers(0, 3)) == 0 else st.sampled_from(FIT.get(one.name, WORDS)))
        flag = getattr(one, "is_flag", False)
        out += [given] if one.param_type_name == "argument" else [one.opts[0]] if flag else [one.opts[0], given]
    return name.split() + out + (draw(st.lists(word, max_size=2)) if draw(st.integers(0, 9)) == 0 else [])


@pytest.fixture(scope="module")
def shut(tmp_path_factory):
    """Nothing is run: what would take time answers at once, after its input was checked."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_RESULTS", str(folder / "results"))
        patch.setenv("PLUMBLINE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        valid = runner.validate
        ran = lambda paper, *, preset, seed, overrides=None, **_: (  # noqa: E731
            valid(paper, preset, seed, overrides or {}) and runner.RunResult(folder, 0, "")
        )
        patch.setattr(runner, "run", ran)
        patch.setattr(runner, "spawn", lambda *a, **k: 0)
        patch.setattr(reproduction, "_publish", lambda which: None)
        patch.setattr(reproduction.results, "RunRecord", lambda folder: None)
        patch.setattr(reproduction.claims, "beside", lambda *a: None)
        patch.setattr(reproduction.board, "beside", lambda found: "")
        patch.setattr(reproduction.index, "speed_text", lambda runs: "")
        patch.setattr(fits, "settle", lambda cfg, **k: None)
        patch.setattr(fits, "footprint", lambda *a, **k: [])
        patch.setattr(fits, "write", lambda *a: paths.ROOT / "x")
        patch.setattr(index, "write", lambda: [])
        yield


@inputs(0.15)
@given(line())
@example(["taxonomy", "check", "\u2028"])  # the name of a folder broke the sentence in two
@example(["notebooks", "show", "x\ny"])
def test_any_words_are_answered(shut, words):
    done = CliRunner().invoke(cli.app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    assert done.exit_code in (0, 1, 2) and "Traceback" not in done.output
    if done.exit_code == 2 and "Usage:" not in done.stderr:
        (told,) = done.stderr.strip().splitlines()
        assert told.startswith("plumbline: ") and len(told) > len("plumbline: ...")
