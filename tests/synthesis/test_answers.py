import multiprocessing

import pytest

from lib.synthesis.answers import Answer, Answers, key_of


def test_an_answer_is_found_by_what_was_asked(tmp_path):
    kept = Answers(tmp_path / "a" / "answers.sqlite")
    key = key_of({"model": "m", "messages": [{"content": "你好"}]})
    assert key == key_of({"messages": [{"content": "你好"}], "model": "m"}) != key_of({"model": "n"})
    assert kept.get(key) is None
    kept.put(key, Answer("ja, \n", 3, 4))
    assert Answers(tmp_path / "a" / "answers.sqlite").get(key) == ("ja, \n", 3, 4) and len(kept) == 1
    assert Answers(None).get(key) is None


def _write(path, kept, start):
    for i in range(start, start + 40):
        kept.put(f"{i}", Answer(str(i)))


def test_several_processes_share_a_file(tmp_path):
    kept = Answers(tmp_path / "answers.sqlite")
    kept.put("0", Answer("0"))
    fork = multiprocessing.get_context("fork")
    jobs = [fork.Process(target=_write, args=(kept.path, kept, start)) for start in (0, 20)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0] and len(kept) == 60
    assert all(kept.get(str(i)).text == str(i) for i in range(60))


def test_another_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "a").write_text("no answers" * 100)
    with pytest.raises(ValueError, match="a holds no answers that can be read .*; remove it, or name another"):
        Answers(tmp_path / "a").get("x")
