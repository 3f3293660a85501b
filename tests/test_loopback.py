"""The stand-ins that other tests rest on: the loopback Hub, the tiny checkpoints, the drawn pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from drawings import SHAPES, class_folders, photo
from loopback import LoopbackHub, parquet_repo
from PIL import Image
from safetensors import safe_open
from tiny import HUB_IDS, PARAMETERS, write


def client(hub: LoopbackHub, home, code: str, *arguments: str, timeout: float = 60, **settings: str) -> dict:
    """Run `code` in a fresh process whose Hub is `hub`; it prints one JSON value as its last line.

    settings: more variables of its environment.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, *arguments],
        env=hub.env(home) | settings,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with LoopbackHub() as hub:
        for name, repo_id in HUB_IDS.items():
            hub.add_model(repo_id, write(name, root / name))
        pictures = class_folders(root / "pictures", per_class=4)
        hub.add_dataset("tester/shapes", parquet_repo(root / "shapes", pictures, ("train", "test")))
        hub.add_dataset("tester/folders", pictures)
        yield hub


LOAD_ALL = """
import json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
pictures = [Image.open(p).convert("RGB") for p in sys.argv[2:]]
result = {}
for repo_id in json.loads(sys.argv[1]):
    processor = AutoImageProcessor.from_pretrained(repo_id)
    model, info = AutoModelForImageClassification.from_pretrained(
        repo_id, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
    )
    model.eval()
    pixels = torch.cat([processor(p, return_tensors="pt")["pixel_values"] for p in pictures])
    with torch.no_grad():
        features = model(pixels).logits
    result[repo_id] = {
        "class": type(model).__name__,
        "processor": type(processor).__name__,
        "shape": list(pixels.shape),
        "logits": list(features.shape),
        "spread": float((features[0] - features[1]).norm() / features.norm(dim=1).mean()),
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(k[0] for k in info["mismatched_keys"]),
    }
print()
print(json.dumps(result))
"""


@pytest.mark.nightly
def test_loopback_hub_serves_all_eight_checkpoints_as_their_repositories(hub, tmp_path):
    photos = []
    for seed in (1, 2):
        photos.append(str(tmp_path / f"{seed}.png"))
        photo(300, 240, seed).save(photos[-1])
    loaded = client(hub, tmp_path / "home", LOAD_ALL, json.dumps(list(HUB_IDS.values())), *photos)
    expected = {
        "vit-base": ("ViTForImageClassification", "ViTImageProcessor", "classifier"),
        "vit-large": ("ViTForImageClassification", "ViTImageProcessor", "classifier"),
        "vit-small-msn": ("ViTMSNForImageClassification", "ViTImageProcessor", "classifier"),
        "resnet-18": ("ResNetForImageClassification", "ConvNextImageProcessor", "classifier.1"),
        "resnet-50": ("ResNetForImageClassification", "ConvNextImageProcessor", "classifier.1"),
        "resnet-101": ("ResNetForImageClassification", "ConvNextImageProcessor", "classifier.1"),
        "efficientnet-b0": ("EfficientNetForImageClassification", "EfficientNetImageProcessor", "classifier"),
        "mobilenetv3-small": (
            "TimmWrapperForImageClassification",
            "TimmWrapperImageProcessor",
            "timm_model.classifier",
        ),
    }
    for name, (model, processor, head) in expected.items():
        got = loaded[HUB_IDS[name]]
        assert (got["class"], got["processor"]) == (model, processor)
        assert got["shape"] == [2, 3, 224, 224]
        assert got["logits"] == [2, 5]
        assert got["spread"] > 0.02, name
        keys = [f"{head}.bias", f"{head}.weight"]
        pooler = ["pooler.dense.bias", "pooler.dense.weight"] if name in ("vit-base", "vit-large") else []
        assert got["unexpected"] == pooler
        old_head = not name.startswith("vit")
        assert (got["mismatched"], got["missing"]) == ((keys, []) if old_head else ([], keys)), name


