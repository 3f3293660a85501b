"""What the loopback Hub keeps: users with their rights, repositories with their commits."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from loopback_cards import card_problems

LFS_SUFFIXES = (".safetensors", ".parquet", ".onnx", ".bin", ".jpg", ".jpeg", ".png", ".webp")
LFS_BYTES = 10_000_000  # and every larger file
DATE = "2024-01-01T00:00:00.000Z"
PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


class Refused(Exception):
    """A request that the Hub turns down; `code` as in its X-Error-Code, `more` joins the answer's JSON."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None, **more) -> None:
        super().__init__(message)
        self.status, self.code, self.commit, self.more = status, code, commit, more


@dataclass(frozen=True)
class User:
    """role: of the token, "write", "read" or "fineGrained"; orgs: name -> role in it."""

    name: str
    role: str
    orgs: dict[str, str]

    def may_create(self, owner: str) -> bool:
        own = owner == self.name or self.orgs.get(owner) in ("admin", "write", "contributor")
        return own and self.role != "read"

    def may_write(self, repo: Repo) -> bool:
        # A contributor of an organisation writes to what is theirs in it.
        mine = self.orgs.get(repo.owner) != "contributor" or repo.creator == self.name
        return mine and self.may_create(repo.owner)

    def may_read(self, repo: Repo) -> bool:
        return repo.owner in (self.name, *self.orgs)

    def about(self) -> dict:
        """What whoami says."""
        token = {"displayName": f"{self.name}'s token", "role": self.role, "createdAt": DATE}
        if self.role == "fineGrained":
            entities = [("user", self.name), *(("org", name) for name in self.orgs)]
            scoped = [
                {"entity": {"type": kind, "name": name}, "permissions": ["repo.content.read", "repo.write"]}
                for kind, name in entities
                if self.may_create(name)
            ]
            token["fineGrained"] = {"canReadGatedRepos": True, "global": [], "scoped": scoped}
        return _account("user", self.name) | {
            "email": f"{self.name}@example.com",
            "emailVerified": True,
            "orgs": [_account("org", name) | {"roleInOrg": role} for name, role in self.orgs.items()],
            "auth": {"type": "access_token", "accessToken": token},
        }


def _account(kind: str, name: str) -> dict:
    return {"type": kind, "id": _id(name)[:24], "name": name, "fullname": name, "isPro": False, "avatarUrl": ""}


