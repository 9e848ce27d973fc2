import json
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lib import data, synthesis, taxonomy
from lib.engine.generation import generate
from lib.harness.paths import DATA
from lib.synthesis import judges, samplers, servers
from lib.synthesis.requests import Request, instruction
from lib.synthesis.servers import Patience

LEAVES = taxonomy.load(DATA / "taxonomy")


class Handler(BaseHTTPRequestHandler):
    """Speaks POST /v1/chat/completions; the script's next word says how."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, body, self.headers.get("Authorization")))
        how = self.server.script.pop(0) if self.server.script else "echo"
        if how == "slow":
            self.server.released.wait(5)
        prompt = body["messages"][0]["content"]
        answer = {"choices": [{"message": {"content": "" if how == "empty" else self.server.teacher(prompt)}}]}
        data = b"<html>" if how == "html" else json.dumps({"error": "no such model"} if how == 400 else answer).encode()
        try:
            self.send_response(how if isinstance(how, int) else 200)
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has gone
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.script, server.released, server.teacher = (
        [],
        [],
        threading.Event(),
        lambda prompt: prompt.upper(),
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def chat(server, timeout=2.0, retries=2, **settings):
    patience = Patience(timeout, retries, pause=0.01)
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


def test_the_client_tries_again_and_gives_up_with_none(server):
    server.script[:] = [503, 429, "echo"]
    assert list(chat(server)([REQUEST])) == [instruction(REQUEST).upper()] and len(server.got) == 3
    server.script[:] = [500, 500, 500, "empty", "echo"]
    assert list(chat(server)([REQUEST] * 3)) == [None, None, instruction(REQUEST).upper()]
    server.script[:] = ["slow"]
    assert list(chat(server, retries=0, timeout=0.2)([REQUEST])) == [None]


def test_the_client_says_what_is_wrong(server):
    server.script[:] = [400, "html"]
    with pytest.raises(ValueError, match=r"refused the request for 'small' \(400\): .*no such model"):
        list(chat(server)([REQUEST]))
    with pytest.raises(ValueError, match="does not speak the OpenAI protocol"):
        list(chat(server)([REQUEST]))
    nobody = servers.Chat("http://127.0.0.1:1/v1", "small", seed=0, patience=Patience(retries=1, pause=0.01))
    with pytest.raises(ConnectionError, match=r"no server answers at http://127.0.0.1:1/v1 .*asked 2 times"):
        list(nobody([REQUEST]))


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match="a base URL begins with http:// or https://, given 'localhost:1'"):
        servers.Chat("localhost:1", "m", seed=0)


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
        )
        got = list(teacher([REQUEST]))
    finally:
        server.terminate()
        server.wait(20)
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