HUB_CALLS = """
import json
from huggingface_hub import (
    HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, model_info, snapshot_download,
)
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from pathlib import Path

ID = "microsoft/resnet-18"
result = {"sha": model_info(ID).sha}
folder = snapshot_download(ID, allow_patterns=["*.json"])
result["snapshot"] = sorted(p.name for p in Path(folder).iterdir())
url = hf_hub_url(ID, "model.safetensors")
metadata = get_hf_file_metadata(url, timeout=3)
result["metadata"] = [metadata.size, metadata.commit_hash, metadata.etag]
result["files"] = sorted(HfApi().list_repo_files(ID))
result["paths"] = [f.path for f in HfApi().get_paths_info(ID, ["config.json", "nothing"])]
weights = hf_hub_download(ID, "model.safetensors", revision=result["sha"])
result["bytes"] = Path(weights).stat().st_size
calls = {
    "repo": lambda: model_info("tester/nothing"),
    "repo snapshot": lambda: snapshot_download("tester/nothing"),
    "repo file": lambda: get_hf_file_metadata(hf_hub_url("tester/nothing", "config.json"), timeout=3),
    "entry": lambda: hf_hub_download(ID, "nothing.json"),
    "revision": lambda: model_info(ID, revision="v9"),
    "revision file": lambda: hf_hub_download(ID, "config.json", revision="v9"),
}
for name, call in calls.items():
    try:
        call()
    except (RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        result[name] = type(error).__name__
print(json.dumps(result))
"""


def test_loopback_hub_answers_calls_and_raises_the_errors_of_the_hub(hub, tmp_path):
    got = client(hub, tmp_path / "home", HUB_CALLS)
    assert got["snapshot"] == ["config.json", "preprocessor_config.json"]
    assert got["files"] == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert got["paths"] == ["config.json"]
    size, commit, etag = got["metadata"]
    assert (size, commit) == (got["bytes"], got["sha"])
    assert len(etag) == 64  # LFS: a sha256
    assert got["repo"] == got["repo snapshot"] == got["repo file"] == "RepositoryNotFoundError"
    assert got["entry"] == "RemoteEntryNotFoundError"
    assert got["revision"] == got["revision file"] == "RevisionNotFoundError"
    assert any(r.method == "HEAD" and r.path.endswith("/model.safetensors") for r in hub.requests)


LOAD_SETS = """
import json
from datasets import load_dataset
result = {}
for repo_id in ("tester/shapes", "tester/folders"):
    for split, rows in load_dataset(repo_id).items():
        image = rows[0]["image"]
        result[f"{repo_id}:{split}"] = [len(rows), rows.features["label"].names, list(image.size), rows[0]["label"]]
print()
print(json.dumps(result))
"""


def test_loopback_hub_serves_data_sets_as_parquet_and_image_folders(hub, tmp_path):
    names = ["circle", "cross", "square"]
    assert client(hub, tmp_path / "home", LOAD_SETS) == {
        "tester/shapes:train": [6, names, [80, 60], 0],
        "tester/shapes:test": [6, names, [80, 60], 0],
        "tester/folders:train": [12, names, [80, 60], 0],
    }


def test_loopback_hub_answers_ranges_and_unknown_pages(hub):
    url = f"{hub.url}/microsoft/resnet-18/resolve/main/config.json"
    with urllib.request.urlopen(url) as answer:
        whole = answer.read()
    for header, expected in (("bytes=5-9", whole[5:10]), ("bytes=-7", whole[-7:]), ("bytes=20-", whole[20:])):
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": header})) as answer:
            assert answer.status == 206
            assert answer.read() == expected
    for path, status, header in ((url, 416, f"bytes={len(whole)}-"), (f"{hub.url}/nothing", 404, "")):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(urllib.request.Request(path, headers={"Range": header}))
        assert error.value.code == status
        error.value.close()


