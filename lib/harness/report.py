"""results/ as one static page that needs no network: what README.md and results/README.md say, figures inside, tables
that sort, light and dark, with the executed notebooks as pages beside it."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat

from lib.harness import claims, front, paths, results, style

CSS = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--ground:#fff;--tint:#f6f8fa;--link:#0969da;
--k:#a5342b;--s:#0a6640;--c:#59636e;--n:#0550ae}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--line:#3d444d;--ground:#0d1117;--tint:#161b22;
--link:#4493f8;--k:#ff8a80;--s:#7fd6a8;--c:#9198a1;--n:#8ab8ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1040px;padding:16px;color:var(--ink);background:var(--ground);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
a{color:var(--link)}h2{border-top:1px solid var(--line);padding-top:24px;margin-top:40px}
summary{cursor:pointer;padding:4px 0;color:var(--link)}details{margin:4px 0}
.wide{overflow-x:auto;margin:12px 0}.wide img{display:block;max-width:100%;min-width:min(600px,170vw)}
table{min-width:min(620px,160vw);border-collapse:collapse;font-size:14px;overflow-wrap:normal}
th,td{border-bottom:1px solid var(--line);padding:5px 10px 5px 0;text-align:left;vertical-align:top}
th{white-space:nowrap}button.sort{all:unset;cursor:pointer;font-weight:600}button.sort:focus-visible{outline:2px solid}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
pre,code{font:13px/1.45 ui-monospace,monospace}code{background:var(--tint);padding:1px 4px;border-radius:4px}
pre{background:var(--tint);padding:10px;overflow-x:auto;border-radius:6px;overflow-wrap:normal}
pre code{background:none;padding:0}.math{vertical-align:middle;max-width:100%}
.jp-InputPrompt,.jp-OutputPrompt,.anchor-link,.prompt{display:none}.output img{max-width:100%}
.k,.kn,.kc,.ow,.o{color:var(--k)}.s1,.s2,.sd,.si,.sa,.mi,.mf{color:var(--s)}.c1{color:var(--c)}.nf,.nb,.nn{color:var(--n)}
"""
JS = """
const value=c=>{const t=c.textContent.trim(),n=parseFloat(t.replace('\\u2212','-'));return isNaN(n)?t:n};
for(const table of document.querySelectorAll('table'))table.querySelectorAll('thead th').forEach((th,k)=>{
 if(!th.textContent.trim())return;
 const b=document.createElement('button');b.className='sort';b.textContent=th.textContent;th.replaceChildren(b);
 b.onclick=()=>{const up=th.getAttribute('aria-sort')!=='ascending',body=table.tBodies[0];
  table.querySelectorAll('th').forEach(o=>o.removeAttribute('aria-sort'));
  th.setAttribute('aria-sort',up?'ascending':'descending');
  [...body.rows].sort((r,s)=>{const a=value(r.cells[k]),b=value(s.cells[k]),d=typeof a===typeof b?
   (typeof a==='number'?a-b:a.localeCompare(b)):(typeof a==='number'?-1:1);return up?d:-d})
  .forEach(r=>body.append(r))}});
const open=()=>{const t=document.getElementById(decodeURIComponent(location.hash.slice(1)));
 for(let e=t;e;e=e.parentElement)if(e.tagName==='DETAILS')e.open=true};addEventListener('hashchange',open);open();
"""
KNOWN = {r"\\big(?![a-z])": "", r"\\[lr]vert\b": "|", r"\\([gl])e\b": r"\\\1eq"}  # TeX that the drawer writes otherwise
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # no request at all


