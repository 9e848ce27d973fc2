import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lib import data, synthesis, taxonomy
from lib.engine.generation import generate
from lib.harness.paths import DATA
from lib.synthesis import judges, samplers, servers, teachers
from lib.synthesis.requests import Request, instruction
from lib.synthesis.servers import Patience

LEAVES = taxonomy.load(DATA / "taxonomy")


MALFORMED = {
    "html": b"<html>", "half": b'{"choices": [{"mess', "none": b'{"choices": []}', "null": b"null",
    "other": b'{"output": "x"}', "list": b'{"choices": [{"message": {"content": ["x"]}}]}',
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Speaks POST /v1/chat/completions; the script's next word says how: a status, a status and after how many seconds
    to come again, seconds to take, or a word."""

    def do_POST(self):
        body, server = json.loads(self.rfile.read(int(self.headers["Content-Length"]))), self.server
        if server.dead.is_set():  # hangs up on whoever still comes: a port that is closed may be another's at once
            return self.connection.close()
        with server.lock:
            server.got.append((self.path, body, self.headers.get("Authorization")))
            server.times.append(time.monotonic())
            server.headers |= dict(self.headers)
            how = server.script.pop(0) if server.script else server.otherwise
            server.now += 1
            server.most = max(server.most, server.now)
        how, again = how if isinstance(how, tuple) else (how, None)
        if how == "slow":
            server.released.wait(5)
        elif isinstance(how, float):
            time.sleep(how)
        with server.lock:
            server.now -= 1
        prompt = body["messages"][0]["content"]
        answer = {"choices": [{"message": {"content": "" if how == "empty" else server.teacher(prompt)}}]}
        if server.usage:
            answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
        data = MALFORMED.get(how) or json.dumps({"error": "no such model"} if isinstance(how, int) else answer).encode()
        try:
            self.send_response(how if isinstance(how, int) else 200)
            self.send_header("Content-Length", str(len(data)))
            if again is not None:
                self.send_header("Retry-After", str(again))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has gone
            pass

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # callers who wait to be let in


def serve():
    server = Server(("127.0.0.1", 0), Handler)
    server.got, server.times, server.script, server.headers, server.otherwise = [], [], [], {}, "echo"
    server.lock, server.released, server.now, server.most, server.usage = (
        threading.Lock(),
        threading.Event(),
        0,
        0,
        True,
    )
    server.teacher, server.dead = lambda prompt: prompt.upper(), threading.Event()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


def close(server):
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def server():
    server = serve()
    yield server
    close(server)


def chat(server, timeout=2.0, retries=2, at_once=16, per_minute=0, **settings):
    patience = Patience(timeout, retries, 0.01, at_once, per_minute)
    return servers.Chat(f"http://127.0.0.1:{server.server_port}/v1/", "small", seed=0, patience=patience, **settings)


REQUEST = Request(
    "a", "answer", "x", "Adding.", (samplers.Example("a", "What is 1 + 1?", "2", ""),), question="What is 2 + 2?"
)


def test_the_client_asks_a_real_server_over_http(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert list(chat(server)([REQUEST, REQUEST._replace(id="b")])) == [instruction(REQUEST).upper()] * 2
    (path, body, key), (_, other, _) = server.got
    assert (
        path == "/v1/chat/completions"
        and key is None
        and body["model"] == "small"
        and body["messages"][0]["role"] == "user"
    )
    assert body["seed"] != other["seed"] and body["temperature"] == 0.7 and body["max_tokens"] == 1024
    monkeypatch.setenv("MY_KEY", "abc")
    teacher = chat(server, key="MY_KEY")
    list(teacher([REQUEST]))
    assert server.got[-1][2] == "Bearer abc" and "abc" not in repr(vars(teacher))


def requests(n):
    return [REQUEST._replace(id=f"r{i}", question=f"What is {i} + 2?") for i in range(n)]


def want(asked):
    return [instruction(r).upper() for r in asked]


def test_sixteen_slow_answers_come_together_and_in_order(server):
    list(chat(server)(requests(1)))  # the client is imported
    server.otherwise, took = 0.25, []
    for k in range(3):
        asked, begun = [r._replace(id=f"{k} {r.id}") for r in requests(16)], time.monotonic()
        assert list(chat(server)(asked)) == want(asked)
        took.append(time.monotonic() - begun)
    # 0.4 s on a core of one's own, 4 s in a row; beside other tests a process may have to wait for its core
    assert min(took) < 1.5 and server.most == 16, took
    server.otherwise, server.most = 0.02, 0
    assert list(chat(server, at_once=3)(requests(9))) == want(requests(9)) and server.most == 3


def test_no_more_than_so_many_a_minute(server):
    list(chat(server, at_once=8, per_minute=1200)(requests(7)))
    assert server.times[-1] - server.times[0] > 0.25  # six gaps of 50 ms, as far apart as they were sent


def test_a_busy_server_is_given_the_time_it_asks_for(server):
    server.script[:] = [(429, 0.3)]
    teacher = chat(server, at_once=1)
    assert list(teacher(requests(3))) == want(requests(3))
    assert server.times[1] - server.times[0] >= 0.3 and teacher.spent.again == 1
    server.script[:] = [(429, 0.2), 503, (503, "a while")]
    assert list(chat(server, retries=3)(requests(1))) == want(requests(1))


def test_the_client_tries_again_and_gives_up_with_none(server):
    one = chat(server, at_once=1)
    server.script[:] = [503, 429, "echo"]
    assert list(one([REQUEST])) == [instruction(REQUEST).upper()] and len(server.got) == 3
    server.script[:] = [500, 500, 500, "empty", "echo"]
    asked = requests(3)
    assert list(one(asked)) == [None, None, want(asked)[2]]
    assert one.spent._replace(read=0, written=0) == (3, 0, 4, 2, 0, 0, None)
    server.script[:] = ["slow"]
    assert list(chat(server, retries=0, timeout=0.2)([REQUEST])) == [None]


@pytest.mark.parametrize("malformed", MALFORMED)
def test_an_answer_that_is_none_is_asked_for_again(server, malformed):
    server.script[:] = [malformed]
    assert list(chat(server)([REQUEST])) == [instruction(REQUEST).upper()] and len(server.got) == 2
    server.script[:] = [malformed] * 3
    with pytest.raises(ValueError, match="does not speak the OpenAI protocol: its answer has no .* asked 3 times"):
        list(chat(server)([REQUEST]))


def test_the_client_says_what_is_wrong(server, monkeypatch):
    server.script[:] = [400]
    with pytest.raises(ValueError, match=r"refused the request for 'small' \(400\): .*no such model") as e:
        list(chat(server)([REQUEST]))
    assert "\n" not in str(e.value)
    monkeypatch.setenv("MY_KEY", "secret-key")
    server.script[:] = [401]
    with pytest.raises(ValueError, match=r"\(401\): .*; a key is read from the environment variable MY_KEY") as e:
        list(chat(server, key="MY_KEY")([REQUEST]))
    assert "secret-key" not in str(e.value)
    nobody = servers.Chat("http://127.0.0.1:1/v1", "small", seed=0, patience=Patience(retries=1, pause=0.01))
    with pytest.raises(ConnectionError, match=r"no server answers at http://127.0.0.1:1/v1 .*asked 2 times"):
        list(nobody([REQUEST]))
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"needs the extra: pip install -e \"\.\[teachers\]\""):
        chat(server)([REQUEST])


def test_nothing_of_this_machine_is_said(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    list(chat(server)([REQUEST]))
    assert not [name for name in server.headers if name.lower().startswith("x-stainless") or name == "Authorization"]


def test_a_refusal_stops_the_rest_and_what_was_paid_for_is_kept(server, tmp_path):
    server.script[:] = ["echo", "echo", 400]
    teacher, asked, got = chat(server, at_once=1, keep=tmp_path / "a.sqlite"), requests(20), []
    with pytest.raises(ValueError, match="refused the request"):
        for text in teacher(asked):
            got.append(text)
    assert got == want(asked)[:2] and len(server.got) == 3
    again = chat(server, keep=tmp_path / "a.sqlite")
    assert list(again(asked)) == want(asked) and len(server.got) == 3 + 18
    assert (again.spent.asked, again.spent.known) == (18, 2)


def test_a_server_that_dies_halfway_is_not_paid_twice(tmp_path):
    first, asked, keep = serve(), requests(24), tmp_path / "answers.sqlite"
    first.otherwise = 0.03

    def dies(prompt):
        if len(first.got) > 8 and not first.dead.is_set():
            first.dead.set()
        return prompt.upper()

    first.teacher = dies
    teacher = chat(first, at_once=4, keep=keep)
    with pytest.raises(ConnectionError, match="no server answers at"):
        list(teacher(asked))
    first.shutdown()
    paid = teacher.spent.asked
    assert 8 <= paid < 24 and len(teacher.answers) == paid
    second = serve()
    try:
        again = chat(second, keep=keep)
        assert list(again(asked)) == want(asked)
        assert len(second.got) == 24 - paid == again.spent.asked and again.spent.known == paid
        assert list(chat(second, keep=keep)(asked)) == want(asked) and len(second.got) == 24 - paid
    finally:
        close(second)


def test_answers_are_known_by_all_that_was_asked(server, tmp_path):
    keep = tmp_path / "a.sqlite"
    list(chat(server, keep=keep)([REQUEST]))
    for other in (dict(temperature=0.1), dict(max_tokens=5)):
        list(chat(server, keep=keep, **other)([REQUEST]))
    list(chat(server, keep=keep)([REQUEST._replace(id="b")]))  # another seed: another draw
    assert len(server.got) == 4
    assert len(list(chat(server)([REQUEST] * 5))) == 5 and len(server.got) == 5  # equal requests are one


def test_tokens_and_prices_are_counted(server):
    teacher = chat(server)
    teacher.prices = (2.0, 8.0)
    list(teacher(requests(5)))
    assert teacher.spent == (5, 0, 0, 0, 50, 15, pytest.approx((50 * 2 + 15 * 8) / 1e6))
    assert str(teacher.spent).startswith("5 answers paid for, 0 known before") and "0.00022 in all" in str(
        teacher.spent
    )
    server.usage = False
    silent = chat(server)
    list(silent(requests(2)))
    assert silent.spent == (2, 0, 0, 0, 0, 0, None)


def test_who_stops_listening_pays_for_what_is_on_its_way_alone(server):
    server.otherwise = 0.05
    answers = chat(server, at_once=2)(requests(40))
    next(answers)
    answers.close()
    assert len(server.got) < 8


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match="a base URL begins with http:// or https://, given 'localhost:1'"):
        servers.Chat("localhost:1", "m", seed=0)
    with pytest.raises(ValueError, match="at least 1 request at a time"):
        servers.Chat("http://localhost:1", "m", seed=0, patience=Patience(at_once=0))


@pytest.mark.slow
def test_the_client_asks_transformers_serve(tmp_path, tiny_model, byte_tokenizer):
    """The server that ships with transformers, as a process of its own, with a model from a folder."""
    for package in ("uvicorn", "fastapi", "openai"):
        pytest.importorskip(package)
    tiny_model.set_attn_implementation("sdpa")
    tiny_model.save_pretrained(tmp_path / "model")
    byte_tokenizer.save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from transformers.cli.transformers import main; main()",
        "serve",
        str(tmp_path / "model"),
        "--host",
        "127.0.0.1",
    ]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"], stdout=log, stderr=subprocess.STDOUT
    )
    try:
        teacher = servers.Chat(
            f"http://127.0.0.1:{port}/v1",
            str(tmp_path / "model"),
            seed=0,
            temperature=0.0,
            max_tokens=12,
            patience=Patience(retries=8, pause=0.5),
            keep=tmp_path / "answers.sqlite",
        )
        got = list(teacher([REQUEST]))
        many = [REQUEST._replace(id=str(i), question=f"What is {i} + {i}?") for i in range(40)]
        teacher.patience, said = Patience(retries=0, pause=0.1, at_once=2), []
        with pytest.raises((ConnectionError, ValueError)):
            for text in teacher(many):
                said.append(text)
                if len(said) == 5:
                    server.kill()  # in the middle of its work
    finally:
        server.terminate()
        server.wait(20)
    assert 5 <= len(said) < 40 and teacher.spent.read > 0 and teacher.spent.written > 0
    before = teacher.spent.asked
    assert list(teacher(many[:5])) == said[:5] and teacher.spent.asked == before  # of the dead server, for nothing
    ids = data.chat(byte_tokenizer, [{"role": "user", "content": instruction(REQUEST)}])
    (want,) = generate(tiny_model, [ids], max_new_tokens=12, stop_ids=[257], batch=1)
    assert got == [byte_tokenizer.decode(want.tokens, skip_special_tokens=True)], (tmp_path / "log").read_text()[-2000:]


def test_a_served_teacher_goes_through_the_whole_pipeline(server, tmp_path):
    numbers = iter(range(1000))

    def reply(prompt):
        if prompt.startswith("Write"):
            return "Here they are:\n" + "\n".join(f"{i}. What is {next(numbers)} + {i}?" for i in (1, 2, 3))
        if prompt.startswith("Answer"):
            found = re.findall(r"What is (\d+) \+ (\d+)\?", prompt)[-1]
            return f"The sum is {sum(map(int, found)) + (int(found[1]) == 2)}."
        return "It is fine. Score: 1" if "belong to the task" in prompt else "I will not judge."

    server.teacher, teacher = reply, chat(server)
    leaf = next(leaf for leaf in LEAVES if leaf.checker == "sum")
    judge = {
        "question": judges.teacher_judge(teacher, "judge question", least=1),
        "pair": judges.oracle(LEAVES)["pair"],
    }
    sampler = samplers.leaf_local([leaf], calls=2, size=1, seed=0)
    result = synthesis.run(sampler, synthesis.skills(teacher, judge, questions=3), journal=tmp_path, desc="served")
    assert len(result.rows) == 4 and Counter(x["dropped"] for x in result.dropped) == {
        "pair judge: score (1, kept from 2)": 2
    }
    asked = len(server.got)
    again = synthesis.run(sampler, synthesis.skills(teacher, judge, questions=3), journal=tmp_path, desc="served")
    assert again == result and len(server.got) == asked


def test_a_pipeline_whose_server_dies_is_repeated_and_pays_for_the_rest_alone(tmp_path):
    """Whatever was answered, in whichever order, is found again: by the journal, or on the disk of the client."""

    def reply(prompt):
        if prompt.startswith("Write"):
            found = re.findall(r"Add (\d+) and (\d+)|What is (\d+) \+ (\d+)", prompt)
            base = sum(len(x) for pair in found for x in pair) + len(prompt)
            return "\n".join(f"{i}. What is {base} + {i}?" for i in (1, 2, 3))
        if prompt.startswith("Answer"):
            return str(sum(map(int, re.findall(r"What is (\d+) \+ (\d+)\?", prompt)[-1])))
        return "It is fine. Score: 3"

    leaves = [leaf for leaf in LEAVES if leaf.kind == "foundational"]
    amounts = synthesis.Amounts(calls=4, size=1, questions=3, contexts=1, words=80, pairs=1)

    def made(server, folder):
        teacher = chat(server, at_once=4, retries=0, keep=folder / "answers.sqlite")
        verdict = judges.teacher_judges(teacher)
        how = dict(seed=0, journal=folder / "journal", batch=8)
        return synthesis.synthesise(leaves, teacher, verdict, amounts, **how)["skills"]

    whole = serve()
    whole.teacher = reply
    want = made(whole, tmp_path / "whole")
    close(whole)

    first = serve()

    def dies(prompt):
        if len(first.got) > 30 and not first.dead.is_set():
            first.dead.set()
        return reply(prompt)

    first.teacher = dies
    with pytest.raises(RuntimeError, match="no server answers at .*; what it gave before is kept in .*: run again"):
        made(first, tmp_path / "halves")
    first.shutdown()
    second = serve()
    second.teacher = reply
    got = made(second, tmp_path / "halves")
    close(second)
    assert got.rows == want.rows and got.dropped == want.dropped and len(want.rows) > 20
    asked = lambda server: {json.dumps(body, sort_keys=True) for _, body, _ in server.got}  # noqa: E731
    assert asked(second) < asked(whole) and not asked(second) & asked(first) and asked(first)


def test_calls_asked_together_give_the_rows_of_calls_asked_in_turn():
    leaves = [leaf for leaf in LEAVES if leaf.kind != "knowledge"]
    teacher = teachers.load("templated", leaves, seed=0)
    judges_of, amounts = judges.teacher_judges(teacher), synthesis.Amounts(3, 1, 4, 2, 80, 3)
    how = dict(seed=0, journal=None)
    one, many = (synthesis.synthesise(leaves, teacher, judges_of, amounts, batch=n, **how) for n in (1, 16))
    assert {k: (r.rows, r.counts) for k, r in one.items()} == {k: (r.rows, r.counts) for k, r in many.items()}