def test_loopback_hub_with_stall_accepts_and_never_answers():
    began = time.monotonic()
    with LoopbackHub(stall=True) as hub, pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{hub.url}/api/models/tester/any", timeout=0.5)
    assert [r.path for r in hub.requests] == ["/api/models/tester/any"]
    assert 0.5 <= time.monotonic() - began < 5


@pytest.fixture
def own_hub():
    """A Hub to write to, with two members of `lab` and a token that may only read."""
    with LoopbackHub() as hub:
        hub.add_user("tester", "hf_write", orgs={"lab": "contributor", "club": "read"})
        hub.add_user("tester", "hf_read", role="read")
        hub.add_user("chief", "hf_chief", role="fineGrained", orgs={"lab": "admin"})
        yield hub


CARD = "---\nlicense: apache-2.0\ntags: [shapes]\n---\n# Shapes\n"


@pytest.fixture
def folder(tmp_path):
    """Something to push: two files for LFS, one of them in a folder, an empty one and two texts."""
    folder = tmp_path / "push"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"número": 1}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(random.Random(0).randbytes(3_000_000))
    (folder / "sub" / "one.bin").write_bytes(b"1" * 1000)
    (folder / "empty.bin").touch()
    return folder


PUSH = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download

def content(folder):
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".gitattributes")
    return {p.relative_to(folder).as_posix(): p.read_bytes().hex() for p in files if ".cache" not in p.parts}

api, folder, result = HfApi(), sys.argv[1], {}
for kind, more in (("model", {}), ("dataset", {}), ("space", {"space_sdk": "gradio"})):
    url = api.create_repo("lab/shapes", repo_type=kind, **more)
    assert api.create_repo("lab/shapes", repo_type=kind, exist_ok=True, **more) == url, url
    api.auth_check("lab/shapes", repo_type=kind, write=True)
    target = {"repo_id": "lab/shapes", "repo_type": kind}
    first = api.upload_folder(folder_path=folder, commit_message="All", **target)
    again = api.upload_folder(folder_path=folder, commit_message="All again", **target)
    there = snapshot_download(**target, local_dir=f"{sys.argv[2]}/{kind}")
    last = api.create_commit(
        operations=[
            CommitOperationAdd("config.json", b"{}"),
            CommitOperationAdd("more.onnx", b"more"),
            CommitOperationDelete("sub/"),
            CommitOperationDelete("empty.bin"),
        ],
        commit_message="Less", parent_commit=first.oid, **target,
    )
    info = api.repo_info(**target)
    old = snapshot_download(**target, revision=first.oid, local_dir=f"{sys.argv[2]}/{kind}-old")
    result[kind] = {
        "url": str(url),
        "equal": content(folder) == content(there) == content(old),
        "oids": [first.oid == again.oid, first.oid == last.oid, last.oid == info.sha],
        "siblings": sorted(f.rfilename for f in info.siblings),
        "history": [c.title for c in api.list_repo_commits(**target)],
        "sdk": getattr(info, "sdk", None),
    }
print(json.dumps(result))
"""


def test_loopback_hub_returns_a_push_and_receives_nothing_twice(own_hub, folder, tmp_path):
    got = client(own_hub, tmp_path / "home", PUSH, str(folder), str(tmp_path / "back"), HF_TOKEN="hf_chief")
    files = [".gitattributes", "README.md", "config.json", "model.safetensors", "more.onnx"]
    for kind, page in (("model", ""), ("dataset", "datasets/"), ("space", "spaces/")):
        assert got[kind] == {
            "url": f"{own_hub.url}/{page}lab/shapes",
            "equal": True,
            "oids": [True, False, True],
            "siblings": files,
            "history": ["Less", "All", "initial commit"],
            "sdk": "gradio" if kind == "space" else None,
        }
        assert own_hub.files("lab/shapes", f"{kind}s") == files
        assert own_hub.commits("lab/shapes", f"{kind}s") == ["initial commit", "All", "Less"]
        assert own_hub.read("lab/shapes", "config.json", f"{kind}s") == b"{}"
        assert not own_hub.is_private("lab/shapes", f"{kind}s")
    sizes = [upload.size for upload in own_hub.uploaded]
    assert [sorted(sizes[n : n + 2]) + sizes[n + 2 : n + 3] for n in (0, 3, 6)] == [[1000, 3_000_000, 4]] * 3
    weights = (folder / "model.safetensors").read_bytes()
    assert own_hub.read("lab/shapes", "model.safetensors") == weights
    assert hashlib.sha256(weights).hexdigest() in {upload.sha256 for upload in own_hub.uploaded}


RIGHTS = """
import json
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

