"""A run in the background: it outlives who began it, is begun once, and can be followed from anywhere."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from lib.harness import background, paths

SLOW = "import time\nfor i in range(100):\n    print('line', i, flush=True)\n    time.sleep(0.1)"


def quick(name, text="print('one'); print('two')"):
    return background.launch(name, [sys.executable, "-c", text])


def test_its_lines_are_shown_until_it_ends(sandbox):
    seen = []
    assert background.follow(quick("a"), show=seen.append, every=0.05)
    assert seen == ["one", "two"] and background.lines("a") == seen and not background.under_way("a")
    again = []
    assert background.follow("a", show=again.append) and again == seen  # after it has ended too
    assert background.table()[["name", "is", "last line"]].values.tolist() == [["a", "ended", "two"]]


def test_one_that_is_under_way_is_not_begun_again_and_can_be_stopped(sandbox):
    name = quick("b", SLOW)
    first = background.state(name)["process"]["pid"]
    assert quick("b", SLOW) == name and background.state(name)["process"]["pid"] == first
    seen = []
    assert not background.follow(name, seconds=0.6, show=seen.append, every=0.1)  # still under way
    assert seen[0] == "line 0" and background.table()["is"].tolist() == ["under way"]
    background.stop(name)
    assert not background.under_way(name) and background.follow(name, show=seen.append)
    assert quick("b") == name and background.follow(name, show=seen.append)  # and begun anew
    assert seen[-1] == "two"


def test_it_outlives_the_process_that_began_it(sandbox):
    """As when the kernel or the tab is gone: another process reads on."""
    code = textwrap.dedent(
        """
        import pathlib, sys
        from lib.harness import background, paths
        paths.CACHE = pathlib.Path(sys.argv[1])
        background.launch("c", [sys.executable, "-c", sys.argv[2]])
        """
    )
    leave = paths.CACHE / "leave"  # it waits for this file, however long the other process takes to end
    text = f"import os, time\nwhile not os.path.exists({str(leave)!r}): time.sleep(0.05)\nprint('after all')"
    subprocess.run([sys.executable, "-c", code, str(paths.CACHE), text], check=True, cwd=paths.ROOT, env=os.environ)
    assert background.under_way("c") and background.lines("c") == []
    leave.touch()
    began = time.monotonic()
    assert background.follow("c", show=lambda line: None, every=0.1) and time.monotonic() - began < 30
    assert background.lines("c") == ["after all"]


def test_bad_input_is_told_before_anything_starts(sandbox):
    with pytest.raises(KeyError, match="begun in the background as 'nothing'; there is none"):
        background.follow("nothing")
    with pytest.raises(ValueError, match="PRESET takes one of"):
        background.begin("sea", "smal")
    with pytest.raises(KeyError, match="BETTA"):
        background.begin("sea", "smoke", BETTA=0.1)
    assert background.table().empty


def test_begin_runs_the_command_line(sandbox, monkeypatch):
    asked = {}
    monkeypatch.setattr(background, "launch", lambda name, command: asked.update({name: command}) or name)
    name = background.begin("sea", "smoke", 3, BETA=0.2)
    assert name == "sea-smoke-s3-beta=0.2"
    assert asked[name][1:] == ["-m", "lib.harness.cli", "run", "sea", "--preset", "smoke", "--seed", "3",
        "--set", "BETA=0.2"]  # fmt: skip
