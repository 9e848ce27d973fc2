"""Rows of instruction data out of any taxonomy that reads: `plumbline generate`, without a student or an exam."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib import synthesis
from lib.harness import paths, presets
from lib.harness.progress import announce
from lib.studies.lab import provenance
from lib.synthesis import judges, teachers
from lib.synthesis.blocks import FATES
from lib.synthesis.judges import Judge
from lib.synthesis.pipelines import Amounts
from lib.synthesis.servers import Patience
from lib.synthesis.teachers import Teacher
from lib.taxonomy import tree
from lib.taxonomy.tree import Leaf

ROUNDS = 64  # passes over the tree, each of a call a leaf
DRY = 3  # of them in a row without a new row, after which the teacher has no more to say


class Collected(NamedTuple):
    """Exactly the rows asked for, or all there were; what was dropped; passes over the tree; and why it ended early,
    empty if it did not."""

    rows: list[dict]
    dropped: list[dict]
    passes: int
    short: str


def collect(
    leaves: Sequence[Leaf],
    teacher: Teacher,
    told: Mapping[str, Judge],
    amounts: Amounts,
    *,
    rows: int,
    seed: int,
    journal: Path | None,
    batch: int = 1,
    system: str = "",
) -> Collected:
    """Pass after pass over the tree until `rows` are accepted; of those one leaf after the other gives one, so that few
    rows still cover the tree.

    A pass has prompts of its own and knows the rows of all before it. Repeated with the same journal it asks nothing
    again. ValueError for fewer than one row.
    """
    if rows < 1:
        raise ValueError(f"at least one row is wanted, given {rows}")
    kept, dropped, seen, dry, k = [], [], synthesis.seeded(leaves), 0, 0
    while len(kept) < rows and dry < DRY and k < ROUNDS:
        how: dict[str, Any] = dict(seed=seed * 1009 + k, journal=journal, batch=batch, seen=seen)
        made = synthesis.synthesise(leaves, teacher, told, amounts, **how)
        new, lost = provenance.told(made, system=system, teacher=teacher, judges=told)
        kept += [row | {"id": f"{k}/{row['id']}"} for row in new]
        dropped += [row | {"id": f"{k}/{row['id']}"} for row in lost]
        dry, k = (0 if new else dry + 1), k + 1
        announce(f"{min(len(kept), rows)} of {rows} rows after {k} passes over {len(leaves)} leaves")
    short = ""
    if len(kept) < rows:
        why = f"the last {dry} passes gave no new row" if dry == DRY else f"{ROUNDS} passes over the tree were made"
        reasons = Counter(row["reason"].partition(" like ")[0] for row in dropped).most_common(3)
        most = "; ".join(f"{n} times {reason}" for reason, n in reasons) or "nothing was dropped"
        short = f"{len(kept)} of {rows} rows were accepted: {why}. Dropped most: {most}"
    return Collected(_in_turn(kept)[:rows], dropped, k, short)


def _in_turn(rows: Sequence[dict]) -> list[dict]:
    """One row of each leaf, then the second of each, and so on."""
    place = Counter()
    ranked = []
    for row in rows:
        ranked.append((place[row["leaf"]], row))
        place[row["leaf"]] += 1
    return [row for _, row in sorted(ranked, key=lambda x: x[0])]


def report(leaves: Sequence[Leaf], got: Collected) -> list[dict]:
    """A row a leaf: accepted, and the fates of what was dropped, with what most were dropped for."""
    rows, lost = Counter(r["leaf"] for r in got.rows), defaultdict(list)
    for row in got.dropped:
        lost[row["leaf"]].append(row)
    out = []
    for leaf in leaves:
        mine = lost[leaf.path]
        reasons = Counter(r["reason"].partition(" like ")[0] for r in mine).most_common(1)
        fates = {fate: sum(r["fate"] == fate for r in mine) for fate in FATES if fate != "out"}
        most = reasons[0][0] if reasons else ""
        out.append({"leaf": leaf.path, "rows": rows[leaf.path], **fates, "most for": most})
    return out


def generate(
    taxonomy: Path, to: Path, *, rows: int, teacher: str, seed: int = 0, at_once: int = 16
) -> tuple[str, bool]:
    """Write rows.jsonl (messages with where each comes from), dropped.jsonl and report.jsonl into the new folder `to`;
    (a few lines that say so, whether all rows wanted are there).

    ValueError for a folder that is there already, a taxonomy that does not read, a teacher that is none, or no row;
    ConnectionError where a served one keeps failing. What it has said is kept, so that a run which was stopped asks for
    the rest alone.
    """
    if to.exists():
        raise ValueError(f"{to} exists already: name a new folder")
    paths.check_writable(to.absolute().parent)
    leaves = tree.load(taxonomy)
    served, cfg = teacher != "templated", presets.resolve("lab", {"PRESET": "small", "SEED": seed})
    keep = paths.CACHE / "answers.sqlite" if served else None
    writer = teachers.load(teacher, leaves, seed=seed, patience=Patience(at_once=at_once), keep=keep)
    amounts = Amounts(1, cfg.size, cfg.questions, cfg.contexts, cfg.chunk, cfg.pairs)
    told = judges.teacher_judges(writer)
    journal = paths.CACHE / "synthesis" if served else None
    how: dict[str, Any] = dict(rows=rows, seed=seed, journal=journal, batch=at_once if served else 1, system=cfg.system)
    try:
        got = collect(leaves, writer, told, amounts, **how)
    except RuntimeError as error:  # the teacher, again and again: what it said before is kept
        raise ConnectionError(str(error)) from error
    if not got.rows:
        raise ValueError(got.short)
    table = report(leaves, got)
    part = to.with_name(f".{to.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:  # the folder appears whole or not at all
        for name, lines in (("rows", got.rows), ("dropped", got.dropped), ("report", table)):
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (part / f"{name}.jsonl").write_text(text, encoding="utf-8")
        part.replace(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    wide = max(len(line["leaf"]) for line in table)
    said = [
        f"{line['leaf']:{wide}} {line['rows']:5} rows, " + ", ".join(f"{line[f]} {f}" for f in FATES if f in line)
        for line in table
    ]
    spent = [f"{writer.name}: {writer.spent}"] if isinstance(writer, teachers.Chat) else []
    return "\n".join([*said, *spent, got.short or f"{len(got.rows)} rows in {to}"]), not got.short
