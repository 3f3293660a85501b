"""The stand-ins that other tests rest on: the loopback Hub, the tiny checkpoints, the drawn pictures."""

from __future__ import annotations

import json
import math
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


def client(hub: LoopbackHub, home, code: str, *arguments: str, timeout: float = 60) -> dict:
    """Run `code` in a fresh process whose Hub is `hub`; it prints one JSON value as its last line."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, *arguments],
        env=hub.env(home),
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


def test_all_eight_load_by_hub_id_as_their_repositories_do(hub, tmp_path):
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


def test_hub_calls_and_their_errors(hub, tmp_path):
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


def test_data_sets_load_from_parquet_and_from_image_folders(hub, tmp_path):
    names = ["circle", "cross", "square"]
    assert client(hub, tmp_path / "home", LOAD_SETS) == {
        "tester/shapes:train": [6, names, [80, 60], 0],
        "tester/shapes:test": [6, names, [80, 60], 0],
        "tester/folders:train": [12, names, [80, 60], 0],
    }


def test_ranges_and_unknown_pages(hub):
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


def test_a_stalled_hub_accepts_and_never_answers():
    began = time.monotonic()
    with LoopbackHub(stall=True) as hub, pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{hub.url}/api/models/tester/any", timeout=0.5)
    assert [r.path for r in hub.requests] == ["/api/models/tester/any"]
    assert 0.5 <= time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["resnet-18", "efficientnet-b0", "mobilenetv3-small"])
def test_real_sizes_have_the_hub_files_parameters(name, tmp_path):
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


def test_pictures_are_repeatable_and_of_the_asked_size(tmp_path):
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
