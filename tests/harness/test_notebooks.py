"""The real notebooks: form, and a headless run of each at smoke; and the tool that checks them."""

import json

import nbformat
import papermill
import pytest

from lib.harness import fits, index, notebooks, paths, results, runner

ALL = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
PAPERS = notebooks.papers()


def test_all_notebooks_are_found_and_in_form():
    assert {"00_start_here.ipynb", "10_qdpo.ipynb", "90_results.ipynb"} <= {p.name for p in ALL}
    assert [problem for path in ALL for problem in notebooks.check(path)] == []


@pytest.mark.parametrize("paper", PAPERS)
def test_every_parameter_is_read_by_the_settings(paper):
    found = notebooks.parameters(notebooks.find(paper))
    assert {"PRESET", "SEED"} <= found.keys() and all(
        v is None for k, v in found.items() if k not in ("PRESET", "SEED")
    )
    runner.validate(paper, "paper", 0, {})


@pytest.fixture
def smoke_runs(sandbox, monkeypatch):
    """Makes the two runs of a paper: one through the runner, its arms one after another, one through plain papermill,
    two arms at a time."""

    def runs_of(paper):
        book = notebooks.find(paper)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("PLUMBLINE_PROCESSES", "1")
        assert runner.run(paper, preset="smoke", seed=0).code == 0
        monkeypatch.setenv("PLUMBLINE_PROCESSES", "2")
        given = {"PRESET": "smoke", "SEED": 0}
        papermill.execute_notebook(
            str(book), str(sandbox / "out.ipynb"), given, progress_bar=False, cwd=str(book.parent)
        )
        return results.load_runs(paper)

    return runs_of


def what_qdpo_records(run):
    m = run.metrics()
    arms = set(run.manifest["settings"]["arms"].split(","))
    assert arms <= set(m.arm), "every arm is measured"
    shares = m[
        m.metric.isin(["flips", "exact match", "accuracy", "codes changed", "agreement", "forced flips", "win", "lose"])
    ]
    assert shares.value.between(0, 1).all() and len(shares) > 30
    assert (m[m.metric == "kl"].value > -1e-6).all()
    assert m[(m.arm == "fp") & (m.metric == "flips")].value.item() == 0
    cut = m[(m.dataset == "pairs, cut at the first divergence") & (m.metric == "delta >= 0")].value.item()
    assert cut == 1.0
    assert run.manifest["model"]["sha256"] and run.manifest["data"][0]["rows"] == 840


def what_mrpo_records(run):
    m = run.metrics()
    scarce = m[m.dataset == "held-out plain"]
    assert set(run.manifest["settings"]["arms"].split(",")) <= set(scarce.arm) and "mrpo, mis-scored" in set(scarce.arm)
    tilted = run.items()[run.items().dataset == "language plain, foreign second"]
    assert {"mrpo", "dpo", "single, per token"} <= set(tilted.arm) and {"accuracy", "KL, equal KL"} <= set(
        tilted.metric
    )
    assert (m.metric == "share of scores on a bound").any()
    assert {"mrpo", "dpo"} <= set(m[m.dataset == "held-out plain+varied"].arm)
    accuracy = scarce[scarce.metric.str.startswith("accuracy")]
    assert (
        accuracy.value.between(0, 1).all()
        and accuracy[(accuracy.arm == "base") & (accuracy.metric == "accuracy, primary reference")].value.item() == 0
    )
    assert (run.items().metric == "true reward").any() and run.manifest["model"]["sha256"]


def what_attribute_control_records(run):
    m, items = run.metrics(), run.items()
    arms = {a for a in run.manifest["settings"]["arms"].split(",")}
    assert arms <= set(items[items.dataset == "written forum"].arm) and arms - {"base", "nado-base"} <= set(
        items[items.dataset == "text general"].arm
    )
    assert items[items.metric.str.contains("one half|maximum|auc|accuracy")].value.between(0, 1).all()
    turns = m[(m.exhibit == "turns") & (m.arm == "ours")]
    assert set(turns.dataset) == {"iteration 0", "iteration 1"} and (turns[turns.metric == "updated"].value == 1).all()
    exact = m[(m.exhibit == "exact") & (m.arm == "answers")].set_index(["dataset", "metric"]).value
    assert exact["forward", "bad mass at 1"] < exact["forward", "bad mass at 0"]


