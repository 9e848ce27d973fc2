"""The `plumbline` command."""

from __future__ import annotations

import ast
import importlib
import itertools
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from lib.harness import (
    claims,
    drift,
    fits,
    health,
    index,
    notebooks,
    paths,
    presets,
    ranks,
    reproduction,
    results,
    runner,
    sweeps,
    take_home,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Five alignment papers, rerun end to end.",
)
books = typer.Typer(no_args_is_help=True, help="Clean, check and show notebooks.")
app.add_typer(books, name="notebooks")
curriculum = typer.Typer(no_args_is_help=True, help="Check a taxonomy of qna.yaml files.")
app.add_typer(curriculum, name="taxonomy")
SHOWN = 20  # problems of a taxonomy


def one_sentence(command):
    """Bad input ends in one line on stderr and exit code 2, not in a traceback."""

    @wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ValueError, KeyError, TypeError, OSError) as error:
            said = " ".join(str(error).splitlines())  # a name that was given may hold ends of lines
            typer.echo(f"plumbline: {said}", err=True)
            raise typer.Exit(runner.BAD_INPUT) from None

    return wrapped


def literal(text: str, kind: type | None = None):
    """A Python literal (1e-5, True, "x"), else the text itself; always the text where the setting is one."""
    if kind is str:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def overrides(paper: str, pairs) -> dict:
    """{NAME: value} of NAME=VALUE pairs, each read as its setting's type wants; unknown names are refused later."""
    notebooks.find(paper)
    known = presets.settings(paper)
    pairs = list(pairs)
    for name in {k.lower() for k, _ in pairs}:
        if sum(k.lower() == name for k, _ in pairs) > 1:
            raise ValueError(f"{name} is given twice")
    return {k: literal(v, known[k.lower()].kind if k.lower() in known else None) for k, v in pairs}


def assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ValueError(f"write NAME=VALUE, given {text!r}")
    return name.strip(), value.strip()


def numbers(text: str) -> list[int]:
    try:
        return [int(s) for s in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f'seeds are whole numbers such as "0 1 2", given {text!r}') from None


@app.command("list")
@one_sentence
def list_() -> None:
    """Papers, their notebooks and their newest runs."""
    from lib.harness import start

    typer.echo(start.listing())


@app.command()
@one_sentence
def run(
    paper: str,
    preset: Annotated[str, typer.Option(help="smoke, small, study or paper")] = "small",
    seed: int = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, repeatable")] = None,
    force: bool = False,
    processes: Annotated[int, typer.Option(help="that share its model and batches (qdpo), a GPU each if on cuda")] = 1,
) -> None:
    """Run one paper's notebook once."""
    given = overrides(paper, map(assignment, set_ or []))
    done = runner.run(paper, preset=preset, seed=seed, overrides=given, force=force, processes=processes)
    raise typer.Exit(done.code)


