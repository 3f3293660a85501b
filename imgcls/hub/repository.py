"""Repositories of the Hub: may we write there, and files sent there; every fault in one line, within a minute."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypeVar

import psutil
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from imgcls.errors import HubError, shorten
from imgcls.hub import upload_process
from imgcls.storage import atomic_file
from imgcls.system import network

log = logging.getLogger(__name__)

WAIT_S = 10  # for each of the questions asked before anything is sent
SAY_S = 20  # an upload that goes on is spoken of so often
STALLED_S = 90  # an upload is given up when nothing has left this machine for so long,
SLOWEST = 50_000  # bytes a second, or when it takes longer than this speed and STALLED_S would
LEAST_BYTES = 20_000  # what other programs chatter meanwhile is no upload
TEXTS = (".json", ".html", ".md", ".txt", ".py")
WRITERS = ("admin", "write", "contributor")  # roles in an organisation
T = TypeVar("T")


@dataclass(frozen=True)
class Repo:
    """A repository that we may write to. kind: "model" or "space"."""

    repo_id: str
    kind: str = "model"
    token: str = field(default="", repr=False)
    private: bool = False

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{'spaces/' if self.kind == 'space' else ''}{self.repo_id}"


def claim_repository(
    name: str, *, token: str | None = None, private: bool = False, kind: str = "model", again: str = ""
) -> Repo:
    """Find or make the repository `name` ("owner/name", or "name" of one's own), and make sure that it can be written.

    token: instead of the saved login. again: the command that goes on once the cause is mended. Each question to the
    Hub waits WAIT_S seconds at most. Raises HubError, whose one line says what to do.
    """
    check_name(name, again)
    token = _token(token, again)
    log.info("push: asking %s about %s", constants.ENDPOINT, name)
    api = HfApi(token=token)

    def asked(question: Callable[[], T], what: str) -> T:
        try:
            return network.call_with_timeout(WAIT_S, question)
        except Exception as error:  # the client's errors have no common class
            raise HubError(in_words(upload_process.fault(error), f"to {what}", again)) from error

    me = asked(api.whoami, "log in to the Hub")
    owner = _spelled(name.split("/")[0] if "/" in name else me["name"], me)
    repo_id = f"{owner}/{name.split('/')[-1]}"
    _check_right(me, owner, repo_id, again)
    made = {"space_sdk": "gradio"} if kind == "space" else {}
    asked(
        lambda: api.create_repo(repo_id, repo_type=kind, exist_ok=True, private=private or None, **made),
        f"create {repo_id}",
    )
    asked(lambda: _check_write(api, repo_id, kind), f"write to {repo_id}")
    hidden = bool(asked(lambda: api.repo_info(repo_id, repo_type=kind), f"look at {repo_id}").private)
    if private and not hidden:
        raise HubError(
            f"Expected a private repository for --private, got {repo_id}, which exists and is public. Make it private "
            f"in its settings, or give another name.{_then(again)}"
        )
    return Repo(repo_id, kind, token, hidden)


def check_name(name: str, again: str = "") -> None:
    """Raises HubError for what cannot be the name of a repository. No request is made."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(
            f"Expected a name like owner/model of letters, digits, '-', '_' and '.' (96 at most), got {name!r}. Give "
            f"one with --repo (push.py) or --hub_model_id (train.py).{_then(again)}"
        ) from error


def upload_files(repo: Repo, files: Mapping[str, Path], message: str, again: str, own: Sequence[str] = ()) -> str:
    """Commit the files that the repository lacks, all or none; returns the commit's id.

    files: path in the repository -> file. again: the command that goes on; what arrived is not sent again. own: names
    of files, and of folders with a slash at their end, that go from the repository when they are not among the files.
    Says how far it is every SAY_S seconds. Raises HubError, also for a file that holds the token.
    """
    for name, file in files.items():
        if Path(file).suffix in TEXTS and repo.token.encode() in Path(file).read_bytes():
            raise HubError(f"Expected {name} without the Hub token, got it in {file}. Take it out and push again.")
    size = sum(Path(file).stat().st_size for file in files.values())
    log.info("push: %d files, %s, to %s", len(files), atomic_file.format_bytes(size), repo.url)
    order = {
        "repo_id": repo.repo_id, "kind": repo.kind, "token": repo.token, "message": message,
        "files": {name: str(file) for name, file in files.items()}, "own": list(own),
    }  # fmt: skip
    answer = _uploaded(order, plain=constants.HF_HUB_DISABLE_XET)
    if answer.get("fault") in ("ConnectionError", "Stalled") and not constants.HF_HUB_DISABLE_XET:
        # the client's way to its newer storage fails so on servers (and behind firewalls) that do not have it
        log.info("push: no way to the Hub's xet storage (%s); sending the files the plain way", answer["text"][:80])
        answer = _uploaded(order, plain=True)
    if "fault" in answer:
        raise HubError(in_words(answer, f"to push to {repo.repo_id}", again))
    return answer["commit"]


def _token(given: str | None, again: str) -> str:
    """The token to use. Raises HubError when there is none, or none that can be one."""
    token = given or get_token()
    if not token:
        raise HubError(
            f"Expected a Hub token, got none. Make one with write access at {constants.ENDPOINT}/settings/tokens and "
            f"log in with `hf auth login`, or set HF_TOKEN.{_then(again)}"
        )
    if not re.fullmatch(r"[!-~]+", token):  # else the client stops with a UnicodeEncodeError
        raise HubError(
            f"Expected a Hub token of plain letters and digits, got others in it. Copy it again.{_then(again)}"
        )
    return token