def write(folder: Path | None = None) -> list[Path]:
    """Write index.html and a page a notebook into `folder` (results/report if not given); returns their paths, the
    index first."""
    folder = (paths.RESULTS / "report" if folder is None else Path(folder)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    books = sorted((paths.RESULTS / "notebooks").glob("*.ipynb"))
    out = [folder / "index.html", *(folder / f"{b.stem}.html" for b in books)]
    out[0].write_text(page("Plumbline", _index(folder)), encoding="utf-8")
    for book, path in zip(books, out[1:]):
        path.write_text(page(f"{book.stem}, as it was executed", notebook(book)), encoding="utf-8")
    return out


def page(title: str, body: str) -> str:
    """A whole page from its body."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">\n'
        f"<style>{CSS}</style></head>\n<body>\n{body}\n<script>{JS}</script></body></html>\n"
    )


def _index(folder: Path) -> str:
    table = claims.evaluate(results.load_runs())
    said = (paths.RESULTS / "README.md").read_text(encoding="utf-8")
    said = re.sub(r"<!--.*?-->", "", said.partition("\n")[2])
    found = front.markdown(table).replace("results/README.md#", "#").replace("](notebooks/", "](results/notebooks/")
    first = (
        "# Plumbline\n\nFive papers on aligning language models, rerun: a number, an interval and a verdict a claim.\n"
    )
    return body(f"{first}\n{found}\n\n{said}", paths.RESULTS, folder)


def body(text: str, home: Path, folder: Path) -> str:
    """Markdown as HTML: figures that lie under `home` inside it, links to notebooks to the pages beside it, and others
    from `folder` to where they lie."""
    from nbconvert.filters.markdown import markdown2html

    out = markdown2html(text)
    out = re.sub(r'<a class="anchor-link".*?</a>', "", out)
    out = re.sub(r"<h([1-6])[^>]*>(.*?)</h\1>", _heading, out, flags=re.S)
    out = re.sub(r'<img ([^>]*?)src="([^":]+)"([^>]*?)/?>', lambda m: _picture(m, home), out)
    out = re.sub(r'href="([^"#:]+)"', lambda m: f'href="{_link(m[1], home, folder)}"', out)
    return out.replace("<table", '<div class="wide"><table').replace("</table>", "</table></div>")


def _heading(m: re.Match) -> str:
    return f'<h{m[1]} id="{front.anchor(html.unescape(re.sub(r"<.*?>", "", m[2])))}">{m[2]}</h{m[1]}>'


def _picture(m: re.Match, home: Path) -> str:
    data = base64.b64encode((home / html.unescape(m[2])).read_bytes()).decode()
    return f'<span class="wide" style="display:block"><img {m[1]}src="data:image/svg+xml;base64,{data}"{m[3]}></span>'


def _link(target: str, home: Path, folder: Path) -> str:
    path = Path(html.unescape(target))
    if path.suffix == ".ipynb":
        return f"{path.stem}.html"
    return Path(os.path.relpath(home / path, folder)).as_posix()


def notebook(path: Path) -> str:
    """An executed notebook as HTML without scripts: its formulas drawn, its figures inside."""
    from nbconvert import HTMLExporter

    book = nbformat.read(path, 4)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas(cell.source)
    exporter = HTMLExporter(template_name="basic", mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    out, _ = exporter.from_notebook_node(book)
    out = re.sub(r"<script.*?</script>|<style.*?</style>", "", out, flags=re.S)
    out = re.sub(r'<a class="anchor-link".*?</a>', "", out)
    out = re.sub(r'href="([^":#]+)\.ipynb"', r'href="\1.html"', out)
    out = out.replace("<table", '<div class="wide"><table').replace("</table>", "</table></div>")
    return f'<p><a href="index.html">All results</a></p>\n{out}'


def formulas(text: str) -> str:
    """The TeX between dollars of a Markdown text as pictures in it; what the drawer does not know stays as it is."""
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.S)  # not in code
    return "".join(p if k % 2 else re.sub(r"(\$\$?)(?=\S)(.+?)(?<=\S)\1", _formula, p, flags=re.S)
        for k, p in enumerate(parts))  # fmt: skip


def _formula(m: re.Match) -> str:
    from matplotlib.mathtext import math_to_image

    buffer, tex = io.BytesIO(), " ".join(m[2].split())
    for written, known in KNOWN.items():
        tex = re.sub(written, known, tex)
    try:
        with plt.rc_context(style.RC):
            math_to_image(f"${tex}$", buffer, format="svg", color=style.INK)
    except (ValueError, RuntimeError):
        return m[0]
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="math" alt="{html.escape(tex)}" src="data:image/svg+xml;base64,{data}">'
