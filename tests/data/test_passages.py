import pytest

from lib.data.dialogues import Unusable
from lib.data.passages import FORMS, dialogue, passage

BY = {form.name: form for form in FORMS}


@pytest.mark.parametrize(
    "form, row, reason",
    [
        ("text", {"text": " "}, "text is empty"),
        ("text", {"text": 5}, "text is 5, not a text"),
        ("RealToxicityPrompts", {"prompt": "x", "continuation": {"text": "y"}}, "prompt is 'x', not an object"),
        ("RealToxicityPrompts", {"prompt": {"text": "x"}, "continuation": {"text": " "}}, "the text is empty"),
        ("ToxiGen, annotated", {"text": "x", "toxicity_ai": "?", "toxicity_human": 1}, "toxicity_ai is"),
        ("unpaired preference", {"prompt": "x", "completion": "y", "label": "maybe"}, "label is 'maybe'"),
        ("prompt and completion", {"prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "more than one"),
        ("prompt and completion", {"prompt": "x"}, "lacks completion"),
    ],
)
def test_a_row_that_is_none_is_named(form, row, reason):
    with pytest.raises(Unusable, match=reason):
        passage(row, BY[form])


def test_an_unscored_continuation_has_no_label():
    row = {"prompt": {"text": "x"}, "continuation": {"text": "y", "toxicity": None}}
    assert passage(row, BY["RealToxicityPrompts"]).label is None


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"chosen": "x"}, "has no conversation"),
        ({"messages": [{"role": "user", "content": "x"}]}, "has no answer of the assistant"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "there is no turn of the user"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "has the role 'tool'"),
        ({"prompt": "x", "completion": " "}, "the last answer is empty"),
    ],
)
def test_a_row_that_is_no_dialogue_is_named(row, reason):
    with pytest.raises(Unusable, match=reason):
        dialogue(row)


def test_a_transcript_is_a_dialogue():
    got = dialogue({"text": "\n\nHuman: a?\n\nAssistant: b.\n\nHuman: thanks"})
    assert [t["content"] for t in got] == ["a?", "b."]
