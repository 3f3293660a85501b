"""Claiming a repository and uploading to it, against a Hub that refuses, stalls and breaks."""

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
case = json.loads(sys.argv[1])
for name, value in case.pop("settings").items():
    setattr(repository, name, value)
folder, own, start = case.pop("folder", None), case.pop("own", ()), time.monotonic()
result = {}
try:
    repo = repository.claim_repository(**case, command="COMMAND")
    result["repo"] = repo.repo_id
    if folder:
        files = {p.name: p for p in Path(folder).iterdir()}
        result["commit"] = repository.upload_files(repo, files, "message", "COMMAND", own)
except HubError as error:
    result["error"] = str(error)
print(json.dumps(result | {"seconds": time.monotonic() - start}))
"""


@pytest.fixture(scope="module")
def server():
    with LoopbackHub() as hub_:
        hub_.add_user("tester", "hf_write", "write", orgs={"lab": "write", "club": "read"})
        hub_.add_user("tester", "hf_read", "read")
        yield hub_


@pytest.fixture
def claim(server, tmp_path):
    """Claim a repository and upload `folder`: {"repo", "commit", "error", "seconds", "log"}."""

    def run(name, token="hf_write", env=None, settings=None, **case):
        variables = server.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0"} | ({"HF_TOKEN": token} if token else {})
        case |= {"name": name, "settings": settings or {}}
        command = [sys.executable, "-c", RUN, json.dumps(case, default=str)]
        done = subprocess.run(command, env=variables | (env or {}), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) | {"log": done.stderr}

    yield run
    server.heal()


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A\n")
    (folder / "model.safetensors").write_bytes(os.urandom(200_000))
    return folder


def test_claim_repository_creates_it_once_and_finds_it_again(server, claim):
    assert claim("first")["repo"] == "tester/first"
    assert claim("tester/first")["repo"] == "tester/first"
    assert claim("lab/second", private=True)["repo"] == "lab/second"
    assert (server.is_private("tester/first"), server.is_private("lab/second")) == (False, True)
    assert claim("tester/page", kind="space")["repo"] == "tester/page"
    assert server.files("tester/page", "spaces") == [".gitattributes"]


REFUSED = {
    "wrong token": ({"token": "hf_wrong"}, "Invalid token"),
    "no token": ({"token": None}, "Hub token, got none"),
    "a token with an accent": ({"token": "hf_é"}, "plain letters and digits"),
    "a read-only token": ({"token": "hf_read"}, "read-only"),
    "another's name": ({"name": "other/x"}, "of lab, tester"),
    "an organisation with read access only": ({"name": "club/x"}, "of lab, tester"),
    "offline": ({"env": {"HF_HUB_OFFLINE": "1"}}, "offline mode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_claim_repository_reports_a_refusal_at_once_with_the_command_to_repeat(claim, case):
    arguments, words = REFUSED[case]
    result = claim(**({"name": "x"} | arguments))
    assert words in result["error"]
    assert result["error"].endswith("Then: COMMAND")
    assert result["seconds"] < 5


def test_claim_repository_reports_a_server_that_is_down(claim):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        down = claim("x", env={"HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"})
    assert "no connection to http://127.0.0.1" in down["error"]


def test_claim_repository_reports_a_silent_server_within_its_time_limit(server, claim):
    server.fault("GET", "whoami", "stall")
    silent = claim("x", settings={"QUESTION_TIMEOUT_S": 1})
    assert "no answer within 1 s" in silent["error"]
    assert silent["seconds"] < 5


def test_claim_repository_reports_a_server_error(server, claim):
    server.fault("POST", "repos/create", 503)
    assert "a Hub server error (503). Try again in a few minutes." in claim("x")["error"]


def test_claim_repository_checks_write_access_to_one_that_exists(server, claim):
    assert claim("held")["repo"] == "tester/held"
    server.fault("GET", "auth-check/write", 403)
    assert "a refusal by the Hub (403)" in claim("held")["error"]
    server.heal()
    server.fault("GET", "auth-check/write", 404)  # a server that does not know this question
    assert claim("held")["repo"] == "tester/held"


def test_claim_repository_refuses_a_public_one_for_private(claim):
    claim("public")
    assert "exists and is public" in claim("public", private=True)["error"]


def test_claim_repository_takes_an_owner_in_another_case(claim):
    assert claim("LAB/cased")["repo"] == "lab/cased"


@pytest.mark.parametrize("name", ["a b", "a/b/c", "a--b", "x" * 97, "-a", ""])
def test_check_name_refuses_bad_names_without_a_request(name):
    with pytest.raises(HubError, match="Expected a name like owner/model"):
        repository.check_name(name)


def test_upload_files_sends_files_once(server, claim, files):
    before = len(server.uploaded)
    first = claim("sent", folder=files)
    assert server.read("tester/sent", "model.safetensors") == (files / "model.safetensors").read_bytes()
    again = claim("sent", folder=files)
    assert again["commit"] == first["commit"]
    assert server.commits("tester/sent") == ["initial commit", "message"]
    assert len(server.uploaded) == before + 1


@pytest.mark.parametrize(("status", "words"), [(403, "a refusal by the Hub (403)"), (401, "Invalid token")])
def test_upload_files_reports_a_refusal_and_succeeds_after_it(server, claim, files, status, words):
    server.fault("PUT", ".*", status)
    result = claim(f"refused-{status}", folder=files)
    assert words in result["error"]
    assert result["error"].endswith("Then: COMMAND")
    assert server.commits(f"tester/refused-{status}") == ["initial commit"]
    server.heal()
    assert claim(f"refused-{status}", folder=files)["commit"]


def test_upload_files_resumes_without_files_that_arrived(server, claim, files):
    server.fault("POST", "/commit/", 403)
    assert "403" in claim("half", folder=files)["error"]
    server.heal()
    before = len(server.uploaded)
    assert claim("half", folder=files)["commit"]
    assert len(server.uploaded) == before


def test_upload_files_survives_short_faults(server, claim, files):
    server.fault("PUT", ".*", "cut", times=1)
    server.fault("POST", "/commit/", 503, times=1)
    assert "commit" in claim("shaky", folder=files)


def test_upload_files_ends_a_stalled_upload_and_says_that_it_runs(server, claim, files):
    server.fault("PUT", ".*", "stall")
    result = claim("stalled", folder=files, settings={"UPLOAD_MIN_S": 3, "UPLOAD_BYTES_PER_S": 1e6, "PROGRESS_S": 1})
    assert "the upload did not finish within 3 s" in result["error"]
    assert result["error"].endswith("Then: COMMAND")
    assert "push: uploading for 1 s (at most 3 s)" in result["log"]
    assert result["seconds"] < 15
    server.heal()
    assert claim("stalled", folder=files)["commit"]


def test_upload_files_allows_time_in_proportion_to_the_bytes(server, claim, files):
    server.fault("PUT", ".*", "stall")
    result = claim("slow", folder=files, settings={"UPLOAD_MIN_S": 1, "UPLOAD_BYTES_PER_S": 100_000})
    assert "the upload did not finish within 3 s" in result["error"]  # 1 s, and 2 s for 200 kB


def test_upload_files_without_xet_on_the_server_uploads_without_it(server, claim, files):
    result = claim("plain", folder=files, env={"HF_HUB_DISABLE_XET": "0"})
    assert result["commit"]
    assert "uploading without it" in result["log"]


def test_upload_files_reports_a_card_that_the_hub_refuses(claim, files):
    (files / "README.md").write_text("---\nlicense: 3\n---\n")
    assert "license" in claim("card", folder=files)["error"]


def test_upload_files_deletes_what_an_earlier_push_left(server, claim, files):
    (files / "report.html").write_text("old")
    claim("again", folder=files)
    (files / "report.html").unlink()
    (files / "model.safetensors").write_bytes(b"new")
    claim("again", folder=files, own=["model", "report.html", "export/"])
    assert server.files("tester/again") == [".gitattributes", "README.md", "model.safetensors"]
    assert server.read("tester/again", "model.safetensors") == b"new"
    assert len(server.commits("tester/again")) == 3  # in one commit


def test_upload_files_refuses_a_file_with_the_token(server, claim, files):
    (files / "notes.md").write_text("python push.py --token hf_write")
    assert "without the Hub token" in claim("secret", folder=files)["error"]
    assert server.commits("tester/secret") == ["initial commit"]


def test_upload_files_ends_with_its_parent(server, tmp_path, files):
    variables = server.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_write"}
    server.fault("POST", "preupload", "stall")
    case = {"name": "gone", "folder": str(files), "settings": {}}
    parent = subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(case)], env=variables, stderr=subprocess.PIPE, text=True
    )
    while not any("preupload" in request.path for request in server.requests if "gone" in request.path):
        time.sleep(0.05)
    (child,) = psutil.Process(parent.pid).children()
    parent.terminate()
    parent.wait()
    child.wait(5)  # raises when it is still running
    parent.stderr.close()
    server.heal()
    assert server.commits("tester/gone") == ["initial commit"]


def test_upload_files_reports_an_upload_process_that_was_killed(server, tmp_path, files):
    variables = server.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_write"}
    server.fault("POST", "preupload", "stall")
    case = {"name": "killed", "folder": str(files), "settings": {}}
    parent = subprocess.Popen([sys.executable, "-c", RUN, json.dumps(case)], env=variables, stdout=-1, stderr=-3)
    while not any("preupload" in request.path for request in server.requests if "killed" in request.path):
        time.sleep(0.05)
    (child,) = psutil.Process(parent.pid).children()
    child.kill()
    result = json.loads(parent.communicate(timeout=30)[0])
    server.heal()
    assert "got UploadProcess: exit code -9" in result["error"]
    assert result["error"].endswith("Then: COMMAND")


@pytest.mark.nightly
def test_upload_files_reports_an_upload_that_is_cut_every_time(server, claim, files):
    server.fault("PUT", ".*", "cut")
    result = claim("cut", folder=files)
    assert "no connection" in result["error"]
    server.heal()
    assert claim("cut", folder=files)["commit"]
