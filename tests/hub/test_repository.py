"""Rights looked at and files sent, against a Hub that refuses, stalls and breaks: each fault is one line, and soon."""

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
from loopback import LoopbackHub

from imgcls.errors import HubError
from imgcls.hub import repository

# huggingface_hub reads its settings when it is imported, so each case is a process of its own.
RUN = """
import json, logging, sys, time
from pathlib import Path
from imgcls.errors import HubError
from imgcls.hub import repository
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
order = json.loads(sys.argv[1])
repository.WAIT_S = order.pop("wait", repository.WAIT_S)
repository.STALLED_S = order.pop("stalled", repository.STALLED_S)
repository.SAY_S = order.pop("say", repository.SAY_S)
folder, own, start = order.pop("folder", None), order.pop("own", ()), time.monotonic()
found = {}
try:
    repo = repository.claim_repository(**order, again="COMMAND")
    found["repo"] = repo.repo_id
    if folder:
        files = {p.name: p for p in Path(folder).iterdir()}
        found["commit"] = repository.upload_files(repo, files, "message", "COMMAND", own)
except HubError as error:
    found["error"] = str(error)
print(json.dumps(found | {"seconds": time.monotonic() - start}))
"""


@pytest.fixture(scope="module")
def server():
    with LoopbackHub() as hub_:
        hub_.add_user("tester", "hf_write", "write", orgs={"lab": "write", "club": "read"})
        hub_.add_user("tester", "hf_read", "read")
        yield hub_


@pytest.fixture
def ask(server, tmp_path):
    """What claiming (and sending `folder`) gave: {"repo", "commit", "error", "seconds", "said"}."""

    def run(name, token="hf_write", env=None, **order):
        settings = server.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0"} | ({"HF_TOKEN": token} if token else {})
        command = [sys.executable, "-c", RUN, json.dumps(order | {"name": name}, default=str)]
        done = subprocess.run(command, env=settings | (env or {}), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) | {"said": done.stderr}

    yield run
    server.heal()


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A\n")
    (folder / "model.safetensors").write_bytes(os.urandom(200_000))
    return folder


def test_a_repository_is_made_once_and_found_again(server, ask):
    assert ask("first")["repo"] == "tester/first"
    assert ask("tester/first")["repo"] == "tester/first"
    assert ask("lab/second", private=True)["repo"] == "lab/second"
    assert (server.is_private("tester/first"), server.is_private("lab/second")) == (False, True)
    assert ask("tester/page", kind="space")["repo"] == "tester/page"
    assert server.files("tester/page", "spaces") == [".gitattributes"]


