import json
import re
import unicodedata

import pytest

from lib import data
from lib.data import text
from lib.data.text import similarity, words
from lib.harness import paths


def shipped():
    for name, field in (("prompts.jsonl", "prompt"), ("questions.jsonl", "question")):
        with (paths.DATA / name).open(encoding="utf-8") as lines:
            yield from (json.loads(line)[field] for line in lines)


def test_english_words_are_those_of_before():
    texts = [*shipped(), "Don't co-operate_with 3.14 'quotes' I'm", "", "?!"]
    assert all(words(t) == re.findall("[a-z0-9]+", t.lower()) for t in texts if t.isascii())

    def before(a, b):  # as it was for English alone, with apostrophes inside words
        grams = [re.findall("[a-z0-9']+", t.lower()) for t in (a, b)]
        sets = [[set(g) for g in grams], [set(zip(g, g[1:], g[2:])) for g in grams]]
        return max(len(x & y) / len(x | y) if x | y else 0.0 for x, y in sets)

    texts = [t for t in texts[:120] if t.isascii()]
    assert all(similarity(a, b) == before(a, b) for a in texts for b in texts if a != b)


@pytest.mark.parametrize(
    "given, want",
    [
        ("Столица Франции — Париж.", ["столица", "франции", "париж"]),
        ("¿Qué río pasa por AQUÍ?", ["qué", "río", "pasa", "por", "aquí"]),
        (unicodedata.normalize("NFD", "Qué río, Größe"), ["qué", "río", "grösse"]),
        ("这是一个短句子。", list("这是一个短句子")),
        ("東京 Tokyo 2024年", ["東", "京", "tokyo", "2024", "年"]),
        ("ما هي عاصمة فرنسا؟", ["ما", "هي", "عاصمة", "فرنسا"]),
        ("कौन सी नदी बहती है?", ["कौन", "सी", "नदी", "बहती", "है"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("서울은 어디?", ["서울은", "어디"]),
        ("ＦＵＬＬ ｗｉｄｔｈ ﬁne", ["full", "width", "fine"]),
        ("in\u00advisible zero\u200bwidth snake_case", ["invisible", "zero", "width", "snake", "case"]),
        ("🙂 — …", []),
    ],
)
def test_words_of_any_script(given, want):
    assert [unicodedata.normalize("NFC", w) for w in words(given)] == want


def test_similarity_by_hand():
    assert data.similarity("a b c d", "a b c d") == 1 and data.similarity("a b", "c d") == 0
    assert data.similarity("the red cat sat", "the red dog sat") == pytest.approx(3 / 5)
    assert data.similarity("don't go", "dont go") == pytest.approx(1 / 3) == data.similarity("don’t go", "dont go")


@pytest.mark.parametrize(
    "a, near, far",
    [
        ("Какая река течёт здесь?", "какая река течёт здесь ?!", "Сколько стоит билет на поезд?"),
        ("这条河叫什么名字？", "这条河叫什么名字", "火车票多少钱"),
        ("ما اسم هذا النهر؟", "ما اسم هذا النهر", "كم سعر التذكرة؟"),
        ("Où coule la rivière ?", unicodedata.normalize("NFD", "où coule la RIVIÈRE"), "Combien coûte ce billet ?"),
    ],
)
def test_similarity_in_any_script(a, near, far):
    assert data.similarity(a, a) == 1 == data.similarity(a, near) and data.similarity(a, far) < 0.3
    assert data.similarity("🙂", "🙂") == 1 and data.similarity("🙂", "🙁") == 0


def test_words_are_counted_between_spaces_or_one_a_character():
    assert [text.count(x) for x in ("don't stop", "北京是首都。", "", "Это Рим.")] == [2, 5, 0, 2]