def _spelled(owner: str, me: Mapping) -> str:
    """An owner as the Hub spells it: it takes any case, and answers by the true one."""
    names = {name.casefold(): name for name in (me["name"], *(org["name"] for org in me.get("orgs", [])))}
    return names.get(owner.casefold(), owner)


def _check_right(me: Mapping, owner: str, repo_id: str, again: str) -> None:
    """Raises HubError when the token reads only, or the owner is somebody else. me: what whoami says."""
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(
            f"Expected a token with write access, got one of {me['name']} that may only read. Make another at "
            f"{constants.ENDPOINT}/settings/tokens and log in with `hf auth login`.{_then(again)}"
        )
    roles = {org["name"]: org.get("roleInOrg", "write") for org in me.get("orgs", [])}
    mine = [me["name"], *(name for name, role in roles.items() if role in WRITERS)]
    if owner not in mine:
        raise HubError(
            f"Expected a repository of {shorten(mine)}, to which this token's owner may write, got {repo_id}."
            f"{_then(again)}"
        )


def _check_write(api: HfApi, repo_id: str, kind: str) -> None:
    """Raises what the client raises when a repository that exists may only be read."""
    try:
        api.auth_check(repo_id, repo_type=kind, write=True)
    except Exception as error:
        if upload_process.fault(error)["status"] != 404:  # a server of another make, which does not know the question
            raise


def in_words(fault: Mapping, what: str, again: str) -> str:
    """A fault as one line. fault: see `upload_process.fault`. what: what was tried, "to ..."."""
    name, status, text = fault["fault"], fault["status"], fault["text"]
    login = f"Make a token with write access at {constants.ENDPOINT}/settings/tokens and log in with `hf auth login`."
    if status == 401:
        got, cure = "'Invalid token' as the Hub's answer", login
    elif status == 403:
        got, cure = "a refusal by the Hub (403)", f"The token may not do this. {login}"
    elif status == 404:
        got, cure = "'not found' as the Hub's answer", "Look whether the repository is still there."
    elif status == 429:
        got, cure = "'too many requests' (429)", "Wait some minutes."
    elif status is not None and status >= 500:
        got, cure = f"a Hub in trouble ({status})", "Wait a little."
    elif name == "OfflineModeIsEnabled":
        got, cure = "offline mode", "Unset HF_HUB_OFFLINE."
    elif name in ("TimeoutError", "Stalled"):
        got, cure = f"no answer from {constants.ENDPOINT}: {text}", "Look at the network."
    elif name in ("ConnectionError", "ConnectError", "ReadError", "RemoteProtocolError", "RuntimeError"):
        got, cure = f"no connection to {constants.ENDPOINT} ({text[:200]})", "Look at the network."
    else:
        got, cure = f"{name}: {text[:300]}", ""
    return f"Expected {what}, got {got}. {cure}".rstrip() + _then(again)


def _then(again: str) -> str:
    return f" Then: {again}" if again else ""


def _uploaded(order: Mapping, *, plain: bool) -> dict:
    """Run `upload_process` and watch it: its answer, or a fault called "Stalled" once nothing leaves this machine any
    more."""
    settings = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | ({"HF_HUB_DISABLE_XET": "1"} if plain else {})
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "imgcls.hub.upload_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | settings,
    )  # fmt: skip
    answer, errors = _Lines(child.stdout), _Lines(child.stderr)
    try:
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()  # and stays open: when it closes, nobody waits for the child any more
        stalled = _watch(child, sum(Path(file).stat().st_size for file in order["files"].values()))
    finally:
        child.kill()
        child.wait()
    if stalled:
        return {"fault": "Stalled", "status": None, "text": stalled}
    try:
        return json.loads(answer.all()[-1])
    except (IndexError, ValueError):  # something killed it
        last = "".join(errors.all()[-1:]).strip()
        return {"fault": "Ended", "status": None, "text": f"exit code {child.returncode} {last}".rstrip()}


def _watch(child: subprocess.Popen, size: int) -> str | None:
    """Wait for the child's end, saying how it goes; what is wrong when it stands still. size: bytes to send.

    The bytes that leave are counted for the whole machine, since the system does not tell a process's own: when there
    are none the upload surely stands still; that it moves, they do not prove.
    """
    start = last = said = time.monotonic()
    began = before = psutil.net_io_counters().bytes_sent
    while True:
        try:
            child.wait(0.2)
            return None
        except subprocess.TimeoutExpired:
            now, sent = time.monotonic(), psutil.net_io_counters().bytes_sent
        if sent - before >= LEAST_BYTES:
            before, last = sent, now
        if now - last > STALLED_S:
            return f"nothing was sent for {now - last:.0f} s"
        if now - start > STALLED_S + size / SLOWEST:
            return f"{atomic_file.format_bytes(size)} are not there after {now - start:.0f} s"
        if now - said > SAY_S:
            log.info("push: %.0f s, %s left this machine", now - start, atomic_file.format_bytes(sent - began))
            said = now


class _Lines(threading.Thread):
    """What a child writes, read as it comes; where it says that it tries again, that is passed on."""

    def __init__(self, stream: TextIO):
        super().__init__(daemon=True)
        self._stream, self._lines = stream, []
        self.start()

    def run(self) -> None:
        said = 0.0
        for line in self._stream:
            self._lines.append(line)
            again = re.search(r"Retrying in (\w+)", line)
            if again and time.monotonic() - said > 1:  # files that go side by side meet the same trouble
                log.warning("push: no good answer from the Hub; trying again in %s", again[1])
                said = time.monotonic()

    def all(self) -> list[str]:
        """All lines, once the stream has ended."""
        self.join()
        return self._lines
