"""A stand-in of the Hugging Face Hub on 127.0.0.1, both its read and its write side, for tests without a network.

    with LoopbackHub() as hub:
        hub.add_model("google/vit-base-patch16-224-in21k", folder)
        hub.add_user("tester", "hf_write")
        subprocess.run([sys.executable, "-c", code], env=hub.env(tmp_path / "home"), check=True)

huggingface_hub reads HF_ENDPOINT when it is imported, so clients run in a process of their own. Uploads go the plain
LFS way: the stand-in has no xet storage, no branches and no pull requests.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_cards import card_problems
from loopback_repos import PREFIXES, Refused, Repo, User, new_repo, read_repo, stored_in_lfs

_REPO = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
_PAGE = r"/(datasets/|spaces/)?([^/]+/[^/]+)"
_ROUTES = (  # methods, path, who answers
    ("GET", r"/api/whoami-v2", "_whoami"),
    ("POST", r"/api/repos/create", "_create"),
    ("POST", r"/api/validate-yaml", "_validate"),
    ("GET", _REPO + r"/auth-check(/write)?", "_auth_check"),
    ("POST", _REPO + r"/preupload/([^/]+)", "_preupload"),
    ("POST", _PAGE + r"\.git/info/lfs/objects/batch", "_batch"),
    ("PUT", r"/lfs/(models|datasets|spaces)/([^/]+/[^/]+)/([0-9a-f]{64})", "_object"),
    ("POST", _REPO + r"/commit/([^/]+)", "_commit"),
    ("GET HEAD", _REPO + r"(?:/revision/([^/]+))?", "_info"),
    ("GET HEAD", _REPO + r"/tree/([^/]+)(?:/(.*))?", "_tree"),
    ("POST", _REPO + r"/paths-info/([^/]+)", "_paths_info"),
    ("GET HEAD", _REPO + r"/refs", "_refs"),
    ("GET HEAD", _REPO + r"/commits/([^/]+)", "_commits"),
    ("GET HEAD", _PAGE + r"/(?:resolve|raw)/([^/]+)/(.+)", "_file"),
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
# Settings of the outer process that would lead a client away from the stand-in.
_UNSET = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ASSETS_CACHE",
    "HF_XET_CACHE", "HF_MODULES_CACHE",
)  # fmt: skip


class Request(NamedTuple):
    """One request as it came in; `path` includes the query, header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class Upload(NamedTuple):
    """One LFS object that arrived whole."""

    sha256: str
    size: int