def tried(call):
    try:
        return call() or "done"
    except Exception as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, getattr(response, "status_code", None), str(error)]

chief, writer, reader, wrong, nobody = (
    HfApi(token=token) for token in ("hf_chief", "hf_write", "hf_read", "hf_wrong", False)
)

def commit(api, repo_id, *operations, **more):
    operations = operations or [CommitOperationAdd("a.txt", b"a")]
    return tried(lambda: api.create_commit(repo_id, operations, commit_message="m", **more).oid)

result = {
    "whoami": writer.whoami(),
    "fine": chief.whoami()["auth"]["accessToken"],
    "role": reader.whoami()["auth"]["accessToken"]["role"],
    "wrong": tried(wrong.whoami),
    "create own": tried(lambda: str(writer.create_repo("mine"))),
    "create twice": tried(lambda: writer.create_repo("mine")),
    "create in the organisation": tried(lambda: str(writer.create_repo("lab/mine"))),
    "create anonymous": tried(lambda: nobody.create_repo("tester/a")),
    "create wrong": tried(lambda: wrong.create_repo("tester/a")),
    "create read only": tried(lambda: reader.create_repo("tester/a")),
    "create foreign": tried(lambda: writer.create_repo("somebody/a")),
    "create where one reads": tried(lambda: writer.create_repo("club/a")),
}
chief.create_repo("lab/theirs")
chief.create_repo("lab/hidden", private=True)
chief.create_repo("lab/app", repo_type="space", space_sdk="docker", visibility="protected")
result |= {
    "commit own": bool(commit(writer, "lab/mine")),
    "commit theirs": commit(writer, "lab/theirs"),
    "commit read only": commit(reader, "tester/mine"),
    "commit anonymous": commit(nobody, "tester/mine"),
    "commit nowhere": commit(writer, "tester/nothing"),
    "commit to no branch": commit(writer, "tester/mine", revision="v9"),
    "commit late": commit(chief, "lab/mine", CommitOperationAdd("b.txt", b"b"), parent_commit="0" * 40),
    "delete nothing": commit(chief, "lab/mine", CommitOperationDelete("nothing")),
    "pull request": commit(chief, "lab/mine", create_pr=True),
    "may write": tried(lambda: writer.auth_check("lab/mine", write=True)),
    "may not write": tried(lambda: reader.auth_check("lab/mine", write=True)),
    "hidden": [tried(lambda: api.model_info("lab/hidden").private) for api in (writer, nobody, wrong)],
    "hidden file": [tried(lambda: api.hf_hub_download("lab/hidden", ".gitattributes")[:1]) for api in (nobody, writer)],
    "hidden space": tried(lambda: nobody.space_info("lab/app")),
    "anonymous": nobody.list_repo_files("lab/mine"),
}
print(json.dumps(result))
"""


def test_loopback_hub_checks_rights(own_hub, tmp_path):
    got = client(own_hub, tmp_path / "home", RIGHTS)
    orgs = {org["name"]: org["roleInOrg"] for org in got["whoami"]["orgs"]}
    assert (got["whoami"]["name"], orgs) == ("tester", {"lab": "contributor", "club": "read"})
    assert got["whoami"]["auth"]["accessToken"]["role"] == "write"
    assert (got["fine"]["role"], got["role"]) == ("fineGrained", "read")
    assert [scope["entity"]["name"] for scope in got["fine"]["fineGrained"]["scoped"]] == ["chief", "lab"]
    assert got["create own"] == f"{own_hub.url}/tester/mine"
    assert got["create in the organisation"] == f"{own_hub.url}/lab/mine"
    rights = "You don't have the rights to create a model under the namespace"
    refusals = {
        "wrong": (401, "Invalid user token."),
        "create twice": (409, "You already created this model repo"),
        "create anonymous": (401, "Invalid username or password."),
        "create wrong": (401, "Invalid credentials in Authorization header"),
        "create read only": (403, f'{rights} "tester"'),
        "create foreign": (403, f'{rights} "somebody"'),
        "create where one reads": (403, f'{rights} "club"'),
        "commit theirs": (403, "Authorization error."),
        "commit read only": (403, "Authorization error."),
        "commit anonymous": (401, "Invalid username or password."),
        "commit late": (412, "A commit has happened since."),
        "pull request": (400, "no pull requests"),
        "may not write": (403, "Authorization error."),
    }
    for case, (status, text) in refusals.items():
        name, code, message = got[case]
        assert (code, text in message) == (status, True), (case, got[case])
        assert name in ("HfHubHTTPError", "BadRequestError"), case
    assert got["commit nowhere"][:2] == ["RepositoryNotFoundError", 404]
    assert got["commit to no branch"][:2] == ["RevisionNotFoundError", 404]
    assert got["delete nothing"][:2] == ["RemoteEntryNotFoundError", 404]
    assert (got["commit own"], got["may write"]) == (True, "done")
    assert (got["hidden"][0], got["hidden file"][1]) == (True, "/")
    hidden = [*got["hidden"][1:], got["hidden file"][0], got["hidden space"]]
    assert [case[:2] for case in hidden] == [["RepositoryNotFoundError", 404]] * 4
    assert got["anonymous"] == own_hub.files("lab/mine") == [".gitattributes", "a.txt"]
    assert own_hub.is_private("lab/hidden")
    assert own_hub.is_private("lab/app", "spaces")
    assert own_hub.commits("tester/mine") == ["initial commit"]


CARDS = """
import json, sys, warnings
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("tester/card")
result = {"refused": [], "warned": None}
for text in json.loads(sys.argv[1]):
    try:
        api.create_commit("tester/card", [CommitOperationAdd("README.md", text.encode())], commit_message="card")
    except ValueError as error:
        result["refused"].append(str(error).splitlines())
