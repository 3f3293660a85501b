"""A stand-in of the Hugging Face Hub on 127.0.0.1: the read side of its protocol, for tests without a network.

    with LoopbackHub() as hub:
        hub.add_model("google/vit-base-patch16-224-in21k", folder)
        subprocess.run([sys.executable, "-c", code], env=hub.env(tmp_path / "home"), check=True)

huggingface_hub reads HF_ENDPOINT when it is imported, so clients run in a process of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".parquet", ".onnx", ".bin", ".jpg", ".jpeg", ".png", ".webp")
DATE = "2024-01-01T00:00:00.000Z"

_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs|commits)(?:/(.*))?)?")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/(?:resolve|raw)/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
# Settings of the outer process that would lead a client away from the stand-in.
_UNSET = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_ASSETS_CACHE",
    "HF_XET_CACHE",
    "HF_MODULES_CACHE",
)


class Request(NamedTuple):
    """One request as it came in; `path` includes the query, header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class _File:
    source: Path
    size: int
    blob: str  # git's object id
    sha256: str | None  # of files kept in LFS

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob


@dataclass
class _Repo:
    kind: str  # "models" or "datasets"
    repo_id: str
    files: dict[str, _File] = field(default_factory=dict)
    commit: str = ""

    def knows(self, revision: str) -> bool:
        return revision in ("main", "refs/heads/main", "HEAD", self.commit)

    def info(self) -> dict:
        more = {"modelId": self.repo_id, "pipeline_tag": "image-classification"} if self.kind == "models" else {}
        return {
            "_id": self.commit[:24],
            "id": self.repo_id,
            "author": self.repo_id.split("/")[0],
            "sha": self.commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "lastModified": DATE,
            "createdAt": DATE,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in self.files],
            **more,
        }

    def entry(self, path: str) -> dict | None:
        """What tree and paths-info say about one file or folder; None where there is neither."""
        if path in self.files:
            file = self.files[path]
            entry = {"type": "file", "oid": file.blob, "size": file.size, "path": path}
            if file.sha256:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
        elif any(name.startswith(path + "/") for name in self.files):
            entry = {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
        else:
            return None
        return entry | {"lastCommit": {"id": self.commit, "title": "Upload", "date": DATE}}

    def tree(self, path: str, recursive: bool) -> list[dict] | None:
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        paths = set()
        for name in self.files:
            if name.startswith(prefix):
                parts = name[len(prefix) :].split("/")
                depths = range(1, len(parts) + 1) if recursive else (1,)
                paths.update(prefix + "/".join(parts[:depth]) for depth in depths)
        if prefix and not paths:
            return None
        return [self.entry(path) for path in sorted(paths)]


def _read(kind: str, repo_id: str, folder: Path) -> _Repo:
    repo = _Repo(kind, repo_id)
    digest = hashlib.sha1(f"{kind}/{repo_id}".encode())
    for source in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = source.relative_to(folder).as_posix()
        size = source.stat().st_size
        git = hashlib.sha1(f"blob {size}\0".encode())
        sha = hashlib.sha256()
        with source.open("rb") as stream:
            while block := stream.read(1 << 20):
                git.update(block)
                sha.update(block)
        lfs = sha.hexdigest() if source.suffix.lower() in LFS_SUFFIXES or size > 10_000_000 else None
        repo.files[name] = _File(source, size, git.hexdigest(), lfs)
        digest.update(f"\0{name}\0{sha.hexdigest()}".encode())
    if not repo.files:
        raise ValueError(f"Expected files below {folder}, found none.")
    repo.commit = digest.hexdigest()
    return repo


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

    def _json(self, value) -> None:
        self._answer(200, json.dumps(value).encode())

    def _missing(self, code: str | None, message: str, **headers: str) -> None:
        if code:
            headers |= {"X_Error_Code": code, "X_Error_Message": message}
        self._answer(404, json.dumps({"error": message}).encode(), **headers)

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server.hub
        hub.requests.append(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if hub.stall:
            hub._closing.wait()
            self.close_connection = True
            return
        url = urlsplit(self.path)
        if match := _API.fullmatch(url.path):
            kind, repo_id, what, rest = match.groups()
            repo = self._repo(kind, repo_id)
            if repo is not None:
                self._api(repo, what, rest, parse_qs(url.query), parse_qs(body.decode("utf-8", "replace")))
        elif match := _RESOLVE.fullmatch(url.path):
            dataset, repo_id, revision, name = match.groups()
            repo = self._repo("datasets" if dataset else "models", repo_id)
            if repo is not None:
                self._file(repo, unquote(revision), unquote(name))
        elif url.path == "/api/whoami-v2":
            message = "Invalid user token."
            self._answer(401, json.dumps({"error": message}).encode(), X_Error_Message=message)
        else:
            self._missing(None, "Sorry, we can't find the page you are looking for.")

    do_GET = do_HEAD = do_POST = _any

    def _repo(self, kind: str, repo_id: str) -> _Repo | None:
        repo = self.server.hub._repos.get((kind, unquote(repo_id)))
        if repo is None:
            self._missing("RepoNotFound", "Repository not found")
        return repo

    def _api(self, repo: _Repo, what: str | None, rest: str | None, query: dict, form: dict) -> None:
        revision, _, path = (rest or "main").partition("/")
        revision, path = unquote(revision), unquote(path)
        if not repo.knows(revision):
            self._missing("RevisionNotFound", f"Invalid rev id: {revision}")
        elif what in (None, "revision"):
            self._json(repo.info())
        elif what == "tree":
            entries = repo.tree(path, query.get("recursive", [""])[0].lower() in ("true", "1"))
            if entries is None:
                self._missing("EntryNotFound", f"{path} does not exist on {revision!r}", X_Repo_Commit=repo.commit)
            else:
                self._json(entries)
        elif what == "paths-info":
            found = (repo.entry(path.strip("/")) for path in form.get("paths", []))
            self._json([entry for entry in found if entry is not None])
        elif what == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commit}
            self._json({"branches": [branch], "tags": [], "converts": []})
        else:
            commit = {"id": repo.commit, "title": "Upload", "message": "", "authors": [], "date": DATE}
            self._json([commit])

    def _file(self, repo: _Repo, revision: str, name: str) -> None:
        if not repo.knows(revision):
            self._missing("RevisionNotFound", f"Invalid rev id: {revision}")
            return
        file = repo.files.get(name)
        if file is None:
            self._missing("EntryNotFound", "Entry not found", X_Repo_Commit=repo.commit)
            return
        headers = {"ETag": f'"{file.etag}"', "X_Repo_Commit": repo.commit, "Accept_Ranges": "bytes"}
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


class LoopbackHub:
    """The server, running inside its `with` block on a port of its own.

    `requests` lists what was asked, in order. With `stall` (settable at any time) it accepts connections, reads
    requests and never answers until the block ends.
    """

    def __init__(self, stall: bool = False) -> None:
        self.stall = stall
        self.requests: list[Request] = []
        self._repos: dict[tuple[str, str], _Repo] = {}
        self._closing = threading.Event()
        self._server: _Server | None = None

    def __enter__(self) -> LoopbackHub:
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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add_model(self, repo_id: str, folder: str | Path) -> str:
        """Serve the files of `folder` as they are now; returns the commit. Adding again is a new commit."""
        return self._add("models", repo_id, folder)

    def add_dataset(self, repo_id: str, folder: str | Path) -> str:
        return self._add("datasets", repo_id, folder)

    def _add(self, kind: str, repo_id: str, folder: str | Path) -> str:
        repo = _read(kind, repo_id, Path(folder))
        self._repos[kind, repo_id] = repo
        return repo.commit

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
