from lib.harness import cards, paths, results


def test_the_card_of_a_cited_run_tells_what_was_measured():
    """Of the run that is committed: base model and licence, verdicts, data with sums, no path of a machine."""
    run = results.cited(results.load_runs("qdpo"))[0]
    text = cards.quantized(run, "qdpo", "qdpo-5bit", said=5.328, size=5.33)
    for words in ("base_model: HuggingFaceTB/SmolLM2-135M-Instruct", "license: apache-2.0", "210 linear layers",
        "one scale for 64 input channels, with zero-points", "5.328 bits a weight",
        "QDPO repairs what quantization broke", run.manifest["data"][0]["sha256"], "Weights' sha256"):  # fmt: skip
        assert words in text, words
    assert text.count("| C") >= 5 and "Not evidence" not in text
    elsewhere = results.RunRecord(run.dir, run.manifest | {
        "settings": run.manifest["settings"] | {"model": str(paths.ROOT / "my-model"), "group": -1},
        "data": [{"file": "mine.jsonl", "sha256": "0", "rows": 3}], "dirty": True,
    })  # fmt: skip
    text = cards.quantized(elsewhere, "qdpo", "m", said=5.0, size=5.0)
    assert "# my-model: qdpo" in text and str(paths.ROOT) not in text and "license: other" in text
    assert "one scale a row" in text and text.count(cards.UNKNOWN) == 2 and "Not evidence: code or data" in text
