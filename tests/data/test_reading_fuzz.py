"""Files of prompts, pairs, rows and dialogues as people really bring them: cut, mixed, mistyped, in other encodings."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lib import data
from lib.data import reading
from tests.data.known_sets import SETS
from tests.fuzzing import inputs, sentence

ROWS = [row for rows, _ in SETS.values() for row in rows if isinstance(row, dict)]
FIELDS = sorted({str(field) for row in ROWS for field in row} | {"label", "info", "choice", "id", "split", "category"})

text = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", " ", "\n\nHuman: a\n\nAssistant: b", "\ufeff", "\u2028", "a,b", '"', "test"]),
)
role = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", ""])
message = st.one_of(
    st.fixed_dictionaries({"role": role, "content": text}), st.fixed_dictionaries({"from": role, "value": text})
)
value = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text, message),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=2)),
    max_leaves=4,
)


@st.composite
def row(draw):
    """A row of a known data set with a field or two changed, or any object, or no object."""
    if draw(st.integers(0, 9)) == 0:
        return draw(value)
    if draw(st.integers(0, 4)) == 0:
        return draw(st.dictionaries(st.sampled_from(FIELDS), value, max_size=4))
    one = dict(draw(st.sampled_from(ROWS)))
    for field in draw(st.lists(st.sampled_from([*one, *FIELDS[:6]]), max_size=2)):
        if draw(st.booleans()):
            one[field] = draw(value)
        else:
            one.pop(field, None)
    return one


@st.composite
def file(draw):
    """(ending, bytes): well-formed files of such rows, some of them damaged afterwards."""
    rows = draw(st.lists(row(), max_size=5))
    ending = draw(st.sampled_from([".jsonl", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"]))
    if ending in (".csv", ".tsv"):
        out = io.StringIO()
        fields = [str(f) for r in rows if isinstance(r, dict) for f in r][:6] or ["prompt"]
        writer = csv.writer(out, delimiter="\t" if ending == ".tsv" else ",")
        try:
            writer.writerow(fields)
            writer.writerows([[r.get(f) for f in fields] for r in rows if isinstance(r, dict)])
        except (csv.Error, UnicodeError):
            pass
        content = out.getvalue()
    else:
        lines = [json.dumps(r, ensure_ascii=draw(st.booleans())) for r in rows]
        content = {
            "lines": "\n".join(lines),
            "array": f"[{','.join(lines)}]",
            "object": f'{{"data": [{", ".join(lines)}]}}',
            "deep": "[" * 3000 + "]" * 3000,
        }[draw(st.sampled_from(["lines"] * 4 + ["array", "array", "object", "deep"]))]
    raw = content.encode(draw(st.sampled_from(["utf-8"] * 5 + ["utf-16", "utf-8-sig"])), "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(raw)))
        how = draw(st.sampled_from(["cut", "put in", "leave out"]))
        raw = (
            raw[:at]
            + {"cut": b"", "put in": draw(st.binary(min_size=1, max_size=3)) + raw[at:], "leave out": raw[at + 1 :]}[
                how
            ]
        )
    if draw(st.integers(0, 9)) == 0:
        raw, ending = gzip.compress(raw, mtime=0), ending + ".gz"
        raw = raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw
    return ending, raw


named = st.tuples(st.sampled_from(FIELDS), st.sampled_from([*FIELDS, "a.b"])).map("=".join)
columns = st.one_of(st.just("none"), st.just("none"), st.lists(named, max_size=2).map(",".join), text)


@inputs(0.25)
@given(file(), st.sampled_from(sorted(reading.KINDS)), columns, st.sampled_from([0.0, 0.1, 1.0]))
def test_a_file_is_read_or_refused_in_one_sentence(made, kind, named, limit):
    ending, raw = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rows{ending}")
        path.write_bytes(raw)
        try:
            got = data.read(path, kind, columns=named, limit=limit)
        except (ValueError, KeyError, TypeError, OSError) as error:
            assert sentence(error)
            return
        assert got.rows and all(str(reason).strip() for _, reason in got.dropped)
        assert len(got.listing()) == len(got.dropped) and "\n" not in got.summary()
        json.dumps(got.record())
        if kind == "prompts":  # nothing of a row is lost in silence: it was read, or dropped by name
            assert len(got.rows) + len(got.dropped) == len(data_rows(path))
            for prompt in got.rows:
                assert prompt.text.strip() and prompt.split in ("train", "validation", "test")
                prompt.text.encode()


def data_rows(path):
    from lib.data.sources import find

    found = find(path)
    return [*found.rows, *found.bad]
