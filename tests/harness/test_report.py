"""The offline page: whole, self-contained, and true to the pages it is made from."""

import re
from html.parser import HTMLParser

import nbformat
import pytest

from lib.harness import front, paths, report

VOID = {"meta", "link", "img", "br", "hr", "input", "col"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All pages, written once."""
    written = report.write(tmp_path_factory.mktemp("report") / "new")
    assert written[0].name == "index.html"
    return written[0].parent


def test_a_notebook_has_its_page_and_links_lead_to_what_there_is(folder):
    books = {p.stem for p in (paths.RESULTS / "notebooks").glob("*.ipynb")}
    assert {p.stem for p in folder.glob("*.html")} == books | {"index"}
    for page in folder.glob("*.html"):
        text = page.read_text()
        links = set(re.findall(r'href="([^"#:]+)"', text))
        assert not [x for x in links if not (folder / x).exists() and not x.startswith("[")], page.name
        assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text)), page.name


def test_no_request_leaves_a_page(folder):
    for page in folder.glob("*.html"):
        text = page.read_text()
        assert report.POLICY in text and "default-src 'none'" in text and "http" not in report.POLICY
        assert not re.findall(r'(?:src|data-src)="(?!data:)[^"]*"', text), page.name
        assert not re.findall(r"<link(?! rel=\"icon\" href=\"data:)[^>]*>|@import|url\(http", text), page.name
        assert text.count("<script") == 1, "our own and none of the notebook's"


def test_the_page_says_what_the_results_say(folder):
    text = (folder / "index.html").read_text()
    said = (paths.RESULTS / "README.md").read_text()
    assert text.count("<img") == said.count("![") and text.count("<details>") == said.count("<details>")
    for line in re.findall(r"^## (.*)$", said, re.M):
        assert f'<h2 id="{front.anchor(line)}">' in text
    claims = re.findall(r"^\| \*\*(.*?)\*\* ", said, re.M)
    assert len(claims) > 150 and all(f"<strong>{c}</strong>" in text for c in claims)


class Balance(HTMLParser):
    """Tags that are opened and not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("details", "table", "div", "body", "html") and tag in self.open:
            while self.open.pop() != tag:
                pass
        elif tag in self.open:
            self.open.reverse()
            self.open.remove(tag)
            self.open.reverse()
        elif tag not in VOID:
            self.wrong.append(tag)


def test_tags_are_closed(folder):
    balance = Balance()
    balance.feed((folder / "index.html").read_text())
    assert not [t for t in balance.open if t in ("details", "table", "div", "body")] and "details" not in balance.wrong


def test_formulas_are_drawn_where_they_can_be_and_never_in_code():
    text = report.formulas("price `$x$` and $\\alpha_k$ and\n```\n$a$\n```\n$\\nosuchcommand{x}$, 5 $ and 6 $")
    assert "`$x$`" in text and "\n$a$\n" in text and "$\\nosuchcommand{x}$" in text and "5 $ and 6 $" in text
    assert text.count('<img class="math"') == 1 and 'alt="\\alpha_k"' in text and "$\\alpha_k$" not in text


@pytest.mark.parametrize("tex, drawn", [("a \\ge \\left(b\\right)", "a \\geq \\left(b\\right)"),
    ("\\lvert x\\rvert", "| x|"), ("\\big(x\\big)", "(x)"), ("\\leq", "\\leq")])  # fmt: skip
def test_tex_that_the_drawer_writes_otherwise(tex, drawn):
    assert f'alt="{drawn}"' in report.formulas(f"${tex}$")


def test_every_formula_of_the_notebooks_is_drawn(folder):
    books = [nbformat.read(p, 4) for p in (paths.RESULTS / "notebooks").glob("*.ipynb")]
    text = "\n".join(report.formulas(c.source) for b in books for c in b.cells if c.cell_type == "markdown")
    assert text.count('class="math"') > 50 and not re.findall(r"\$\$?(?=\S)[^$\n]+?\$", text)


def test_what_a_notebook_put_out_cannot_run(tmp_path):
    out = nbformat.v4.new_output("display_data", {"text/html": "<b>x</b><script>alert(1)</script><style>p{}</style>"})
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[out])])
    nbformat.write(book, tmp_path / "a.ipynb")
    page = report.notebook(tmp_path / "a.ipynb")
    assert "<b>x</b>" in page and "alert" not in page and "<style" not in page