with warnings.catch_warnings(record=True) as warned:
    api.upload_file(path_or_fileobj=b"# No metadata", path_in_repo="README.md", repo_id="tester/card")
result["warned"] = [str(w.message) for w in warned]
api.upload_file(path_or_fileobj=sys.argv[2].encode(), path_in_repo="README.md", repo_id="tester/card")
print(json.dumps(result))
"""
RESULTS = """---
license: [mit]
base_model: google/vit-base-patch16-224-in21k
model-index:
- name: shapes
  results:
  - task: {type: image-classification}
    dataset: {type: imagefolder, name: Shapes}
    metrics: [{type: accuracy, value: 0.5}]
---
# Shapes
"""


def test_loopback_hub_refuses_broken_cards(own_hub, tmp_path):
    broken = {
        "---\nlicense: [mit\n---\n": "Invalid YAML",
        "---\n- mit\n---\n": '"metadata" must be of type object',
        "---\nlicense: 3\n---\n": '"license" must be a string',
        "---\nlicense: [mit, 3]\n---\n": '"license[1]" must be a string',
        "---\nbase_model: /data/vit\n---\n": '"base_model" with value "/data/vit" is not valid',
        "---\nmodel-index: shapes\n---\n": '"model-index" must be an array',
        "---\nmodel-index:\n- name: shapes\n---\n": '"model-index[0].results" is required',
    }
    parts = {"task": ".task", "type: imagefolder, ": ".dataset.type", ", value: 0.5": ".metrics[0].value"}
    for part, key in parts.items():
        broken[RESULTS.replace(part, "job" if part == "task" else "")] = f'"model-index[0].results[0]{key}" is required'
    got = client(own_hub, tmp_path / "home", CARDS, json.dumps(list(broken)), RESULTS, HF_TOKEN="hf_write")
    assert len(got["refused"]) == len(broken)
    for (head, first, *_), text in zip(got["refused"], broken.values(), strict=True):
        assert (head, text in first) == ("Invalid metadata in README.md.", True), (first, text)
    plain = json.dumps({"repoType": "model", "content": "---\nlicense: 3\n---\n"}).encode()
    headers = {"Accept": "text/plain", "Content-Type": "application/json"}
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(f"{own_hub.url}/api/validate-yaml", plain, headers))
    with error.value:
        assert (error.value.code, error.value.read()) == (400, b'- Error: "license" must be a string')
    assert len(got["warned"]) == 1
    assert "empty or missing yaml metadata" in got["warned"][0]
    assert own_hub.commits("tester/card") == ["initial commit", *["Upload README.md with huggingface_hub"] * 2]
    assert own_hub.read("tester/card", "README.md").decode() == RESULTS


def post(url: str, body: bytes, method: str = "POST") -> int:
    request = urllib.request.Request(url, body, {"Authorization": "Bearer hf_write"}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_loopback_hub_refuses_malformed_requests(own_hub):
    """Bytes that are not those announced, objects that never came, a broken card without validate-yaml."""
    assert post(f"{own_hub.url}/api/repos/create", json.dumps({"name": "raw", "private": True}).encode()) == 200
    assert own_hub.is_private("tester/raw")
    oid = hashlib.sha256(b"right").hexdigest()
    batch = json.dumps({"objects": [{"oid": oid, "size": 5}]}).encode()
    store, commits = f"{own_hub.url}/lfs/models/tester/raw/{oid}", f"{own_hub.url}/api/models/tester/raw/commit/main"
    assert post(store, b"right", "PUT") == 403  # not asked for
    assert post(f"{own_hub.url}/tester/raw.git/info/lfs/objects/batch", batch) == 200
    assert [post(store, body, "PUT") for body in (b"wrong", b"right and more")] == [400, 400]
    header = {"key": "header", "value": {"summary": "raw"}}
    pointer = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": oid, "size": 5}}
    content = base64.b64encode(b"---\nlicense: 3\n---\n").decode()
    card = {"key": "file", "value": {"path": "README.md", "content": content, "encoding": "base64"}}
    for operation in (pointer, card):
        assert post(commits, "\n".join(map(json.dumps, (header, operation))).encode()) == 400
    assert (own_hub.uploaded, own_hub.commits("tester/raw")) == ([], ["initial commit"])
    assert post(store, b"right", "PUT") == 200
    assert own_hub.uploaded == [(oid, 5)]
    assert post(commits, "\n".join(map(json.dumps, (header, pointer))).encode()) == 200
    assert own_hub.read("tester/raw", "a.bin") == b"right"


FAULTS = """
import json, os, sys, threading
from huggingface_hub import CommitOperationAdd, HfApi

