"""Which process makes a run, and whether it still lives."""

import os
import subprocess
import sys

from lib.harness import machine


def test_a_process_is_told_from_all_others():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    of = machine.process(child.pid)
    assert machine.alive(machine.process()) and machine.alive(of) and of["pid"] == child.pid
    assert machine.alive(of | {"began": of["began"] - 100}) is False, "another process had the number before"
    assert machine.alive(of | {"host": "elsewhere"}) is None and machine.alive(None) is None
    assert machine.alive({"host": of["host"]}) is None
    machine.stop(of | {"began": 0.0})
    assert machine.alive(of), "not the one that is meant"
    machine.stop(of)
    assert machine.alive(of) is False
    child.wait()
    machine.stop(of)


def test_a_stopped_process_is_gone_when_stop_returns():
    """A signal returns at once; giving much memory back takes the system a while."""
    code = "import time; x = bytearray(10**9); x[::4096] = b'1' * len(x[::4096]); print('full', flush=True)"
    code += "; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"full"
    of = machine.process(child.pid)
    machine.stop(of)
    assert machine.alive(of) is False
    child.communicate()


def test_what_is_recorded_of_a_machine():
    assert machine.description()["cores"] == os.cpu_count() and machine.description()["processor"]
    assert machine.versions()["numpy"] != "not installed" and "python" in machine.versions()
    assert machine.threads() >= 0


def test_timings_are_of_a_kind_of_machine():
    cpu = {"device": "cpu", "machine": {"processor": "Some Processor, 8 GHz, avx512_bf16"}}
    assert machine.kind(cpu) == "avx512_bf16" and machine.kind(cpu | {"device": "cuda"}) == "cuda"
    assert machine.kind({}) == "unknown"
