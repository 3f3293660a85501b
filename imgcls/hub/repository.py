"""Repositories of the Hub: check write access before hours of training, upload files after it.

Every fault is a HubError of one line. The client limits neither a question nor an upload in time; here both are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from imgcls.errors import HubError, shorten
from imgcls.hub.hub_errors import Fault, fault_of, hub_error, then
from imgcls.storage import atomic_file
from imgcls.system import network

log = logging.getLogger(__name__)

QUESTION_TIMEOUT_S = 10  # for each question asked before anything is uploaded
UPLOAD_MIN_S = 120  # an upload is ended after this time,
UPLOAD_BYTES_PER_S = 50_000  # plus the time that its files take at this speed
XET_FAULTS = ("ConnectionError", "TimeoutError")  # with a server or firewall without xet; the client does not fall back
PROGRESS_S = 20  # between two messages about an upload that is still running
TEXT_SUFFIXES = (".json", ".html", ".md", ".txt", ".py")
WRITE_ROLES = ("admin", "write", "contributor")  # in an organisation
T = TypeVar("T")


@dataclass(frozen=True)
class Repo:
    """A repository with write access. kind: "model" or "space"."""

    repo_id: str
    kind: str = "model"
    token: str = field(default="", repr=False)
    private: bool = False

    @property
    def url(self) -> str:
        """Address of its page."""
        return f"{constants.ENDPOINT}/{'spaces/' if self.kind == 'space' else ''}{self.repo_id}"


def claim_repository(
    name: str, *, token: str | None = None, private: bool = False, kind: str = "model", command: str = ""
) -> Repo:
    """Find or create the repository `name` ("owner/name", or "name" in one's own account) and check write access.

    token: used instead of the saved login. command: the command to give once the cause of an error is removed. Each
    question to the Hub waits at most QUESTION_TIMEOUT_S seconds. Raises HubError.
    """
    check_name(name, command)
    token = _find_token(token, command)
    log.info("push: checking %s at %s", name, constants.ENDPOINT)
    api = HfApi(token=token)

    def ask(question: Callable[[], T], action: str) -> T:
        try:
            return network.call_with_timeout(QUESTION_TIMEOUT_S, question)
        except Exception as error:  # the client's errors have no common class
            raise hub_error(fault_of(error), f"to {action}", command) from error

    account = ask(api.whoami, "log in to the Hub")
    owner = _spell_owner(name.split("/")[0] if "/" in name else account["name"], account)
    repo_id = f"{owner}/{name.split('/')[-1]}"
    _check_account(account, owner, repo_id, command)
    sdk = "gradio" if kind == "space" else None
    ask(
        lambda: api.create_repo(repo_id, repo_type=kind, exist_ok=True, private=private or None, space_sdk=sdk),
        f"create {repo_id}",
    )
    ask(lambda: _check_write_access(api, repo_id, kind), f"write to {repo_id}")
    is_private = bool(ask(lambda: api.repo_info(repo_id, repo_type=kind), f"look at {repo_id}").private)
    if private and not is_private:
        raise HubError(
            f"Expected a private repository for --private, got {repo_id}, which exists and is public. Make it private "
            f"in its settings, or give another name.{then(command)}"
        )
    return Repo(repo_id, kind, token, is_private)


def check_name(name: str, command: str = "") -> None:
    """Raises HubError for a name that no repository can have. Makes no request."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(
            f"Expected a name like owner/model of letters, digits, '-', '_' and '.' (96 at most), got {name!r}. Give "
            f"one with --repo (push.py) or --hub_model_id (train.py).{then(command)}"
        ) from error