api, result = HfApi(), []

def upload(name):
    operation = CommitOperationAdd(name, name.encode())
    return api.create_commit("tester/faults", [operation], commit_message=name).commit_message

calls = {"create": lambda: str(api.create_repo("faults", exist_ok=True)), "upload": upload}
for name, *arguments in json.loads(sys.argv[1]):
    answer = []
    def call():
        try:
            answer.append(calls[name](*arguments))
        except Exception as error:
            answer.append([type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)])
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(float(os.environ.get("PATIENCE", 30)))
    result.append(answer[0] if answer else "no answer")
print(json.dumps(result), flush=True)
os._exit(0)
"""


def test_fault_strikes_until_healed(own_hub, tmp_path):
    def run(*calls, **settings):
        return client(own_hub, tmp_path / "home", FAULTS, json.dumps(calls), HF_TOKEN="hf_write", **settings)

    own_hub.fault("POST", "/repos/create", 503, times=1)
    own_hub.fault("POST", "/repos/create", 401, times=1)
    own_hub.fault("POST", "/commit/", "cut", times=1)
    own_hub.fault("POST", "/objects/batch", 404, times=1)
    own_hub.fault("PUT", "/lfs/", "cut", times=1)
    own_hub.fault("GET|PUT", "/lfs/", 403, times=1)
    *created, cut, sent, missing, refused, healed = run(
        *[["create"]] * 3, *[["upload", "a.txt"]] * 2, *[["upload", "b.bin"]] * 3
    )
    assert created == [["HfHubHTTPError", 503], ["HfHubHTTPError", 401], f"{own_hub.url}/tester/faults"]
    assert cut[0] in ("RemoteProtocolError", "ReadError", "WriteError")
    assert [sent, missing, refused, healed] == [
        "a.txt",
        ["HfHubHTTPError", 404],
        ["RuntimeError", None],  # the client tries again after the cut, not after 403
        "b.bin",
    ]
    puts = [request for request in own_hub.requests if request.method == "PUT"]
    assert (len(puts), len(own_hub.uploaded)) == (3, 1)
    assert own_hub.commits("tester/faults") == ["initial commit", "a.txt", "b.bin"]

    own_hub.fault("PUT", "/lfs/half", "cut", times=1)
    with socket.create_connection(("127.0.0.1", int(own_hub.url.rsplit(":")[-1])), timeout=5) as connection:
        connection.sendall(b"PUT /lfs/half HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        assert connection.recv(1) == b""  # closed before the other half

    own_hub.fault(".*", "/commit/", "stall")
    assert run(["upload", "d.txt"], PATIENCE="1") == ["no answer"]
    assert "d.txt" not in own_hub.files("tester/faults")
    own_hub.heal()
    assert run(["upload", "d.txt"]) == ["d.txt"]
    with pytest.raises(ValueError, match="'slow'"):
        own_hub.fault("PUT", "/lfs/", "slow")


XET = """
import json, sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("tester/xet")
try:
    api.upload_folder(repo_id="tester/xet", folder_path=sys.argv[1])
