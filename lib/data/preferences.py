"""People's preferences: (prompt, chosen, rejected) texts out of files and data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def load_pairs(source: Path | str) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) texts of a file or of a data set, "folder or hub id:split".

    Rows hold prompt, chosen and rejected (texts, or messages whose last is meant), or two scored answers (BIG-bench's
    task.json), or one answer and its helpfulness (HelpSteer: of each prompt the most and the least helpful one, unless
    they tie).
    FileNotFoundError, or ValueError naming the row that is none of these.
    """
    name, colon, part = str(source).rpartition(":")
    if colon:
        from datasets import load_dataset

        rows = list(load_dataset(name, split=part))
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"no file of preference pairs at {path}; give JSON lines with prompt, chosen and rejected, a "
                "BIG-bench task.json, or a data set's id and split as id:split"
            )
        text, name = path.read_text(encoding="utf-8"), path.name
        rows = (
            json.loads(text)["examples"]
            if path.suffix == ".json"
            else [json.loads(line) for line in text.splitlines() if line.strip()]
        )
    if rows and "helpfulness" in rows[0]:
        return _by_helpfulness(rows)
    out = []
    for n, row in enumerate(rows, 1):
        if scores := row.get("target_scores"):
            ranked = sorted(scores, key=scores.get, reverse=True)
            row = (
                {"prompt": row["input"], "chosen": ranked[0], "rejected": ranked[-1]}
                if len(set(scores.values())) == len(scores) == 2
                else {}
            )
        row = {
            k: v[-1]["content"] if isinstance(v, list) and v and k in ("chosen", "rejected") else v
            for k, v in row.items()
        }
        if (
            not all(isinstance(row.get(k), str) and row[k].strip() for k in ("prompt", "chosen", "rejected"))
            or row["chosen"] == row["rejected"]
        ):
            raise ValueError(
                f"{name} row {n} needs a prompt and two different answers, chosen and rejected; it has "
                f"{sorted(row) or 'other scores'}"
            )
        out.append((row["prompt"], row["chosen"], row["rejected"]))
    return out


def load_sets(sources: Sequence[str], folder: Path) -> dict[str, list[tuple[str, str, str]]]:
    """`load_pairs` of each source but "none", files as seen from `folder`."""
    return {s: load_pairs(s if ":" in s else folder / s) for s in sources if s != "none"}


def _by_helpfulness(rows: Sequence[dict]) -> list[tuple[str, str, str]]:
    answers: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        answers.setdefault(row["prompt"], []).append((row["helpfulness"], row["response"]))
    ends = {p: (max(a, key=lambda x: x[0]), min(a, key=lambda x: x[0])) for p, a in answers.items()}
    return [(p, best, worst) for p, ((high, best), (low, worst)) in ends.items() if high > low]