REFUSED = {
    "wrong token": ({"token": "hf_wrong"}, "Invalid token"),
    "no token": ({"token": None}, "Hub token, got none"),
    "a token with an accent": ({"token": "hf_é"}, "plain letters and digits"),
    "a token that reads only": ({"token": "hf_read"}, "may only read"),
    "another's name": ({"name": "other/x"}, "of lab, tester"),
    "an organisation where one only reads": ({"name": "club/x"}, "of lab, tester"),
    "offline": ({"env": {"HF_HUB_OFFLINE": "1"}}, "offline mode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said_at_once_with_the_command_that_goes_on(ask, case):
    order, words = REFUSED[case]
    found = ask(**({"name": "x"} | order))
    assert words in found["error"]
    assert found["error"].endswith("Then: COMMAND")
    assert found["seconds"] < 5


def test_a_server_that_is_down_or_silent_or_in_trouble(server, ask):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        down = ask("x", env={"HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"})
    assert "no connection to http://127.0.0.1" in down["error"]
    server.fault("GET", "whoami", "stall")
    silent = ask("x", wait=1)
    assert "no answer within 1 s" in silent["error"]
    assert silent["seconds"] < 5
    server.heal()
    server.fault("POST", "repos/create", 503)
    assert "a Hub in trouble (503)" in ask("x")["error"]


def test_a_repository_that_exists_may_still_not_be_ours(server, ask):
    assert ask("held")["repo"] == "tester/held"
    server.fault("GET", "auth-check/write", 403)
    assert "a refusal by the Hub (403)" in ask("held")["error"]
    server.heal()
    server.fault("GET", "auth-check/write", 404)  # a server of another make
    assert ask("held")["repo"] == "tester/held"


def test_what_is_public_is_not_taken_for_private(ask):
    ask("public")
    assert "exists and is public" in ask("public", private=True)["error"]


@pytest.mark.parametrize("name", ["a b", "a/b/c", "a--b", "x" * 97, "-a", ""])
def test_bad_names_need_no_request(name):
    with pytest.raises(HubError, match="Expected a name like owner/model"):
        repository.check_name(name)


def test_files_are_sent_once(server, ask, files):
    before = len(server.uploaded)
    first = ask("sent", folder=files)
    assert server.read("tester/sent", "model.safetensors") == (files / "model.safetensors").read_bytes()
    again = ask("sent", folder=files)
    assert again["commit"] == first["commit"]
    assert server.commits("tester/sent") == ["initial commit", "message"]
    assert len(server.uploaded) == before + 1


@pytest.mark.parametrize(("what", "words"), [(403, "a refusal by the Hub (403)"), (401, "Invalid token")])
def test_an_upload_that_is_refused_and_one_that_follows(server, ask, files, what, words):
    server.fault("PUT", ".*", what)
    found = ask(f"refused-{what}", folder=files)
    assert words in found["error"]
    assert found["error"].endswith("Then: COMMAND")
    assert server.commits(f"tester/refused-{what}") == ["initial commit"]
    server.heal()
    assert ask(f"refused-{what}", folder=files)["commit"]


def test_what_is_there_already_is_not_sent_again(server, ask, files):
    server.fault("POST", "/commit/", 403)
    assert "403" in ask("half", folder=files)["error"]
    server.heal()
    before = len(server.uploaded)
    assert ask("half", folder=files)["commit"]
    assert len(server.uploaded) == before


def test_short_troubles_are_ridden_out_and_told(server, ask, files):
    server.fault("PUT", ".*", "cut", times=1)
    server.fault("POST", "/commit/", 503, times=1)
    found = ask("shaky", folder=files)
    assert "commit" in found
    assert "trying again in 1s" in found["said"]
    assert "trying again in 2s" in found["said"]


def test_an_upload_that_stands_still_is_given_up(server, ask, files):
    server.fault("PUT", ".*", "stall")
    found = ask("stalled", folder=files, stalled=3, say=1)
    assert "nothing was sent for" in found["error"] or "are not there after" in found["error"]
    assert "push: 1 s" in found["said"]
    assert found["seconds"] < 15
    server.heal()
    assert ask("stalled", folder=files)["commit"]


def test_a_server_without_xet_gets_the_files_the_plain_way(server, ask, files):
    found = ask("plain", folder=files, env={"HF_HUB_DISABLE_XET": "0"})
    assert found["commit"]
    assert "the plain way" in found["said"]


def test_a_card_that_the_hub_refuses(ask, files):
    (files / "README.md").write_text("---\nlicense: 3\n---\n")
    found = ask("card", folder=files)
    assert "license" in found["error"]


def test_what_an_earlier_push_left_goes_with_the_next(server, ask, files):
    (files / "report.html").write_text("old")
    ask("again", folder=files)
    (files / "report.html").unlink()
    (files / "model.safetensors").write_bytes(b"new")
    ask("again", folder=files, own=["model", "report.html", "export/"])
    assert server.files("tester/again") == [".gitattributes", "README.md", "model.safetensors"]
    assert server.read("tester/again", "model.safetensors") == b"new"
    assert len(server.commits("tester/again")) == 3  # in one commit


def test_a_file_with_the_token_is_not_sent(server, ask, files):
    (files / "notes.md").write_text("python push.py --token hf_write")
    assert "without the Hub token" in ask("secret", folder=files)["error"]
    assert server.commits("tester/secret") == ["initial commit"]


def test_nothing_is_sent_once_whoever_asked_is_gone(server, tmp_path, files):
    ask_once = server.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_write"}
    server.fault("POST", "preupload", "stall")
    command = [sys.executable, "-c", RUN, json.dumps({"name": "gone", "folder": str(files)})]
    parent = subprocess.Popen(command, env=ask_once, stderr=subprocess.PIPE, text=True)
    while not any("preupload" in request.path for request in server.requests if "gone" in request.path):
        time.sleep(0.05)
    (child,) = psutil.Process(parent.pid).children()
    parent.terminate()
    parent.wait()
    child.wait(5)  # raises when it is still there
    parent.stderr.close()
    server.heal()
    assert server.commits("tester/gone") == ["initial commit"]


def test_an_owner_in_another_case(ask):
    assert ask("LAB/cased")["repo"] == "lab/cased"


@pytest.mark.slow
def test_an_upload_that_is_cut_every_time(server, ask, files):
    server.fault("PUT", ".*", "cut")
    found = ask("cut", folder=files)
    assert "no connection" in found["error"]
    server.heal()
    assert ask("cut", folder=files)["commit"]
