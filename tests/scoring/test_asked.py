"""Oracles that are asked: each answer is written down as it comes, and nothing is asked, or paid for, twice."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from lib import data
from lib.scoring import asked
from lib.scoring.oracles import Oracle, is_free, rewarder

PAIRS = [("why?", "a"), ("why?", "b"), ("how?", "c")], [("why?", "b"), ("why?", "b"), ("how?", "d")]


def a_person(keys: str):
    keys, shown = iter(keys), []
    return asked.person(read=lambda text: next(keys), show=shown.append), shown


def test_a_person_answers_with_three_keys_and_is_not_asked_again(tmp_path):
    said, shown = a_person("x12")  # another key is asked again; equal answers are not asked at all
    file = tmp_path / "said.jsonl"
    margins = asked.pairwise(said, file)(*PAIRS)
    assert margins.sign().tolist() == [1, 0, -1] and len(shown) == 2 and "1: a" in shown[0]
    turned = asked.pairwise(a_person("")[0], file)(PAIRS[1], PAIRS[0])  # nobody there to answer
    assert torch.allclose(turned, -margins)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["prompt"], r["chosen"], r["rejected"], r["p"]) for r in rows] == [
        ("why?", "a", "b", 1.0),
        ("how?", "d", "c", 1.0),
    ]


def test_its_file_is_one_of_preferences(tmp_path):
    asked.pairwise(a_person("12")[0], tmp_path / "said.jsonl")(*PAIRS)
    (found,) = data.read_sets([str(tmp_path / "said.jsonl")], "pairs", tmp_path).values()
    assert [(c.chosen, c.rejected) for c in found.rows] == [("a", "b"), ("d", "c")]


def test_who_stops_goes_on_where_they_were(tmp_path):
    file = tmp_path / "said.jsonl"
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        asked.pairwise(a_person("1q")[0], file)(*PAIRS)
    said, shown = a_person("0")
    assert asked.pairwise(said, file)(*PAIRS).sign().tolist() == [1, 0, 0] and len(shown) == 1


def test_the_oracle_counts_pairs_and_shows_no_truth(tmp_path):
    reward = asked.pairwise(a_person("12")[0], tmp_path / "said.jsonl")
    oracle = Oracle(reward, labels="deterministic", flip=0.0, generator=torch.Generator().manual_seed(0))
    wins = oracle.compare(*PAIRS)
    assert wins[0] and not wins[2] and oracle.queries == 3
    assert not is_free(reward) and oracle.peek(*PAIRS) is None


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    file = tmp_path / "said.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a"}\n')
    with pytest.raises(ValueError, match="line 2 is no preference"):
        asked.pairwise(a_person("")[0], file)
    with pytest.raises(ValueError, match=r"in \[0, 1\], given 7"):
        asked.pairwise(lambda *x: 7, tmp_path / "other.jsonl")(*PAIRS)


@pytest.fixture
def serve():
    """A service that answers as told, one entry of the list a question: a probability, a status, or a text."""
    servers = []

    def start(answers):
        answers, questions, lock = iter(answers), [], threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    questions.append(body | {"key": self.headers.get("Authorization")})
                    answer = next(answers)
                status, text = (answer, "") if isinstance(answer, int) and answer > 1 else (200, answer)
                text = text if isinstance(text, str) else json.dumps({"first": text})
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/judge", questions

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_service_is_asked_a_pair_at_a_time_and_again_where_it_is_busy(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("ORACLE_KEY", "secret")
    url, questions = serve([429, 503, 0.9, 0.25])
    said = asked.service(url, pause=0.01)
    margins = asked.pairwise(said, tmp_path / "said.jsonl")(*PAIRS)
    assert torch.allclose(margins, torch.logit(torch.tensor([0.9, 0.5, 0.25], dtype=torch.float64)))
    assert len(questions) == 4 and questions[0] == {
        "prompt": "why?", "first": "a", "second": "b", "key": "Bearer secret"}  # fmt: skip


def test_what_was_answered_before_a_service_died_is_kept(serve, tmp_path):
    url, questions = serve([0.9, 400, 0.2])
    reward = asked.pairwise(asked.service(url, pause=0.01), tmp_path / "said.jsonl")
    with pytest.raises(ConnectionError, match="refuses: it answers 400"):
        reward(*PAIRS)
    assert reward(*PAIRS).sign().tolist() == [1, 0, -1] and len(questions) == 3


@pytest.mark.parametrize("answers, message", [([500] * 4, "no answer in 4 tries: it answers 500"),
    (["so so"], "has to answer"), ([True], "in .0, 1., given True|first")])  # fmt: skip
def test_bad_answers_are_one_sentence(serve, tmp_path, answers, message):
    url, _ = serve(answers)
    with pytest.raises((ConnectionError, ValueError), match=message):
        asked.pairwise(asked.service(url, pause=0.001), tmp_path / "said.jsonl")(*PAIRS)


def test_nobody_at_the_address():
    with pytest.raises(ConnectionError, match="nobody answers at the oracle's address http://127.0.0.1:9/"):
        asked.service("http://127.0.0.1:9/")("a", "b", "c")


def test_many_questions_go_out_together(tmp_path):
    at_once, most, lock = [0], [0], threading.Barrier(8)

    def said(prompt, first, second):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        lock.wait(timeout=10)  # passes only if eight are asked together
        return 1.0

    first, second = ([(str(i), a) for i in range(8)] for a in "ab")
    got = asked.pairwise(said, tmp_path / "said.jsonl", at_once=8)(first, second)
    assert (got > 0).all() and len((tmp_path / "said.jsonl").read_text().splitlines()) == 8


def test_rewarder_knows_them(sandbox):
    reward = rewarder("http://127.0.0.1:9/judge", dtype=torch.float32, device="cpu", batch=1)
    assert reward.pairwise and not is_free(reward) and asked.is_asked("person") and not asked.is_asked("full")