@app.command("fits")
@one_sentence
def fits_(
    paper: str,
    preset: Annotated[str, typer.Option(help="smoke, small, study or paper")] = "paper",
    memory: Annotated[float | None, typer.Option(help="GB of the device; what there is here if not given")] = None,
    host: Annotated[float | None, typer.Option(help="GB of the computer; what there is here if not given")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, repeatable")] = None,
    processes: Annotated[int, typer.Option(help="that share the model (qdpo): what each of them takes")] = 1,
    write: Annotated[bool, typer.Option(help="keep it in results/tables/memory.csv")] = False,
) -> None:
    """Say what every stage takes of memory, before anything is loaded; exit code 1 if it does not fit."""
    which = notebooks.papers() if paper == "all" else [paper]
    if wrong := [name for name in which if name not in notebooks.papers()]:
        raise ValueError(f"memory is reckoned for {', '.join(notebooks.papers())} or all, given {wrong[0]!r}")
    found, bad = {}, False
    for name in which:
        given = {k.upper(): v for k, v in overrides(name, map(assignment, set_ or [])).items()}
        cfg = presets.resolve(name, {"PRESET": preset, "SEED": 0} | given)
        ranks.divides(cfg, processes)
        typer.echo(f"{name}, preset {preset}: {cfg['model']}, {cfg['dtype']} on {cfg['device']}; up to a minute")
        try:
            fits.settle(cfg, memory=memory, host=host, processes=processes)
        except ValueError:  # not even one row fits: its stages are shown and refused
            cfg.choose(micro=1)
        if cfg.chosen():
            typer.echo(f"  chosen: {', '.join(f'{k.upper()}={v}' for k, v in cfg.chosen().items())}")
        found[name] = fits.footprint(cfg, _show, processes=processes)
        room = fits.there_is(cfg["device"]) if memory is None else memory
        there: dict[str, Any] = dict(
            memory=room, host=fits.there_is("cpu") if host is None else host, processes=processes
        )
        no = fits.objection(found[name], dict(cfg), **there)
        typer.echo(f"  does not fit: {no}" if no else f"  fits {room:.0f} GB")
        bad |= bool(no)
    if write:
        typer.echo(fits.write(preset, found).relative_to(paths.ROOT))
    raise typer.Exit(bad)


def _show(stage: fits.Stage) -> None:
    there = f", {stage.host:.1f} GB on the host" if stage.host else ""
    typer.echo(f"  {stage.device:6.1f} GB  {stage.name}{there}")


@app.command()
@one_sentence
def reproduce(
    paper: str = "all",
    preset: str = "small",
    seeds: Annotated[str, typer.Option(help='"0 1 2"; those that the preset plans if not given')] = "",
    force: bool = False,
    jobs: Annotated[int, typer.Option(help="runs at a time, one thread each if several")] = 1,
) -> None:
    """Run papers and seeds, rebuild the index, print the board."""
    which = notebooks.papers() if paper in ("", "all") else paper.replace(",", " ").split()
    if preset == "study" and "speed" in which and paper in ("", "all"):
        which.remove("speed")
    raise typer.Exit(reproduction.reproduce(which, preset or "small", numbers(seeds) or None, force, jobs))


@app.command()
@one_sentence
def power(
    paper: str,
    seeds: Annotated[int | None, typer.Option(help="seeds of the planned study; its own if not given")] = None,
) -> None:
    """The effect that so many seeds see with 80 % power, from pilots (seeds 200 and up) or from the cited runs."""
    if paper not in claims.PAPERS:
        raise ValueError(f"power is reckoned for {', '.join(claims.PAPERS)}, given {paper!r}")
    typer.echo(
        claims.power(paper, results.load_runs(paper), seeds).to_markdown(tablefmt="simple", index=False, floatfmt=".3g")
    )


@app.command("export")
@one_sentence
def export_(
    run: Annotated[str, typer.Argument(help="name of a folder under results/runs, or its path")],
    arm: Annotated[str, typer.Option(help="an arm that the run kept (KEEP), or data: the rows it made")],
    to: Annotated[Path, typer.Option(help="a new folder")],
) -> None:
    """Take an arm of a run home, a model folder or PEFT adapters, or the rows it made; each with its card."""
    typer.echo(take_home.export(run, arm, to))


@app.command()
@one_sentence
def compare(
    run_a: Annotated[str, typer.Argument(help="name of a folder under results/runs, or its path")],
    run_b: str,
    all_: Annotated[bool, typer.Option("--all", help="also differences whose interval holds 0")] = False,
) -> None:
    """Two runs of a paper: settings that differ, and b minus a with intervals over the prompts both answered."""
    typer.echo(results.compare(take_home.find(run_a), take_home.find(run_b)).text(whole=all_))


@app.command("drift")
@one_sentence
def drift_(
    folder: Annotated[Path | None, typer.Option("--runs", help="of fresh runs; what git lacks of results/runs")] = None,
    paper: Annotated[str, typer.Option(help="one or several, or all")] = "all",
    preset: Annotated[str, typer.Option(help="small, study or paper")] = "small",
    markdown: Annotated[bool, typer.Option("--markdown", help="as the summary of a workflow")] = False,
) -> None:
    """Fresh runs beside the committed ones: headlines that disagree (exit code 1), numbers that moved."""
    which = [*claims.PAPERS] if paper in ("", "all") else paper.replace(",", " ").split()
    found = drift.check(which, preset or "small", folder)
    typer.echo(drift.text(found, markdown=markdown))
    raise typer.Exit(not drift.agrees(found))


@app.command("results")
@one_sentence
def results_(check: Annotated[bool, typer.Option(help="only say whether the pages are up to date")] = False) -> None:
    """Rebuild the tables, figures and pages from the cited runs."""
    if check:
        problems = [*claims.check(), *index.check()]
        typer.echo("\n".join(problems) or "results are up to date")
        raise typer.Exit(bool(problems))
    for path in index.write():
        typer.echo(path.relative_to(paths.ROOT) if path.is_relative_to(paths.ROOT) else path)


@app.command("report")
@one_sentence
def report_(
    to: Annotated[Path | None, typer.Option(help="a folder; results/report if not given")] = None,
) -> None:
    """Write the results as one offline page, with the executed notebooks beside it."""
    from lib.harness import report

    for path in report.write(to):
        typer.echo(path)


@app.command()
@one_sentence
def sweep(
    paper: str,
    grid: Annotated[list[str], typer.Option(help="NAME=v1,v2 (a comma-separated setting cannot be swept), repeatable")],
    preset: str = "small",
    seeds: str = "0",
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE for every point, repeatable")] = None,
    jobs: Annotated[int, typer.Option(help="runs at a time on this machine")] = 1,
    address: Annotated[str, typer.Option(help="a Ray cluster (extra `scale`): local, auto or host:port")] = "",
    slot: Annotated[str, typer.Option(help="CPUs and share of a GPU for each run on Ray, such as 4:0.5")] = "1",
    retry: Annotated[str, typer.Option(help="how often crashed:failed runs are tried again")] = "1:0",
) -> None:
    """Every combination of the grid and the seeds, one run each; the same command again goes on where it was left."""
    axes = [[(k, v) for v in values.split(",")] for k, values in map(assignment, grid)]
    fixed = [assignment(s) for s in set_ or []]
    points = [[*fixed, *p] for p in itertools.product(*axes)]
    todo = sweeps.jobs_of(paper, preset, points, numbers(seeds), overrides)
    raise typer.Exit(sweeps.run(paper, preset, todo, sweeps.Where(jobs, address, slot, retry)))


@app.command()
@one_sentence
def doctor() -> None:
    """Versions, device, memory, and which presets fit this machine."""
    said, bad = health.lines()
    typer.echo("\n".join(said))
    raise typer.Exit(bad)


def _chosen(files: list[Path] | None) -> list[Path]:
    return files or sorted(paths.NOTEBOOKS.glob("*.ipynb"))


@books.command()
@one_sentence
def clean(files: Annotated[list[Path] | None, typer.Argument()] = None) -> None:
    """Strip outputs and counts."""
    for path in _chosen(files):
        notebooks.clean(path)


@books.command()
@one_sentence
def check(files: Annotated[list[Path] | None, typer.Argument()] = None) -> None:
    """Say what departs from the house form."""
    problems = [p for path in _chosen(files) for p in notebooks.check(path)]
    typer.echo("\n".join(problems) or f"{len(_chosen(files))} notebooks in form")
    raise typer.Exit(bool(problems))


@books.command()
@one_sentence
def show(files: Annotated[list[Path], typer.Argument()]) -> None:
    """Print as plain text."""
    for path in files:
        typer.echo(notebooks.show(path))


@curriculum.command("check")
@one_sentence
def check_taxonomy(
    path: Annotated[Path, typer.Argument(help="the folder that holds knowledge/ and the skills")] = paths.DATA
    / "taxonomy",
) -> None:
    """Say what is wrong with a taxonomy, or show it."""
    from lib import taxonomy

    problems = taxonomy.check(path)
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        typer.echo("\n".join([*problems[:SHOWN], *more]))
        raise typer.Exit(1)
    leaves = taxonomy.load(path)
    typer.echo(f"{taxonomy.outline(leaves)}\n{len(leaves)} leaves in form")


@app.command()
@one_sentence
def generate(
    taxonomy: Annotated[Path, typer.Argument(help="the folder that holds knowledge/ and the skills")],
    to: Annotated[Path, typer.Option(help="a new folder for the rows")],
    rows: Annotated[int, typer.Option(help="how many are wanted")] = 100,
    teacher: Annotated[str, typer.Option(help='templated, or "http://localhost:8000/v1 model"')] = "templated",
    seed: int = 0,
    at_once: Annotated[int, typer.Option(help="requests that a served teacher gets at a time")] = 16,
) -> None:
    """Rows of instruction data out of your own taxonomy, by a teacher."""
    work = importlib.import_module("lib.studies.lab.generate")
    said, enough = work.generate(taxonomy, to, rows=rows, teacher=teacher, seed=seed, at_once=at_once)
    typer.echo(said)
    if not enough:
        raise typer.Exit(runner.FAILED)


@app.command("presets")
@one_sentence
def presets_(paper: str, preset: str = "small") -> None:
    """All settings of a paper at a preset, with their sources."""
    from lib.harness import start

    typer.echo(start.settings(presets.table(presets.resolve(paper, {"PRESET": preset, "SEED": 0}))))


@app.command("new")
@one_sentence
def new_(
    key: Annotated[str, typer.Argument(help="the paper's name in commands and files, such as sapo")],
    title: Annotated[str, typer.Option(help='"Name: what it is about"; the key if not given')] = "",
    arxiv: Annotated[str, typer.Option(help="its number, such as 2411.01493")] = "",
) -> None:
    """Write what one more paper needs: notebook, settings, claims, a study that runs, and tests."""
    from lib.harness import recipe

    typer.echo(recipe.write(key, title, arxiv))


TASKS = {  # what `plumbline --help` shows together
    "Before a run": ("doctor", "list", "presets", "fits", "power"),
    "Run": ("run", "reproduce", "sweep"),
    "Results": ("results", "report", "compare", "drift", "export"),
    "Files": ("new", "notebooks", "taxonomy", "generate"),
}
_place = {name: (k, panel) for k, (panel, name) in enumerate((p, n) for p, names in TASKS.items() for n in names)}
for _kind in (app.registered_commands, app.registered_groups):
    _all: list[Any] = _kind
    for _one in _all:
        _one.rich_help_panel = _place.get(_one.name or _one.callback.__name__, (0, "More"))[1]
    _all.sort(key=lambda one: _place.get(one.name or one.callback.__name__, (len(_place), ""))[0])

if __name__ == "__main__":
    app()
