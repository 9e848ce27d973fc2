"""General prose out of docstrings."""

from lib.synthesis import prose


def test_docstrings_are_cut_into_prose():
    source = '''
"""A sentence that stands
over two lines.

Parameters
----------
x : int
    What x means. It is a number.
y : array, shape = (n,)
    See `x`.

Notes
-----
A note under its heading.

>>> 1 + 1
2
"""
def f():
    """Calls fit(x) or np.mean here."""
'''
    assert list(prose._prose(source)) == [
        "A sentence that stands over two lines.",
        "What x means. It is a number.",
        "A note under its heading.",
    ]
