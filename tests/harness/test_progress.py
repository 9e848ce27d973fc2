import io

import pytest

from lib.harness import paths, progress


@pytest.fixture
def screen(monkeypatch):
    """What is shown, with progress switched on."""
    shown = io.StringIO()
    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setattr(progress, "_screen", lambda: shown)
    return shown


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def walk(items, clock, seconds, **kwargs):
    for _ in progress.track(items, "train", **kwargs):
        clock[0] += seconds


@pytest.mark.parametrize("mode", ["disabled", "headless", "live"])
def test_items_pass_unchanged_and_lazily(mode, screen, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1" if mode == "disabled" else "0")
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1" if mode == "headless" else "")
    drawn = []

    def source():
        for i in range(5):
            drawn.append(i)
            yield i

    items = progress.track(source(), "train", total=5)
    assert next(items) == 0 and drawn == [0]
    assert list(items) == [1, 2, 3, 4]


def test_disabled_shows_nothing(screen, clock, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1")
    walk(range(5), clock, 60)
    progress.announce("hello")
    assert screen.getvalue() == ""


def test_headless_lines_every_ten_seconds_with_time_left(screen, clock, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1")
    walk(range(10), clock, 4)
    assert screen.getvalue().splitlines() == [
        "train: 3/10 in 12 s, about 28 s left",
        "train: 6/10 in 24 s, about 16 s left",
        "train: 9/10 in 36 s, about 4 s left",
        "train: 10/10 done in 40 s",
    ]


def test_headless_without_a_total_and_short_loops(screen, clock, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1")
    walk(iter(range(2)), clock, 11)
    assert screen.getvalue().splitlines() == ["train: 1 in 11 s", "train: 2 in 22 s", "train: 2 done in 22 s"]
    screen.truncate(0)
    walk(range(3), clock, 1)
    assert screen.getvalue() == ""


def test_live_bar_shows_name_and_count(screen):
    assert list(progress.track(range(7), "train")) == list(range(7))
    assert "train: 100%" in screen.getvalue() and "7/7" in screen.getvalue()


def test_leaving_early_closes_the_bar(screen):
    for _ in progress.track(range(7), "train"):
        break
    assert screen.getvalue().endswith("\n")


def test_headless_goes_to_stderr(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setenv("PLUMBLINE_HEADLESS", "1")
    progress.announce("quantizing")
    captured = capsys.readouterr()
    assert captured.err == "quantizing\n" and captured.out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (8.4, "8 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3840, "1 h 04 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_peak_memory_is_the_process_own_and_not_its_parents():
    import subprocess
    import sys

    import numpy as np

    held = np.ones(60_000_000)  # half a gigabyte here, which a child must not report as its own
    child = subprocess.run(
        [sys.executable, "-c", "from lib.harness.progress import peak_memory; print(peak_memory())"],
        capture_output=True,
        text=True,
        check=True,
        cwd=paths.ROOT,
    )
    mine = progress.peak_memory()
    assert mine > held.nbytes / 2**30 and 0 < float(child.stdout) < mine - 0.2
