import pytest

from lib.synthesis import requests, samplers
from lib.synthesis.requests import Reply, Request

REQUEST = Request(
    "a", "answer", "x", "Adding.", (samplers.Example("a", "What is 1 + 1?", "2", ""),), question="What is 2 + 2?"
)


def test_a_reply_is_its_text_and_carries_labels():
    reply = Reply("1. a", [{"asked": "right"}])
    assert (
        reply == "1. a" and isinstance(reply, str) and reply.truth == ({"asked": "right"},) and Reply("b").truth == ()
    )


def test_an_unknown_ask_is_refused():
    with pytest.raises(ValueError, match="a teacher is asked for one of questions, contexts, .* given 'poem'"):
        requests.instruction(REQUEST._replace(ask="poem"))


def test_lists_are_continued_from_their_numbers():
    x = samplers.Example("a", "What is 1 + 1?", "2", "")
    r = Request("0", "questions", "a", "Adding.", (x, x._replace(question="Add 2 and 3.")), 3)
    assert requests.listing(r) == "Adding.\n1. What is 1 + 1?\n2. Add 2 and 3.\n3."
    assert requests.continued(" Add 4 and 4.\n4. Add 5 and 5.\n5.", 3) == "1. Add 4 and 4.\n2. Add 5 and 5.\n3."
    assert requests.continued(" \n ", 3) == ""
    asked = requests.listing(r._replace(ask="answer", question="Add 7 and 7.", context="Seven."))
    assert asked.endswith("Answer: 2\n\nContext: Seven.\nQuestion: Add 7 and 7.\nAnswer:")
    assert requests.listing(r._replace(ask="pairs", context="A text.")).startswith(
        "A text.\n\nAdding.\n1. Question: What is 1 + 1?\nAnswer: 2\n2. "
    )


@pytest.mark.parametrize("ask", requests.ASKS)
def test_prompts_hold_what_the_request_holds(ask):
    text = requests.instruction(REQUEST._replace(ask=ask, n=7, context="Some context.", answer="Four."))
    assert ("Adding." in text) == (ask != "judge faithful") and ("Some context." in text) == (ask != "contexts")
    assert ("1. to 7." in text) == (ask in requests.LISTED) and ("Score: " in text) == ask.startswith("judge")
    assert ("What is 1 + 1?" in text) == (not ask.startswith("judge"))