def upload_files(repo: Repo, files: Mapping[str, Path], message: str, command: str, own: Sequence[str] = ()) -> str:
    """Commit the files that the repository lacks, all or none; returns the id of the commit.

    files: path in the repository -> file. command: the command that resumes a failed upload; files that arrived are not
    sent again. own: prefixes of paths; files of the repository below them that are not among `files` are deleted.
    Raises HubError, also for a text that contains the token, and for an upload that takes longer than UPLOAD_MIN_S plus
    the time of its bytes at UPLOAD_BYTES_PER_S.
    """
    for name, file in files.items():
        if file.suffix in TEXT_SUFFIXES and repo.token.encode() in file.read_bytes():
            raise HubError(f"Expected {name} without the Hub token, got it in {file}. Remove it and push again.")
    size = sum(file.stat().st_size for file in files.values())
    log.info("push: uploading %d files (%s) to %s", len(files), atomic_file.format_bytes(size), repo.url)
    order = {
        "repo_id": repo.repo_id,
        "kind": repo.kind,
        "token": repo.token,
        "message": message,
        "files": {name: str(file) for name, file in files.items()},
        "own": list(own),
    }
    limit_s = UPLOAD_MIN_S + size / UPLOAD_BYTES_PER_S
    result = _run_upload(order, limit_s, use_xet=not constants.HF_HUB_DISABLE_XET)
    if not constants.HF_HUB_DISABLE_XET and isinstance(result, Fault) and result.kind in XET_FAULTS:
        log.info("push: the Hub's xet storage cannot be reached (%s); uploading without it", result.text[:80])
        result = _run_upload(order, limit_s, use_xet=False)
    if isinstance(result, Fault):
        raise hub_error(result, f"to push to {repo.repo_id}", command)
    return result


def _find_token(token: str | None, command: str) -> str:
    """The token to use. Raises HubError when there is none, or it cannot be one."""
    token = token or get_token()
    if not token:
        raise HubError(
            f"Expected a Hub token, got none. Make one with write access at {constants.ENDPOINT}/settings/tokens and "
            f"log in with `hf auth login`, or set HF_TOKEN.{then(command)}"
        )
    if not re.fullmatch(r"[!-~]+", token):  # else the client raises UnicodeEncodeError
        raise HubError(
            f"Expected a Hub token of plain letters and digits, got others in it. Copy it again.{then(command)}"
        )
    return token


def _spell_owner(owner: str, account: Mapping[str, Any]) -> str:
    """An owner as the Hub spells it: it accepts any case and answers with the true one."""
    names = {name.casefold(): name for name in (account["name"], *(org["name"] for org in account.get("orgs", [])))}
    return names.get(owner.casefold(), owner)


def _check_account(account: Mapping[str, Any], owner: str, repo_id: str, command: str) -> None:
    """Raises HubError when the token is read-only, or may not write for this owner. account: the answer of whoami."""
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(
            f"Expected a token with write access, got a read-only one of {account['name']}. Make another at "
            f"{constants.ENDPOINT}/settings/tokens and log in with `hf auth login`.{then(command)}"
        )
    roles = {org["name"]: org.get("roleInOrg", "write") for org in account.get("orgs", [])}
    writable = [account["name"], *(name for name, role in roles.items() if role in WRITE_ROLES)]
    if owner not in writable:
        raise HubError(
            f"Expected a repository of {shorten(writable)}, to which this token's owner may write, got {repo_id}."
            f"{then(command)}"
        )


def _check_write_access(api: HfApi, repo_id: str, kind: str) -> None:
    """Raises what the client raises when an existing repository may only be read."""
    try:
        api.auth_check(repo_id, repo_type=kind, write=True)
    except Exception as error:
        if fault_of(error).status != 404:  # a server that does not know this question
            raise


def _run_upload(order: Mapping[str, Any], limit_s: float, *, use_xet: bool) -> str | Fault:
    """Run `upload_process`: the id of its commit, or what went wrong. It is killed after `limit_s` seconds."""
    settings = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | ({} if use_xet else {"HF_HUB_DISABLE_XET": "1"})
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "imgcls.hub.upload_process"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            text=True,
            env=os.environ | settings,
        )
        try:
            is_done = _wait(child, json.dumps(order), limit_s)
        finally:
            child.kill()
            child.wait()
        if not is_done:
            return Fault("TimeoutError", None, f"the upload did not finish within {limit_s:.0f} s")
        try:
            answer = json.loads(_last_line(output))
        except ValueError:  # something killed it
            return Fault("UploadProcess", None, f"exit code {child.returncode} {_last_line(errors)}".rstrip())
    return answer["commit"] if "commit" in answer else Fault(**answer)


def _wait(child: subprocess.Popen[str], order: str, limit_s: float) -> bool:
    """Send the order and wait for the process; whether it ended in time. Logs a message every PROGRESS_S seconds."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:  # open until the end: the process stops when it is closed
        child.stdin.write(order + "\n")
        child.stdin.flush()
        start = time.monotonic()
        while (seconds := time.monotonic() - start) < limit_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(min(PROGRESS_S, limit_s - seconds))
                return True
            log.info("push: uploading for %.0f s (at most %.0f s)", time.monotonic() - start, limit_s)
        return False
    return True  # it ended before it read its order


def _last_line(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip().split("\n")[-1]
