import json

import pytest
from tokenizers import Tokenizer, decoders, normalizers, processors
from tokenizers import models as kinds
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lib.data import continuation, plain

PIECES = ["<unk>", "<s>", "</s>", "▁", "t", "e", "x", "te", "tex", "text", "▁text", "y", "texty", "▁texty"]
MERGES = [("t", "e"), ("te", "x"), ("tex", "t"), ("▁", "text"), ("text", "y"), ("▁text", "y")]


def sentencepiece(single="<s> $A"):
    """A tokenizer in the form of Llama's: a space in front of every text, BOS by template."""
    core = Tokenizer(kinds.BPE(vocab={p: i for i, p in enumerate(PIECES)}, merges=MERGES, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("family", ["llama", "mistral", "phi3"])
def test_published_families_read_a_continuation_as_one_text(tmp_path, family):
    sentencepiece().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": "LlamaTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt, answer = continuation(tokenizer, "text", " text", end=2)
    assert tokenizer.convert_ids_to_tokens(prompt) == ["<s>", "▁text"]
    assert tokenizer.convert_ids_to_tokens(answer) == ["▁text", "</s>"]


@pytest.mark.parametrize("single", ["$A", "<s> $A", "$A </s>", "<s> $A </s>"])
@pytest.mark.parametrize(
    "prompt, answer", [("text", " text"), ("text ", "text"), ("text", "y"), ("", "text"), ("text", "")]
)
def test_prompt_and_answer_are_the_ids_of_the_whole(single, prompt, answer):
    tokenizer = sentencepiece(single)
    front = [1] * single.startswith("<s>")
    assert plain(tokenizer, "text") == [*front, PIECES.index("▁text")]
    first, rest = continuation(tokenizer, prompt, answer, end=2)
    whole = [*front, *tokenizer.encode(prompt + answer, add_special_tokens=False), 2]
    if (prompt, answer, front) == ("text", "y", []):  # one token of both, and no prompt left: read apart
        assert (first, rest) == (plain(tokenizer, "text"), [*tokenizer.encode("y", add_special_tokens=False), 2])
    else:
        assert [*first, *rest] == whole and whole.count(1) == len(front) and whole.count(2) == 1
        assert first or not (prompt or front)


def test_bos_and_end_stand_once_where_the_texts_hold_them():
    tokenizer = sentencepiece()
    assert plain(tokenizer, "<s>text").count(1) == 1
    assert continuation(tokenizer, "text", " text</s>", end=2)[1].count(2) == 1


def test_nothing_changes_for_byte_level_tokenizers(byte_tokenizer):
    for prompt, answer in (("Name a river", " The Rhine."), ("Q: x?\nA:", " yes"), ("a\n\n", "b\nc"), ("é", " ü")):
        apart = byte_tokenizer.encode(answer, add_special_tokens=False)
        assert continuation(byte_tokenizer, prompt, answer, end=257) == (
            byte_tokenizer(prompt).input_ids, [*apart, 257]
        )  # fmt: skip
