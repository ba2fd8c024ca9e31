"""Asking a served model: a server of this process answers, is busy, breaks off and is asked again."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import limbeck as lb
from limbeck.cache import Server, ask_server, import_answers
from limbeck.data import sentences
from limbeck.errors import DataError, InputError
from small_stores import stream_of
from walk import over

PROMPT = "Is this film good? Answer yes or no.\n{text}"
KEY = "sk-very-secret"


class Served:
    """What the server was asked, and how it answers: a function of the question, (status, object) or bytes."""

    def __init__(self):
        self.questions, self.headers, self.answer, self.at_once, self.most = [], [], None, 0, 0


@pytest.fixture
def served():
    state, lock = Served(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.questions.append((self.path, question))
                state.headers.append(dict(self.headers))
                number = len(state.questions)
                state.at_once += 1
                state.most = max(state.most, state.at_once)
            status, content, *headers = state.answer(question, number)
            with lock:
                state.at_once -= 1
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *rest):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def films(folder, count=12):
    lines = [
        f"film {'abcdefghijklmnop'[n]} is {'good' if n % 2 else 'bad'},{'yes' if n % 2 else 'no'}" for n in range(count)
    ]
    (folder / "films.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return sentences(str(folder / "films.csv"), test_share=0.25).train


def reply(question, number=0):
    """A model that finds good films good with 0.7, and says so in two tokens."""
    good = "is good" in question["messages"][0]["content"]
    tops = [("Yes", 0.5), (" ye", 0.2), ("No", 0.1), ("maybe", 0.05)] if good else [("no", 0.8), ("hm", 0.1)]
    content = [{"token": tops[0][0], "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in tops]}]
    return 200, {"choices": [{"logprobs": {"content": content}}]}


def server_of(served, **more):
    return Server(served.url, "small", **{"pause": 0.01, "timeout": 5.0, **more})


def test_classes_of_texts_are_asked_for_and_become_a_teacher(served, tmp_path):
    samples, file = films(tmp_path), tmp_path / "answers.jsonl"
    served.answer = reply
    found = ask_server(server_of(served, key=KEY), samples, file, k=4, prompt=PROMPT, concurrency=3)
    assert (found.answers, found.before) == (len(samples), 0)
    assert 1 <= served.most <= 3
    path, question = served.questions[0]
    assert path == "/v1/chat/completions"
    assert (question["model"], question["top_logprobs"], question["logprobs"]) == ("small", 4, True)
    assert "film" in question["messages"][0]["content"]
    assert {each["Authorization"] for each in served.headers} == {f"Bearer {KEY}"}
    assert KEY not in file.read_text()
    teacher = import_answers(file, samples, tmp_path / "store")
    logits = teacher(samples.batch(torch.arange(len(samples)), augment=None, seed=0, view=0)).logits
    probabilities = logits.softmax(1)
    for row, label in zip(probabilities.tolist(), samples.labels.tolist(), strict=True):
        expected = [0.1 / 0.8, 0.7 / 0.8] if label else [0.8 / 0.9, 0.1 / 0.9]  # the class not listed has the least
        assert row == pytest.approx(expected, abs=1e-5)
    student = lb.models.transformer(samples.input_shape, 2, len(samples.vocabulary), samples.max_length,
                                    layers=1, width=8, heads=2)  # fmt: skip
    lb.fit(student, samples, teacher=teacher, method=lb.methods.kd(4.0), epochs=1)


def test_an_interrupted_call_goes_on_where_it_was(served, tmp_path):
    samples, file = films(tmp_path), tmp_path / "answers.jsonl"
    served.answer = lambda question, number: reply(question) if number <= 4 else (400, {"error": "too long"})
    with pytest.raises(DataError, match=r"refuses the question \(400 .*too long"):
        ask_server(server_of(served), samples, file, prompt=PROMPT, concurrency=1)
    assert len(file.read_text().splitlines()) == 4
    with file.open("a") as lines:
        lines.write('{"index": 5, "ids": [0')  # a line that was cut off by a kill
    served.answer, before = reply, len(served.questions)
    found = ask_server(server_of(served), samples, file, prompt=PROMPT)
    assert (found.answers, found.before) == (len(samples), 4)
    assert len(served.questions) - before == len(samples) - 4
    assert sorted(json.loads(line)["index"] for line in file.read_text().splitlines()) == sorted(samples.index.tolist())
    import_answers(file, samples, tmp_path / "store")
    with pytest.raises(DataError, match="line 1 answers another question"):
        ask_server(server_of(served), samples, file, prompt=PROMPT + "!")


@over(("status", "headers"), [(429, [("Retry-After", "0")]), (429, []), (503, [("Retry-After", "soon")]), (500, [])])
def test_a_busy_server_is_asked_again(served, tmp_path, status, headers):
    samples = films(tmp_path, 4)
    served.questions.clear()
    served.answer = lambda question, number: reply(question) if number > 2 else (status, {}, *headers)
    found = ask_server(server_of(served, tries=3), samples, tmp_path / "a.jsonl", prompt=PROMPT, concurrency=1)
    assert found.answers == len(samples)
    assert len(served.questions) == len(samples) + 2


@pytest.mark.thorough
@over(
    ("answer", "message"),
    [
        (lambda question, number: (503, {}), "gave no answer in 2 tries (503"),
        (lambda question, number: (200, b"{broken"), "gave no answer in 2 tries (JSONDecodeError"),
        (lambda question, number: (401, {"error": "who?"}), "set the environment variable that --key-env names"),
        (lambda question, number: (404, {}), "check the address, which ends in the version (/v1)"),
        (lambda question, number: (302, {}, ("Location", "http://127.0.0.1:1/")), "refuses the question (302"),
        (lambda question, number: (200, []), "answered no JSON object"),
        (lambda question, number: (200, {"choices": [{}]}), "the answer has no top_logprobs"),
        (
            lambda question, number: (
                200, {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "Hi", "logprob": -0.1}]}]}}]}),
            "the reply begins with 'Hi'; expected one of no, yes. Say so in the prompt",
        ),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_one_line_without_the_key(served, tmp_path, answer, message):
    served.answer = answer
    with pytest.raises(DataError) as caught:
        ask_server(server_of(served, tries=2, key=KEY), films(tmp_path, 4), tmp_path / "a.jsonl", prompt=PROMPT)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value) + repr(server_of(served, key=KEY))


def test_a_server_that_is_not_there_is_named(tmp_path):
    server = Server("http://127.0.0.1:9", "small", tries=1, timeout=1.0)
    with pytest.raises(DataError, match=r"gave no answer in 1 tries .*start the server"):
        ask_server(server, films(tmp_path, 4), tmp_path / "a.jsonl", prompt=PROMPT)


@over(
    ("settings", "message"),
    [
        ({}, "prompt: found None, expected the question, with {text}"),
        ({"prompt": "Is it good?"}, "prompt: found 'Is it good?'"),
        ({"prompt": PROMPT, "k": 21}, "k: found 21, expected at most 20"),
        ({"prompt": PROMPT, "names": ("yes",)}, "names: found 1, expected 2"),
        ({"prompt": PROMPT, "names": ("yes", "Yes")}, "expected a different word for each class"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, message):
    with pytest.raises(InputError) as caught:
        ask_server(Server("http://localhost:1/v1", "m"), films(tmp_path, 4), tmp_path / "a.jsonl", **settings)
    assert message in str(caught.value)


@over("url", ["localhost:8000", "ftp://localhost/v1", "", "http://"])
def test_addresses_that_are_none(url):
    with pytest.raises(InputError, match="url: found"):
        Server(url, "m")


def test_a_key_is_not_sent_in_the_clear():
    with pytest.raises(InputError, match="with a key, expected https"):
        Server("http://example.org/v1", "m", KEY)
    assert Server("https://example.org/v1", "m", KEY).key == KEY


@pytest.mark.miniature(1)
@pytest.mark.parametrize("echo", [False, True])
def test_tokens_of_texts_are_those_of_the_set(served, tmp_path, echo):
    samples, file = stream_of(25, lanes=2, length=6), tmp_path / "answers.jsonl"

    def answer(question, number):
        rows = [None, *({token: math.log(0.75), (token + 1) % 5: math.log(0.125)} for token in question["prompt"][1:])]
        if question.get("echo"):
            tops = [row and {f"token_id:{token}": value for token, value in row.items()} for row in rows]
            logprobs = {"tokens": [f"token_id:{token}" for token in question["prompt"]], "top_logprobs": tops}
            return 200, {"choices": [{"logprobs": logprobs}]}
        rows = [row and {str(token): {"logprob": value} for token, value in row.items()} for row in rows]
        return 200, {"choices": [{"prompt_logprobs": [*rows, {"0": {"logprob": -1.0}}]}]}  # the new token too

    served.answer = answer
    ask_server(server_of(served), samples, file, k=2, echo=echo)
    assert served.questions[0][0] == "/v1/completions"
    teacher = import_answers(file, samples, tmp_path / "store")
    batch = samples.batch(torch.arange(2), augment=None, seed=0, view=0)
    log_probs, _ = teacher(batch).sparse.at(1.0)
    ids = teacher(batch).sparse.ids
    assert torch.equal(ids[..., 0][batch.mask], batch.labels[batch.mask])
    assert torch.allclose(log_probs[..., 0][batch.mask].exp(), torch.tensor(0.75))


def test_the_command_asks_and_names_the_next(served, tmp_path, monkeypatch):
    from fuzzing import command

    films(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "name: r\ndata: {kind: sentences, path: films.csv, test_share: 0.25}\n"
        "student: {model: {kind: transformer}}\nvalidation: 2\n"
    )
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    served.answer = reply
    code, out, err = command("cache", "ask", "r.yaml", "--url", served.url, "--model", "m", "--prompt", PROMPT,
                             "--key-env", "MY_KEY")  # fmt: skip
    assert code == 0, err
    assert served.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "next: limbeck cache import answers.jsonl r.yaml" in out + err
    assert KEY not in out + err
    code, out, err = command("cache", "import", "answers.jsonl", "r.yaml")
    assert code == 0, err