def _id(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@dataclass(frozen=True)
class File:
    source: Path
    size: int
    blob: str  # git's object id
    sha256: str | None  # of files in LFS

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob


@dataclass(frozen=True)
class Commit:
    """All files of a repository as they were after it."""

    oid: str
    title: str
    description: str
    files: dict[str, File]

    def about(self) -> dict:
        return {"id": self.oid, "title": self.title, "message": self.description, "authors": [], "date": DATE}

    def entry(self, path: str) -> dict | None:
        """What tree and paths-info say about one file or folder; None where there is neither."""
        if path in self.files:
            file = self.files[path]
            entry = {"type": "file", "oid": file.blob, "size": file.size, "path": path}
            if file.sha256:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
        elif any(name.startswith(path + "/") for name in self.files):
            entry = {"type": "directory", "oid": _id(path), "size": 0, "path": path}
        else:
            return None
        return entry | {"lastCommit": {"id": self.oid, "title": self.title, "date": DATE}}

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


@dataclass
class Repo:
    """kind: "models", "datasets" or "spaces". objects: LFS content by sha256; awaited: sizes of what may yet come."""

    kind: str
    repo_id: str
    private: bool = False
    creator: str | None = None
    sdk: str | None = None  # of spaces
    commits: list[Commit] = field(default_factory=list)  # newest last
    objects: dict[str, Path] = field(default_factory=dict)
    awaited: dict[str, int] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.repo_id.split("/")[0]

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        if revision in ("main", "refs/heads/main", "HEAD"):
            return self.head
        for commit in self.commits:
            if commit.oid == revision:
                return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def info(self, commit: Commit) -> dict:
        kinds = {
            "models": {"modelId": self.repo_id, "pipeline_tag": "image-classification"},
            "datasets": {},
            "spaces": {"sdk": self.sdk},
        }
        return {
            "_id": commit.oid[:24],
            "id": self.repo_id,
            "author": self.owner,
            "sha": commit.oid,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "lastModified": DATE,
            "createdAt": DATE,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in commit.files],
        } | kinds[self.kind]

    def add(self, title: str, files: dict[str, File], description: str = "") -> Commit:
        """A commit that leaves exactly these files."""
        parent = self.head.oid if self.commits else f"{self.kind}/{self.repo_id}"
        content = "".join(f"\0{name}\0{file.etag}" for name, file in sorted(files.items()))
        self.objects |= {file.sha256: file.source for file in files.values() if file.sha256}
        self.commits.append(Commit(_id(parent + title + content), title, description, dict(sorted(files.items()))))
        return self.head

    def changed(self, operations: Iterable[dict], blobs: Path) -> Commit:
        """A commit on top of the head; operations: the lines that the client sends. Nothing changes when one is wrong.

        blobs: the folder for content that comes with the lines.
        """
        header, files = {}, dict(self.head.files)
        for operation in operations:
            key, value = operation["key"], operation["value"]
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = self._regular(value["path"], base64.b64decode(value["content"]), blobs)
            elif key == "lfsFile":
                files[value["path"]] = self._object(value["oid"])
            elif key in ("deletedFile", "deletedFolder"):
                path = value["path"].rstrip("/")
                removed = [n for n in files if n == path or (key == "deletedFolder" and n.startswith(path + "/"))]
                if not removed:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for name in removed:
                    del files[name]
            else:
                raise Refused(400, f"Unknown operation: {key}")
        if header.get("parentCommit", self.head.oid) != self.head.oid:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        return self.add(header["summary"], files, header.get("description", ""))

    def _regular(self, path: str, content: bytes, blobs: Path) -> File:
        if path == "README.md":
            errors, _ = card_problems(content.decode("utf-8", "replace"), self.kind[:-1])
            if errors:
                raise Refused(400, "\n".join(errors))
        return _store(content, blobs)

    def _object(self, oid: str) -> File:
        if oid not in self.objects:
            raise Refused(400, f"LFS pointer pointed to a file that does not exist: {oid}")
        return read_file(self.objects[oid], lfs=True)


def stored_in_lfs(name: str, size: int) -> bool:
    return size > 0 and (name.lower().endswith(LFS_SUFFIXES) or size > LFS_BYTES)


def read_file(source: Path, lfs: bool) -> File:
    size = source.stat().st_size
    git, sha = hashlib.sha1(f"blob {size}\0".encode()), hashlib.sha256()
    with source.open("rb") as stream:
        while block := stream.read(1 << 20):
            git.update(block)
            sha.update(block)
    return File(source, size, git.hexdigest(), sha.hexdigest() if lfs else None)


def _store(content: bytes, blobs: Path) -> File:
    """A file whose content came within a commit."""
    path = blobs / hashlib.sha1(content).hexdigest()
    path.write_bytes(content)
    return read_file(path, lfs=False)


def new_repo(kind: str, repo_id: str, blobs: Path, **more) -> Repo:
    """A repository as the Hub makes it: with .gitattributes alone."""
    repo = Repo(kind, repo_id, **more)
    lines = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    repo.add("initial commit", {".gitattributes": _store(lines.encode(), blobs)})
    return repo


def read_repo(kind: str, repo_id: str, folder: Path) -> Repo:
    """A repository with one commit, of the files of a folder."""
    sources = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    if not sources:
        raise ValueError(f"Expected files below {folder}, found none.")
    repo = Repo(kind, repo_id)
    repo.add("Upload", {n: read_file(p, stored_in_lfs(n, p.stat().st_size)) for n, p in sources.items()})
    return repo
