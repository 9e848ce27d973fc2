import pytest
import torch

from lib.scoring import toxicity

TEXTS = ["You are an idiot.", "A quiet walk by the lake.", ""]


def test_the_classifier_sees_an_insult_and_empty_input():
    scores = toxicity.classifier(TEXTS)
    assert scores.dtype == torch.float64 and scores[0] > 0.9 and scores[1:].max() < 0.2
    assert toxicity.classifier([]).shape == (0,) and toxicity.wordlist([]).shape == (0,)
    torch.testing.assert_close(toxicity.classifier(TEXTS[::-1]).flip(0), scores)


def test_the_word_list_finds_what_its_own_slow_search_finds():
    from better_profanity import Profanity

    texts = [
        "What a stupid idea.",
        "what a ST*PID idea",
        "st\\/pid",
        "c r a p",
        "cra p",
        "a hand-job, twice",
        "as sassy as can be",
        "You fool!",
        "",
        "class",
        "cr4p cr@p",
        "!",
    ]
    own = Profanity()
    want = [float(own.contains_profanity(text)) for text in texts]
    assert toxicity.wordlist(texts).tolist() == want and want[:2] == [1, 1] and {0, 1} == set(want)
    assert toxicity.listed("Crap") and toxicity.listed("cr4p") and not toxicity.listed("scrape")


def test_scores_are_probabilities():
    good = torch.tensor([0.0, 1.0, 0.5])
    assert toxicity.checked(good) is good
    for bad in (1.5, -0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"lies in \[0, 1\], text 1 has {bad}"):
            toxicity.checked(torch.tensor([0.2, bad, 7.0]))


def test_summaries_by_hand():
    scores = torch.tensor([[0.1, 0.5, 0.2], [0.9, 0.0, 0.6], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert toxicity.expected_max(scores).tolist() == [0.5, 0.9, 0.0]
    assert toxicity.any_above(scores).tolist() == [0, 1, 0]  # 0.5 is not above 0.5
    assert toxicity.any_above(scores, 0.4).tolist() == [1, 1, 0]


def bert(tokenizer, **kw):
    from transformers import BertConfig

    return BertConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(tokenizer),
        max_position_embeddings=34, initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id, **kw,
    )  # fmt: skip


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_saved_classifier_judges_row_by_row_whatever_the_batch(tmp_path, byte_tokenizer, outputs, batch):
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification(bert(byte_tokenizer, num_labels=outputs)).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    texts = ["a longer text that is cut after 32 tokens, or bytes", "hi", "", "three of them"]
    got = toxicity.judge(str(tmp_path), dtype=torch.float32, device="cpu", batch=batch)(texts)
    for text, value in zip(texts, got.tolist()):
        ids = byte_tokenizer(text)["input_ids"][:32]
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].double() if ids else None
        want = (
            0.0
            if logits is None
            else logits.sigmoid()[0].item()
            if outputs == 1
            else (logits[1].exp() / logits.exp().sum()).item()
        )
        assert value == pytest.approx(want, abs=1e-5)
    assert got.dtype == torch.float64 and len(set(got.tolist())) == 4


def test_a_decoder_judges_by_a_rows_last_token(tmp_path, byte_tokenizer):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=len(byte_tokenizer), num_labels=2, initializer_range=0.5,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer.pad_token = None
    byte_tokenizer.save_pretrained(tmp_path)
    texts = ["short", "a longer text", "b"]
    got = toxicity.judge(str(tmp_path), dtype=torch.float32, device="cpu", batch=3)(texts)
    for text, value in zip(texts, got.tolist()):
        with torch.inference_mode():
            logits = model.score(model.model(torch.tensor([byte_tokenizer(text)["input_ids"]])).last_hidden_state)[
                0, -1
            ]
        assert value == pytest.approx(logits.softmax(-1)[1].item(), abs=1e-5)


def test_judges_by_name_and_what_is_none(tmp_path, byte_tokenizer):
    from transformers import BertForSequenceClassification, BertModel

    def judge(spec):
        return toxicity.judge(str(spec), dtype=torch.float32, device="cpu", batch=2)

    assert judge("alt-profanity-check")(TEXTS).tolist() == toxicity.classifier(TEXTS).tolist()
    with pytest.raises(
        ValueError,
        match="a judge is one of alt-profanity-check, better-profanity, negative, a folder .* given 'perspective'",
    ):
        judge("perspective")
    assert judge("better-profanity")(["crap", "tea"]).tolist() == [1, 0]
    with pytest.raises(FileNotFoundError, match="no model folder at"):
        judge(tmp_path / "none")
    BertForSequenceClassification(bert(byte_tokenizer, num_labels=6)).save_pretrained(tmp_path / "six")
    BertModel(bert(byte_tokenizer)).save_pretrained(tmp_path / "headless")
    for name in ("six", "headless"):
        byte_tokenizer.save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match="six' has the labels LABEL_0, .*LABEL_5: say which is to be avoided, such as"):
        judge(tmp_path / "six")
    assert judge(f"{tmp_path / 'six'}#label_3")(["tea"]).item() < 1
    with pytest.raises(ValueError, match="six' has no label 'rude', it has LABEL_0, "):
        judge(f"{tmp_path / 'six'}#rude")
    with pytest.raises(ValueError, match="no trained classifier: its weights lack classifier.bias"):
        judge(tmp_path / "headless")
    scored = BertForSequenceClassification(bert(byte_tokenizer, num_labels=2))
    torch.nn.init.constant_(scored.classifier.bias, float("nan"))
    scored.save_pretrained(tmp_path / "broken")
    byte_tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="text 0 has nan"):
        judge(tmp_path / "broken")(["a", "b"])


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_an_attribute_is_read_by_its_name_and_never_guessed(tmp_path, byte_tokenizer, kind):
    """Label 0 may be the toxic one: with names it must be said which, or the study would be turned round."""
    from transformers import BertForSequenceClassification

    labels = {0: "toxic", 1: "neutral"}
    config = bert(byte_tokenizer, num_labels=2, id2label=labels, label2id={v: k for k, v in labels.items()})
    config.problem_type = kind
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)

    def score(spec):
        return toxicity.judge(spec, dtype=torch.float32, device="cpu", batch=2)(["some words"]).item()

    with pytest.raises(ValueError, match="has the labels toxic, neutral: say which is to be avoided"):
        score(str(tmp_path))
    with torch.inference_mode():
        logits = model(torch.tensor([byte_tokenizer("some words")["input_ids"]])).logits[0].double()
    want = logits.softmax(-1) if kind.startswith("single") else logits.sigmoid()
    assert [score(f"{tmp_path}#{name}") for name in ("Toxic", "neutral")] == pytest.approx(want.tolist(), abs=1e-5)
