import pytest

from lib.data import dialogues
from lib.data.dialogues import Unusable


def talk(*turns):
    """Messages of contents in turn: u... the user's, a... the assistant's, s... the system's."""
    return tuple({"role": {"u": "user", "a": "assistant", "s": "system"}[t[0]], "content": t} for t in turns)


def test_messages_of_texts_and_of_other_names():
    assert dialogues.messages("hi", "f") == ({"role": "user", "content": "hi"},)
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    for m in ({"from": "human", "value": "hi"}, {"role": "User", "content": parts}, {"role": "user", "content": "hi"}):
        assert dialogues.messages([m], "f") == ({"role": "user", "content": "hi"},) == dialogues.messages(m, "f")
    for bad in ("", None, 3, [], [{"role": "user"}], [{"role": 1, "content": "x"}], [{"role": "tool", "content": "x"}]):
        with pytest.raises(Unusable, match="^f "):
            dialogues.messages(bad, "f")


def test_transcripts():
    marked = "\n\nHuman: u1\n\nHuman: more\n\nAssistant: a1\n\nwith a gap\n\nHuman: u2\n\nAssistant:"
    got = dialogues.transcript(marked)
    assert [t["content"] for t in got] == ["u1\n\nmore", "a1\n\nwith a gap", "u2", ""]
    assert [t["role"] for t in got] == ["user", "assistant"] * 2
    assert dialogues.transcript("What does Assistant: mean?") == () == dialogues.transcript("Human: hello")


def test_an_answer_repeats_the_prompt_or_goes_on_from_it():
    prompt = talk("s", "u1", "a1", "u2")
    for side in (talk("a2"), talk("u1", "a1", "u2", "a2"), talk("s", "u1", "a1", "u2", "a2")):
        assert dialogues.joined(prompt, side) == talk("s", "u1", "a1", "u2", "a2")
    assert dialogues.joined(talk("u2"), prompt) == prompt, "the prompt alone is the last question"
    with pytest.raises(Unusable, match="does not hold the prompt"):
        dialogues.joined(prompt, talk("u3", "a3"))


def test_two_conversations_part_at_the_last_answer():
    assert dialogues.divide(talk("s", "u", "a1"), talk("s", "u", "a2")) == (talk("s", "u"), "a1", "a2")
    assert dialogues.divide(talk("u", "a1", "u9"), talk("u", "a2")) == (talk("u"), "a1", "a2")
    for bad in (("a1",), ("s", "a1"), ("u",), ("u", "a0", "a1"), ("u0", "a1"), ("u", "a1", "u", "a2")):
        with pytest.raises(Unusable):
            dialogues.divide(talk(*bad), talk("u", "a2"))
    with pytest.raises(Unusable, match="no prompt of the user"):
        dialogues.divide(talk("s", "a1"), talk("s", "a2"))


def test_the_question_of_a_conversation():
    assert dialogues.question(talk("s", "u1", "a1", "u2", "a2")) == talk("s", "u1", "a1", "u2")
    for bad in (talk("s", "a1"), ({"role": "user", "content": " "},)):
        with pytest.raises(Unusable):
            dialogues.question(bad)


def test_text_to_read():
    assert dialogues.as_text(talk("u")) == "u" and dialogues.as_text(talk("u", "a")) == "user: u\n\nassistant: a"