def what_lab_records(run):
    m, items = run.metrics(), run.items()
    arms = set(run.manifest["settings"]["arms"].split(","))
    assert (
        arms | {"start", "stacked, averaged", "replay-all, mixed", "replay-all, chosen only"}
        <= set(items[items.dataset == "exam"].arm)
        and items[items.metric == "accuracy"].value.between(0, 1).all()
    )
    assert {
        "coverage, templated 0.8",
        "coverage, templated 0",
        "coverage, language model",
        "faithfulness",
        "students filters",
        "students coverage, templated 0.8",
    } <= set(items.dataset)
    assert set(run.manifest["settings"]["filters"].split(",")) == set(items[items.dataset == "filters"].arm)
    purity = (
        items[(items.dataset == "filters") & (items.metric == "purity")]
        .groupby("arm")[["value", "weight"]]
        .apply(lambda t: (t.value * t.weight).sum() / t.weight.sum())
    )
    assert purity["oracle"] == 1 > purity["none"]
    steps = run.curve()[lambda c: c.name == "loss"].groupby("arm").size()
    assert set(steps[[a for a in arms if a != "replay-epochs"]]) == {9}
    assert set(m[(m.exhibit == "after phase") & (m.arm == "phased")].dataset) == {
        "0 start",
        "1 knowledge-short",
        "2 knowledge-long",
        "3 skills",
    }


RECORDS = {
    "qdpo": what_qdpo_records,
    "mrpo": what_mrpo_records,
    "attribute_control": what_attribute_control_records,
    "lab": what_lab_records,
}


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_runner_and_plain_papermill_agree_repeat_and_record_what_they_must(smoke_runs, paper):
    """All that is asked of a paper's smoke runs stands here, so that whichever worker gets it makes them once."""
    a, b = smoke_runs(paper)
    assert a.manifest["status"] == b.manifest["status"] == "done" and a.dir != b.dir
    x, y = (r.metrics().drop(columns="run_id") for r in (a, b))
    x, y = (
        m[~m.metric.str.contains("per second|^seconds")].reset_index(drop=True) for m in (x, y)
    )  # what a clock says does not repeat
    assert x.equals(y) and len(x) + len(a.items()) > 50
    assert a.items().equals(b.items())
    assert (a.dir / "notebook.ipynb").exists()
    RECORDS.get(paper, lambda run: None)(a)


