"""Settings of every paper under names and values that nobody thought of."""

from hypothesis import assume, given
from hypothesis import strategies as st

from lib.harness import cli, presets
from lib.harness.presets.base import split
from tests.fuzzing import inputs, sentence

PAPERS = presets.names()
NAMES = sorted({name.upper() for paper in PAPERS for name in presets.settings(paper)})
WORDS = sorted({
    word
    for paper in PAPERS
    for setting in presets.settings(paper).values()
    for value in (setting.smoke, setting.small, setting.study, setting.paper, *(setting.allowed or ()))
    if isinstance(value, str)
    for word in [value, *split(value)]
})  # fmt: skip

words = st.one_of(
    st.sampled_from(WORDS),
    st.lists(st.sampled_from(WORDS), max_size=4).map(",".join),
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", ",", "none", "None", "nan", "1e400", "0x10", "a:b:c", "x@y", "cuda:99", "\ud800", "a\nb"]
    ),
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.integers(), st.floats(), words,
    st.lists(st.integers(), max_size=2), st.complex_numbers(max_magnitude=3), st.binary(max_size=3),
)  # fmt: skip
names = st.one_of(
    st.sampled_from(NAMES), st.sampled_from(NAMES).map(lambda n: n[:-1]), st.sampled_from(NAMES).map(str.lower),
    st.sampled_from(["PRESET", "SEED", "preset", "SEEDS", "B", "X1"]), st.text(max_size=4),
)  # fmt: skip


seldom = st.sampled_from([False] * 9 + [True])


def plausible(setting):
    """Values of the setting's own type, some of them its allowed ones."""
    its = [
        v
        for v in (setting.smoke, setting.small, setting.study, setting.paper, *(setting.allowed or ()))
        if v is not None
    ]
    own = {bool: st.booleans(), int: st.integers(-1, 20), float: st.floats(-1, 2), str: words}[setting.kind]
    several = st.lists(st.sampled_from(list(map(str, its))), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.sampled_from(its), st.sampled_from(its), several if setting.many else own)


@st.composite
def given_settings(draw):
    """(paper, namespace): mostly the paper's own names with values of their type, so that some of it resolves."""
    paper = draw(st.sampled_from(PAPERS))
    known = presets.settings(paper)
    own = draw(st.lists(st.sampled_from(sorted(known)), max_size=4, unique=True))
    namespace = {name.upper(): draw(values if draw(seldom) else plausible(known[name])) for name in own}
    if draw(seldom):
        namespace |= draw(st.dictionaries(names, values, max_size=2))
    namespace.setdefault("PRESET", draw(values if draw(seldom) else st.sampled_from(presets.PRESETS)))
    namespace.setdefault("SEED", draw(values if draw(seldom) else st.integers(0, 300)))
    return paper, namespace


@inputs(0.2)
@given(given_settings())
def test_settings_are_taken_as_given_or_refused_in_one_sentence(case):
    paper, namespace = case
    try:
        cfg = presets.resolve(paper, namespace)
    except (ValueError, KeyError, TypeError, OSError) as error:
        assert sentence(error)
        return
    assert (cfg.preset, cfg.seed) == (namespace["PRESET"], namespace["SEED"])
    known = presets.settings(paper)
    for name, value in namespace.items():
        if name in ("PRESET", "SEED") or value is None or not name.isupper() or name.lower() not in known:
            continue
        got = cfg[name.lower()]
        assert name.lower() in cfg.overrides
        assert got == value or (known[name.lower()].many and got.endswith(value)), (
            f"{name}={value!r} was read as {got!r}"
        )
        assert type(got) is known[name.lower()].kind
    assert set(cfg.overrides) <= {name.lower() for name in namespace}
    cfg.fingerprint()  # also what is given can be written down
    presets.table(cfg)


@inputs(0.05)
@given(
    st.sampled_from(PAPERS),
    st.lists(st.one_of(st.text(max_size=20), st.tuples(names, words).map("=".join)), max_size=3),
)
def test_assignments_of_the_command_line(paper, texts):
    assume(all("\0" not in t for t in texts))
    try:
        given = cli.overrides(paper, map(cli.assignment, texts))
    except (ValueError, KeyError, TypeError, OSError) as error:
        assert sentence(error)
        return
    assert len(given) == len(texts)