@dataclass
class _Fault:
    method: str
    path: str
    what: str | int
    times: int | None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: LoopbackHub

    def handle_error(self, request, client_address) -> None:
        # A client that goes away in the middle of an answer is part of the tests.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args) -> None:
        pass

    def _any(self) -> None:
        hub = self.server.hub
        hub.requests.append(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        fault = hub._due(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        with tempfile.SpooledTemporaryFile(1 << 20, dir=hub._blobs) as self.body:
            whole = self._receive(length // 2 if fault == "cut" else length)
            if fault == "stall":
                hub._closing.wait()
            if fault in ("cut", "stall") or not whole:
                self.close_connection = True
                return
            try:
                if fault:
                    raise Refused(fault, HTTPStatus(fault).phrase)
                self._route()
            except Refused as refused:
                self._refuse(refused)

    do_GET = do_HEAD = do_POST = do_PUT = _any

    def _receive(self, left: int) -> bool:
        """Take in so many bytes of the request's body; False when the client went away before."""
        while left and (block := self.rfile.read(min(left, 1 << 20))):
            self.body.write(block)
            left -= len(block)
        self.body.seek(0)
        return not left

    def _route(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        for methods, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and self.command in methods.split():
                getattr(self, name)(*(unquote(part or "") for part in match.groups()))
                return
        raise Refused(404, "Sorry, we can't find the page you are looking for.")

    def _answer(self, status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> None:
        self._head(status, len(body), kind, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def _json(self, value, status: int = 200, **headers: str) -> None:
        self._answer(status, json.dumps(value).encode(), **headers)

    def _refuse(self, refused: Refused) -> None:
        # A header is one line of plain letters.
        headers = {"X_Error_Message": " ".join(str(refused).split()).encode("ascii", "replace").decode()}
        if refused.code:
            headers["X_Error_Code"] = refused.code
        if refused.commit:
            headers["X_Repo_Commit"] = refused.commit
        self._json({"error": str(refused)} | refused.more, refused.status, **headers)

    def _token(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def _signed_in(self, wrong: str = "Invalid credentials in Authorization header") -> User:
        """The user who asks. Refused(401) for a stranger, with the message `wrong` for an unknown token."""
        token = self._token()
        if token is None:
            raise Refused(401, "Invalid username or password.")
        if token not in self.server.hub._users:
            raise Refused(401, wrong)
        return self.server.hub._users[token]

    def _readable(self, kind: str, repo_id: str) -> Repo:
        hub = self.server.hub
        repo, user = hub._repos.get((kind, repo_id)), hub._users.get(self._token())
        if repo is None or (repo.private and not (user and user.may_read(repo))):
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repo

    def _writable(self, kind: str, repo_id: str) -> Repo:
        user = self._signed_in()
        repo = self._readable(kind, repo_id)
        if not user.may_write(repo):
            raise Refused(403, "Authorization error.")
        if "create_pr" in self.query:
            raise Refused(400, "This stand-in has no pull requests.")
        return repo

    def _whoami(self) -> None:
        self._json(self._signed_in("Invalid user token.").about())

    def _create(self) -> None:
        hub, user, body = self.server.hub, self._signed_in(), json.load(self.body)
        one = body.get("type") or "model"
        owner = body.get("organization") or user.name
        kind, repo_id, sdk = f"{one}s", f"{owner}/{body['name']}", body.get("sdk")
        if not user.may_create(owner):
            raise Refused(403, f'You don\'t have the rights to create a {one} under the namespace "{owner}"')
        if kind not in PREFIXES or (kind == "spaces") != (sdk is not None):
            raise Refused(400, f"Expected a model, a dataset or a space with its sdk, got {one} with sdk {sdk}")
        url = f"{hub.url}/{PREFIXES[kind]}{repo_id}"
        private = body.get("private") or body.get("visibility", "public") != "public"
        with hub._lock:
            if (kind, repo_id) in hub._repos:
                raise Refused(409, f"You already created this {one} repo", url=url)
            repo = new_repo(kind, repo_id, hub._blobs, private=private, creator=user.name, sdk=sdk)
            hub._repos[kind, repo_id] = repo
        self._json({"url": url, "name": repo_id, "id": repo_id, "private": private})

    def _validate(self) -> None:
        body = json.load(self.body)
        errors, warnings = card_problems(body["content"], body.get("repoType") or "model")
        status = 400 if errors else 200
        if "text/plain" in self.headers.get("Accept", ""):
            self._answer(status, "\n".join(f"- Error: {error}" for error in errors).encode(), "text/plain")
        else:
            messages = {"errors": errors, "warnings": warnings}
            self._json({key: [{"message": text} for text in texts] for key, texts in messages.items()}, status)

    def _auth_check(self, kind: str, repo_id: str, write: str) -> None:
        (self._writable if write else self._readable)(kind, repo_id)
        self._answer(200, b"OK", "text/plain")

    def _preupload(self, kind: str, repo_id: str, revision: str) -> None:
        commit = self._writable(kind, repo_id).at(revision)
        files = []
        for file in json.load(self.body)["files"]:
            mode = "lfs" if stored_in_lfs(file["path"], file["size"]) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
            if current := commit.files.get(file["path"]):
                files[-1]["oid"] = current.etag
        self._json({"commitOid": commit.oid, "files": files})

    def _batch(self, prefix: str, repo_id: str) -> None:
        kind = _KINDS[prefix]
        repo = self._writable(kind, repo_id)
        objects = []
        for entry in json.load(self.body)["objects"]:
            oid, size = entry["oid"], entry["size"]
            objects.append({"oid": oid, "size": size, "authenticated": True})
            if oid not in repo.objects:
                repo.awaited[oid] = size
                href = f"{self.server.hub.url}/lfs/{kind}/{repo_id}/{oid}"
                objects[-1]["actions"] = {"upload": {"href": href, "header": {}}}
        answer = {"transfer": "basic", "hash_algo": "sha256", "objects": objects}
        self._answer(200, json.dumps(answer).encode(), "application/vnd.git-lfs+json")

    def _object(self, kind: str, repo_id: str, oid: str) -> None:
        # As with a signed address, whoever knows it may write there.
        hub = self.server.hub
        repo = hub._repos.get((kind, repo_id))
        if repo is None or oid not in repo.awaited:
            raise Refused(403, "Nothing is awaited at this address.")
        arrived = Upload(hashlib.file_digest(self.body, "sha256").hexdigest(), self.body.tell())
        if arrived != (oid, repo.awaited[oid]):
            raise Refused(400, f"Expected {repo.awaited[oid]} bytes with sha256 {oid}, got {arrived}")
        self.body.seek(0)
        with hub._lock, (hub._blobs / oid).open("wb") as out:
            shutil.copyfileobj(self.body, out)
            repo.objects[oid] = hub._blobs / oid
            hub.uploaded.append(arrived)
        self._answer(200, ETag=f'"{oid}"')

    def _commit(self, kind: str, repo_id: str, revision: str) -> None:
        hub, repo = self.server.hub, self._writable(kind, repo_id)
        with hub._lock:
            if repo.at(revision) is not repo.head:
                raise Refused(400, f"Expected a branch, got {revision}")
            commit = repo.changed(map(json.loads, self.body), hub._blobs)
        url = f"{hub.url}/{PREFIXES[kind]}{repo_id}/commit/{commit.oid}"
        self._json({"success": True, "commitUrl": url, "commitOid": commit.oid, "hookOutput": ""})

    def _info(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self._readable(kind, repo_id)
        self._json(repo.info(repo.at(revision or "main")))

    def _tree(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        commit = self._readable(kind, repo_id).at(revision)
        entries = commit.tree(path, self.query.get("recursive", [""])[0].lower() in ("true", "1"))
        if entries is None:
            raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound", commit.oid)
        self._json(entries)

    def _paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        commit = self._readable(kind, repo_id).at(revision)
        form = parse_qs(self.body.read().decode())
        entries = (commit.entry(path.strip("/")) for path in form.get("paths", []))
        self._json([entry for entry in entries if entry is not None])

    def _refs(self, kind: str, repo_id: str) -> None:
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": self._readable(kind, repo_id).head.oid}
        self._json({"branches": [branch], "tags": [], "converts": []})

    def _commits(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self._readable(kind, repo_id)
        until = repo.commits.index(repo.at(revision))
        self._json([commit.about() for commit in reversed(repo.commits[: until + 1])])

    def _file(self, prefix: str, repo_id: str, revision: str, name: str) -> None:
        commit = self._readable(_KINDS[prefix], repo_id).at(revision)
        file = commit.files.get(name)
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound", commit.oid)
        headers = {"ETag": f'"{file.etag}"', "X_Repo_Commit": commit.oid, "Accept_Ranges": "bytes"}
        if file.sha256:
            headers |= {"X_Linked_Etag": f'"{file.sha256}"', "X_Linked_Size": str(file.size)}
        first, last, status = 0, file.size - 1, HTTPStatus.OK
        # A HEAD tells the size of the whole file.
        if self.command == "GET" and (match := _RANGE.fullmatch(self.headers.get("Range", ""))) and any(match.groups()):
            status = HTTPStatus.PARTIAL_CONTENT
            if match[1]:
                first, last = int(match[1]), min(int(match[2] or last), last)
            else:
                first = max(0, file.size - int(match[2]))
            if first > last:
                self._answer(416, Content_Range=f"bytes */{file.size}")
                return
            headers["Content_Range"] = f"bytes {first}-{last}/{file.size}"
        self._head(status, last - first + 1, "application/octet-stream", **headers)
        if self.command == "HEAD":
            return
        left = last - first + 1
        with file.source.open("rb") as stream:
            stream.seek(first)
            while left and (block := stream.read(min(left, 1 << 20))):
                self.wfile.write(block)
                left -= len(block)


_KINDS = {prefix: kind for kind, prefix in PREFIXES.items()}


class LoopbackHub:
    """The server, running inside its `with` block on a port of its own.

    `requests` lists them in order; `uploaded` the LFS objects that arrived whole. With `stall` (settable at
    any time) it accepts connections, reads requests and never answers until the block ends; `fault` does so, and worse,
    to some requests.
    """

    def __init__(self, stall: bool = False) -> None:
        self.stall = stall
        self.requests: list[Request] = []
        self.uploaded: list[Upload] = []
        self._users: dict[str, User] = {}
        self._repos: dict[tuple[str, str], Repo] = {}
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: _Server | None = None

    def __enter__(self) -> LoopbackHub:
        self._folder = tempfile.TemporaryDirectory(prefix="loopback-hub-", ignore_cleanup_errors=True)
        self._blobs = Path(self._folder.name)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add_model(self, repo_id: str, folder: str | Path) -> str:
        """Serve the files of `folder` as they are now; returns the commit. Adding again replaces the repository."""
        return self._add("models", repo_id, folder)

    def add_dataset(self, repo_id: str, folder: str | Path) -> str:
        return self._add("datasets", repo_id, folder)

    def _add(self, kind: str, repo_id: str, folder: str | Path) -> str:
        repo = read_repo(kind, repo_id, Path(folder))
        self._repos[kind, repo_id] = repo
        return repo.head.oid

    def add_user(
        self,
        name: str = "tester",
        token: str = "hf_write",
        role: str = "write",
        orgs: dict[str, str] | None = None,
    ) -> None:
        """Know a token. role: "write", "read" or "fineGrained"; orgs: organisation -> role in it, as whoami calls it:
        "admin", "write", "contributor" (creates repositories there, writes to these only) or "read".
        """
        self._users[token] = User(name, role, dict(orgs or {}))

    def fault(self, method: str, path: str, what: str | int, times: int | None = None) -> None:
        """Spoil requests whose method and path (with query) match these patterns; the first fault that matches counts.

        what: "cut" reads half of the request's body and closes the connection, "stall" reads it and never answers, a
        number is the status answered. times: how often, None is until `heal`.
        """
        if what not in ("cut", "stall") and not isinstance(what, int):
            raise ValueError(f'Expected "cut", "stall" or a status, got {what!r}.')
        self._faults.append(_Fault(method, path, what, times))

    def heal(self) -> None:
        """No faults any more; what stalls by now goes on doing so."""
        self.stall = False
        self._faults.clear()

    def _due(self, method: str, path: str) -> str | int | None:
        if self.stall:
            return "stall"
        with self._lock:
            for fault in self._faults:
                if fault.times != 0 and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    fault.times = fault.times and fault.times - 1
                    return fault.what
        return None

    def files(self, repo_id: str, kind: str = "models") -> list[str]:
        return list(self._repos[kind, repo_id].head.files)

    def read(self, repo_id: str, name: str, kind: str = "models") -> bytes:
        return self._repos[kind, repo_id].head.files[name].source.read_bytes()

    def is_private(self, repo_id: str, kind: str = "models") -> bool:
        return self._repos[kind, repo_id].private

    def commits(self, repo_id: str, kind: str = "models") -> list[str]:
        """The messages, oldest first."""
        return [commit.title for commit in self._repos[kind, repo_id].commits]

    def env(self, home: str | Path) -> dict[str, str]:
        """The environment for a client process: this server as the Hub, `home` as HF_HOME, no way around either."""
        env = {key: value for key, value in os.environ.items() if key not in _UNSET}
        return env | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


def parquet_repo(folder: str | Path, pictures: str | Path, splits: Iterable[str] = ("train",)) -> Path:
    """Turn a folder of class folders into a data set repository: data/<split>-….parquet with image and label."""
    from datasets import ClassLabel, Dataset, Features, Image

    folder, pictures = Path(folder), Path(pictures)
    names = sorted(p.name for p in pictures.iterdir() if p.is_dir())
    files = sorted(pictures.glob("*/*"))
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    splits = list(splits)
    for number, split in enumerate(splits):
        part = files[number :: len(splits)]
        rows = {
            "image": [{"bytes": p.read_bytes(), "path": p.name} for p in part],
            "label": [names.index(p.parent.name) for p in part],
        }
        table = io.BytesIO()
        Dataset.from_dict(rows, features=features).to_parquet(table)
        (folder / "data" / f"{split}-00000-of-00001.parquet").write_bytes(table.getvalue())
    return folder