@pytest.mark.slow
def test_the_timings_run(sandbox, monkeypatch):
    """95_speed at smoke: every comparison is made, in forks; what they say means nothing at this size."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runner.run("speed", preset="smoke", seed=0).code == 0
    run = results.load_runs("speed")[0]
    tasks = set(index.speed([run]).task)
    assert [t.split(",")[0] for t in sorted(tasks)] == [
        "DPO step",
        "LoRA DPO step",
        "greedy",
        "quantized DPO step",
        "sampling",
        "scoring",
    ]
    m = run.metrics()
    assert m[m.metric == "largest loss difference to TRL"].value.item() < 1e-3
    assert m[(m.dataset == "greedy answers, float32") & (m.arm == "ours")].value.item() == 1.0


@pytest.mark.parametrize("given, words", [
    ({"BETTA": 0.1}, "did you mean BETA"), ({"seed": 7, "Beta": 50}, "write SEED.*write BETA"),
])  # fmt: skip
def test_a_misspelt_parameter_fails_under_plain_papermill(tmp_path, monkeypatch, given, words):
    monkeypatch.setenv("PLUMBLINE_RESULTS", str(tmp_path / "results"))
    book = notebooks.find("qdpo")
    with pytest.raises(Exception, match=words):
        papermill.execute_notebook(
            str(book), str(tmp_path / "out.ipynb"), given, progress_bar=False, cwd=str(book.parent)
        )


# ------------------------------------------------------------------------------------------------ the tool


def book(cells, name="10_qdpo.ipynb"):
    nb = nbformat.v4.new_notebook(cells=cells)
    nb.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nb


def code(source, cid, tags=()):
    c = nbformat.v4.new_code_cell(source, id=cid)
    if tags:
        c.metadata["tags"] = list(tags)
    return c


@pytest.mark.parametrize("cell, message", [
    (code("def f():\n    pass", "a"), "defines or installs"), (code("!pip install x", "a"), "defines or installs"),
    (code("open('/ho" + "me/x')", "a"), "absolute path"), (code("\n".join("x" * 26), "a"), "26 lines"),
    (code("1", "Bad_Id"), "not a word"),
])  # fmt: skip
def test_form_is_checked(tmp_path, cell, message):
    path = tmp_path / "00_x.ipynb"
    nbformat.write(book([cell]), path)
    assert any(message in p for p in notebooks.check(path))


@pytest.mark.parametrize("line, message", [
    ("BETTA = 0.1  # help", "no setting"), ("BETA = dict(a=1)  # help", "NAME = literal"),
    ("BETA = None", "NAME = literal"),
])  # fmt: skip
def test_parameter_lines_are_checked(tmp_path, line, message):
    path = tmp_path / "10_qdpo.ipynb"
    nbformat.write(book([code(line, "parameters", ["parameters"])]), path)
    assert any(message in p for p in notebooks.check(path))


def test_clean_and_copy(tmp_path):
    path = tmp_path / "00_x.ipynb"
    cell = code("1", "one", ["keep"])
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="9 % left"),
        nbformat.v4.new_output("stream", text=f"{paths.ROOT}/lib"),
    ]
    cell.execution_count = 3
    nbformat.write(book([cell]), path)
    assert any("has outputs" in p for p in notebooks.check(path))
    notebooks.executed_copy(path, tmp_path / "copy.ipynb")
    outputs = nbformat.read(tmp_path / "copy.ipynb", 4).cells[0].outputs
    assert [o.text for o in outputs] == ["lib"]
    notebooks.clean(path)
    cleaned = nbformat.read(path, 4).cells[0]
    assert notebooks.check(path) == [] and cleaned.metadata["tags"] == ["keep"] and cleaned.id == "one"
    assert "one (code)" in notebooks.show(path)


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """Models of the papers' architectures, a few thousand weights each, with tokenizers of their own, as folders."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        GPTNeoXConfig,
        LlamaConfig,
        MistralConfig,
    )

    from lib.engine import models

    folder, tokenizer = tmp_path_factory.mktemp("miniatures"), models.byte_tokenizer()
    size = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        bos_token_id=256, eos_token_id=257, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    for name, build, config in (
        ("llama", AutoModelForCausalLM, LlamaConfig(**size)),
        ("mistral", AutoModelForCausalLM, MistralConfig(**size, num_key_value_heads=2)),
        ("pythia", AutoModelForCausalLM, GPTNeoXConfig(**size)),
        ("reward", AutoModelForSequenceClassification, LlamaConfig(**size, num_labels=1)),
    ):  # fmt: skip
        build.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def footprint(cfg, processes=1, **instead):
    """`fits.footprint` without the process of its own; what goes wrong is raised."""
    from lib.studies import footprints

    settings = {"PRESET": cfg.preset, "SEED": cfg.seed} | {k.upper(): v for k, v in (dict(cfg) | instead).items()}
    return [fits.Stage(name, *(x / fits.GB for x in b)) for name, b in footprints.stages(cfg.paper, settings).items()]


