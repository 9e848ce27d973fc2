"""The machinery of tests/mutation.py: a known mistake is caught, an equivalent change survives, a module is changed
only in its fork."""

import ast
import subprocess
import sys

from lib.harness.paths import ROOT
from tests import mutation

TEXT = '''
def f(x: int, y):
    """Doc: 1 + 1."""
    if x < 1 or not y:
        raise ValueError(f"{x + 1}")
    return min(x, 2) * -y.detach()
'''


def test_mutants_are_named_and_messages_are_left_alone():
    found = {m.change for m in mutation.mutants("m.py", TEXT)}
    assert found == {
        "x < 1 or not y -> x < 1 and (not y)", "x < 1 -> x <= 1", "x < 1 -> x >= 1", "1 -> 2", "not y -> y",
        "min(x, 2) * -y.detach() -> min(x, 2) / -y.detach()", "min -> max", "2 -> 3", "-y.detach() -> y.detach()",
        "y.detach() -> y",
    }  # fmt: skip
    for m in mutation.mutants("m.py", TEXT):
        assert ast.unparse(mutation.mutated(m, TEXT)) != ast.unparse(ast.parse(TEXT))


def test_a_mistake_is_caught_and_an_equivalent_change_survives():
    """In a process of its own, which forks: a sign of DPO's loss, and a clone of what nobody writes into."""
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests import mutation as m\n"
        "m.TESTS = {'lib/losses/dpo.py': ['tests/losses/test_losses.py']}\n"
        "path = 'lib/losses/dpo.py'; text = (m.ROOT / path).read_text()\n"
        "cover = m.covering(path)\n"
        "wrong = next(x for x in m.mutants(path, text) if x.change == 'pi_w - ref_w -> pi_w + ref_w')\n"
        "print(m.judge(wrong, cover)['caught'].partition('::')[0])\n"
        "m.mutated = lambda mutant, text: m.ast.parse(text)\n"
        "print(m.judge(wrong, cover)['caught'] or 'survived')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tests/losses/test_losses.py", "survived"]


def test_the_pages_equivalents_are_mutants_that_there_are():
    known = mutation.explained(mutation.PAGE.read_text())
    assert known
    for module, where, change in known:
        there = {(m.where, m.change) for m in mutation.mutants(module, (ROOT / module).read_text())}
        assert (where, change) in there, f"{module} {where}: {change} is no mutant any more"
