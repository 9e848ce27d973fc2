import gzip
import json
import os

import pytest

from lib.harness import cache, paths

KEY = {"weights": "ab12", "prompts": ["a", "é"], "max_new_tokens": 8}


@pytest.fixture(autouse=True)
def _sandbox(sandbox):
    return sandbox


class Counter:
    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


def test_computes_once_and_gives_equal_values():
    compute = Counter({"texts": ["x", "é"], "scores": (1, 2.5), 3: None})
    first = cache.cached("generation", KEY, compute)
    second = cache.cached("generation", dict(reversed(KEY.items())), compute)
    assert compute.calls == 1
    assert first == second == {"texts": ["x", "é"], "scores": [1, 2.5], "3": None}  # a miss is what a later hit will be


@pytest.mark.parametrize("change", [{"weights": "ab13"}, {"prompts": ["a"]}, {"max_new_tokens": 8.5}, {"extra": None}])
def test_any_change_of_the_key_computes_anew(change):
    cache.cached("generation", KEY, lambda: [1])
    assert cache.cached("generation", KEY | change, lambda: [2]) == [2]
    assert cache.cached("scoring", KEY, lambda: [3]) == [3]
    assert cache.cached("generation", KEY, lambda: [4]) == [1]


def test_file_lies_where_its_name_says_and_is_plain_json():
    cache.cached("generation", KEY, lambda: [1])
    target = cache.location("generation", KEY)
    assert (
        target == paths.CACHE / "generation" / f"{cache.fingerprint(KEY)}.json.gz" and len(cache.fingerprint(KEY)) == 16
    )
    assert json.loads(gzip.decompress(target.read_bytes())) == {"key": KEY, "value": [1]}
    assert [p.name for p in target.parent.iterdir()] == [target.name]  # no temporary files left


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"{half"), gzip.compress(b"[1]"), gzip.compress(b'{"value": [9]}'), None],
    ids=["empty", "no gzip", "half", "a list", "no key", "gone"],  # its bytes hold the time: no name for a test
)
def test_damaged_file_is_computed_again(content):
    cache.cached("generation", KEY, lambda: list(range(1000)))
    target = cache.location("generation", KEY)
    target.write_bytes(target.read_bytes()[:-20] if content is None else content)
    assert cache.cached("generation", KEY, lambda: [2]) == [2]
    assert cache.cached("generation", KEY, lambda: [3]) == [2]


def test_another_key_under_the_same_name_is_not_taken():
    target = cache.location("generation", KEY)
    target.parent.mkdir(parents=True)
    target.write_bytes(gzip.compress(json.dumps({"key": {"other": 1}, "value": [1]}).encode()))
    assert cache.cached("generation", KEY, lambda: [2]) == [2]


def test_failed_write_leaves_the_old_value_and_no_rubbish(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        cache.cached("generation", KEY, lambda: [1])
    assert list(cache.location("generation", KEY).parent.iterdir()) == []


def test_no_cache_neither_reads_nor_writes(monkeypatch):
    cache.cached("generation", KEY, lambda: [1])
    monkeypatch.setenv("PLUMBLINE_NO_CACHE", "1")
    assert cache.cached("generation", KEY, lambda: (2,)) == [2]
    monkeypatch.delenv("PLUMBLINE_NO_CACHE")
    assert cache.cached("generation", KEY, lambda: [3]) == [1]


def test_what_is_not_json_is_refused_before_the_slow_part():
    compute = Counter([1])
    with pytest.raises(TypeError, match="cache key must be plain JSON"):
        cache.cached("generation", {"model": object()}, compute)
    with pytest.raises(ValueError, match="'../x'"):
        cache.cached("../x", KEY, compute)
    with pytest.raises(TypeError, match="given list"):
        cache.cached("generation", [1], compute)
    assert compute.calls == 0
    with pytest.raises(TypeError, match="value computed for cache kind 'generation'"):
        cache.cached("generation", KEY, lambda: {1, 2})


def test_unwritable_cache_stops_before_the_slow_part(sandbox):
    (sandbox / "cache").write_text("a file where a folder should be")
    compute = Counter([1])
    with pytest.raises(PermissionError, match="PLUMBLINE_CACHE"):
        cache.cached("generation", KEY, compute)
    assert compute.calls == 0