FEW = {
    "mrpo": dict(
        n_train=16, n_test=8, n_validation=8, tokens=8, each=6, n_scarce=8, n_abundant=16, n_heldout=12, n_reference=8,
        scarce="plain", ablations="mrpo-tsw", epsilons="0.5",
        tilt_rewards="plain", tilt_dim=4, tilt_draws=2, tilt_scarce=8, tilt_abundant=16, tilt_reference=16,
        worlds=2, exact_prompts=8, exact_answers=8, exact_dim=4, exact_abundant=64, exact_pairs="16,32",
        exact_qualities="-0.9,0.9", exact_epsilons="0.1",
        batch=4, blocks=2,
    ),
    "attribute_control": dict(
        n_related=12, n_general=12, n_detection=12, n_test=8, n_prompts=4, samples=3, tokens=6, iterations=2,
        n_asked=4, each=3, mixed=8, layers=1, nado_epochs=1, batch=8, blocks=1, world_lams="0,1", world_steps=50,
        real_prompts="no", tasks="none", arms="base,sft,nado-sft,ours", lams="none", rl_weights="none", style="dinado",
        direction="forward", tau=0.8,
    ),
    "lab": dict(
        teacher="templated", chunk=60, calls=2, questions=4, contexts=2, pairs=3, per_leaf=6, draws=1, draw_calls=12,
        draw_questions=3, model_calls=12, model_draws=1,
        model_tokens=16, n_two_order=12, n_faithful=12, filter_steps=2, steps="2,2,2",
        batch=4, lr=1e-3, orders=2, rivals=3, contrast_steps=2, contrasts="easy to hard", exam=3, exam_knowledge=6,
        exam_general=8, exam_text=6, answer_tokens=8, blocks=1, tasks="none", arms="phased,replay-all", noises="0.5",
    ),
    "sea": dict(n_train=16, n_test=4, n_validation=4, tokens=6, candidates=3, batch=4, budget=12, every=8, burn_in=1,
        heads_batch=4, buffer=100, blocks=1, worlds=2),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("paper", FEW)
def test_the_paper_preset_on_miniatures_of_its_models(sandbox, miniatures, monkeypatch, paper):
    """Its settings as they are, but for models, device and sizes. What it takes of memory is told here, in this
    process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(fits, "footprint", footprint)
    people = sandbox / "people.jsonl"
    people.write_text(
        "\n".join(json.dumps({"prompt": f"Say {i}.", "chosen": f"{i}", "rejected": "no"}) for i in range(60))
    )
    columns = {  # of the papers' data sets, the rows made up
        "toxigen": lambda i: {
            "text": f"house {i} has people who are always {i} minutes late",
            "target_group": "asian",
            "toxicity_ai": 1.0 + i % 5,
            "toxicity_human": 1.0 + i % 5,
        },
        "wikitext": lambda i: {"text": f" River {i} is long , wide and {i} feet deep . \n"},
        "tldr": lambda i: {"prompt": f"POST: Tale {i}.\n\nTL;DR:", "pythia-1b-reference": " A tale."},
    }
    for name, row in columns.items():
        (sandbox / f"{name}.jsonl").write_text("\n".join(json.dumps(row(i)) for i in range(80)))
    of = {
        "mrpo": dict(
            model=str(miniatures / "llama"),
            second_model=str(miniatures / "mistral"),
            transfer=str(people),
            pairs=str(people),
            tasks="none",
        ),
        "attribute_control": dict(
            model=str(miniatures / "llama"),
            oracle=str(miniatures / "reward"),
            second_judge="negative",
            corpus=f"{sandbox / 'toxigen.jsonl'},{sandbox / 'wikitext.jsonl'}",
        ),
        "lab": dict(model=str(miniatures / "mistral")),
        "sea": dict(
            model=str(miniatures / "pythia"),
            prompts=str(sandbox / "tldr.jsonl"),
            reward=str(miniatures / "reward"),
            world_cells="tiny",
            world_arms="passive,sea-logit",
            world_more="none",
            arms="passive,sea-logit,xpo",
        ),
    }
    assert runner.run(paper, preset="paper", seed=0, overrides={"device": "cpu", **FEW[paper], **of[paper]}).code == 0
    run = results.load_runs(paper)[0]
    m, items = run.metrics(), run.items()
    if paper == "mrpo":
        assert {"mrpo, other model", "mrpo-normalized, other model"} <= set(m.arm) and run.manifest["settings"][
            "rank"
        ] == 8
        assert any(d.startswith("transfer") for d in items.dataset)
        assert {f"held-out {people}, few", f"held-out {people}, many"} <= set(m.dataset) and "true reward" not in set(
            items.metric
        )
    elif paper == "lab":
        assert {"start", "phased", "replay-all", "replay-all, easy to hard", "phased, half-way"} <= set(
            items[items.dataset == "exam"].arm
        )
    elif paper == "attribute_control":
        assert {"base", "sft", "nado-sft", "ours"} <= set(items[items.dataset == "written forum"].arm) and items[
            items.dataset == "exact"
        ].value.between(0, 1).all()
    else:
        assert {"passive", "sea-logit", "xpo"} <= set(items[items.dataset == "language"].arm)