except ConnectionError as error:
    print(json.dumps(str(error)))
"""


def test_loopback_hub_has_no_xet_storage(own_hub, folder, tmp_path):
    pytest.importorskip("hf_xet")
    got = client(own_hub, tmp_path / "home", XET, str(folder), HF_TOKEN="hf_write", HF_HUB_DISABLE_XET="0")
    assert "404" in got
    assert any("/xet-write-token/" in request.path for request in own_hub.requests)
    assert own_hub.commits("tester/xet") == ["initial commit"]


@pytest.mark.parametrize("name", ["resnet-18", "efficientnet-b0", "mobilenetv3-small"])
def test_write_has_the_parameters_of_the_hub_files(name, tmp_path):
    write(name, tmp_path, tiny=False)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        tensors = [file.get_slice(key) for key in file.keys() if not key.endswith(buffers)]  # noqa: SIM118
        shapes = [tensor.get_shape() for tensor in tensors]
    assert sum(math.prod(shape) for shape in shapes) == PARAMETERS[name]


def test_write_is_repeatable_and_seeded(tmp_path):
    one, same, other = (write("resnet-18", tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (one, same, other)]
    assert weights[0] == weights[1] != weights[2]


def test_photo_is_repeatable_and_of_the_given_size(tmp_path):
    one = class_folders(tmp_path / "a", SHAPES, per_class=2, size=(50, 40), suffix=".png")
    two = class_folders(tmp_path / "b", SHAPES, per_class=2, size=(50, 40), suffix=".png")
    files = sorted(p.relative_to(one) for p in one.rglob("*.png"))
    assert len(files) == 12
    assert len({(one / f).read_bytes() for f in files}) == 12
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    with Image.open(one / files[0]) as picture:
        assert (picture.size, picture.mode) == ((50, 40), "RGB")
    assert photo(70, 30, 4).size == (70, 30)
    assert photo(70, 30, 4).tobytes() == photo(70, 30, 4).tobytes() != photo(70, 30, 5).tobytes()
