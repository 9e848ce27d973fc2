"""Colours and the form of figures."""

import re

import matplotlib.pyplot as plt

from lib.harness import style
from lib.harness.claims.verdicts import NOT_RUN, SMOKE, VERDICTS


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast of two colours."""

    def light(c):
        parts = [int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    one, other = sorted((light(a), light(b)))
    return (other + 0.05) / (one + 0.05)


def test_ink_is_read_on_white_and_on_dark():
    assert contrast("#000000", "#ffffff") == 21
    assert min(contrast(style.INK, ground) for ground in ("#ffffff", "#0d1117")) > 4
    marks = [look[0] for look in style.VERDICTS.values()] + [style.METHOD]
    assert min(contrast(c, ground) for c in marks for ground in ("#ffffff", "#0d1117")) > 3


def test_the_method_stands_out_and_what_nobody_names_is_grey():
    assert {style.colour(m) for m in style.METHODS.values()} == {style.METHOD}
    assert style.colour("qdpo-r2") == style.colour("soft-qdpo") == style.colour("mrpo-vaw") == style.VARIANT
    assert style.colour("replay-all, early") == style.colour("ours, lambda 4") == style.VARIANT
    assert style.colour("awq") == style.colour("nobody knows it") == style.FAINT
    rivals = [("qdpo", "kd", "tskd", "sft"), ("mrpo", "dpo", "multi-dpo", "single"),
        ("sea-logit", "passive", "passive-matched", "random-sea", "offline"), ("replay-all", "phased", "stacked"),
        ("ours", "rl", "filtering", "nado-sft")]  # fmt: skip
    assert all(len({style.colour(a) for a in arms}) == len(arms) for arms in rivals)


def test_every_verdict_has_a_look_of_its_own_without_colour():
    assert style.VERDICTS.keys() == {*VERDICTS, SMOKE} - {NOT_RUN}
    shapes = [style.VERDICTS[v][1:] for v in VERDICTS if v != NOT_RUN]
    assert len(set(shapes)) == len(shapes)


@style.drawn
def line():
    figure, axes = style.axes()
    axes.plot([0, 1], [0, 1], color=style.METHOD)
    axes.set(xlabel="x", title="a title")
    return figure


def test_a_figure_has_no_background_and_the_same_bytes_twice(tmp_path):
    one, other = (style.save(line(), tmp_path / f"{k}.svg").read_text() for k in "ab")
    assert one == other and "#ffffff" not in one.lower() and not re.search(r"fill: white", one)
    assert style.INK in one and not plt.get_fignums()
