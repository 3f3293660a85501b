"""What a model's name stands for, downloads from the Hub, and a Hub that does not respond."""

import json
import os
import socket
import subprocess
import sys

import pytest
import tiny
from loopback import LoopbackHub

from imgcls.errors import ModelError
from imgcls.models import source
from imgcls.storage import run_folder

FETCH = """
import json, sys, time
from imgcls.models import source
start, outcome = time.monotonic(), {}
try:
    resolved = source.resolve_model(sys.argv[1])
    outcome["folder"] = str(source.fetch_model(resolved, weights=sys.argv[2] == "weights").folder)
except source.ModelError as error:
    outcome |= {"error": str(error), "unreachable": isinstance(error, source.HubUnreachable)}
print(json.dumps(outcome | {"seconds": time.monotonic() - start}))
"""
ADVICE = ("microsoft/resnet-18", "hf download microsoft/resnet-18", "local model folder", "--from_scratch")


def fetch_in_subprocess(env, name, files="weights"):
    """The outcome of fetching `name` in its own process: huggingface_hub reads its settings when it is imported."""
    env = {k: v for k, v in env.items() if k != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", FETCH, name, files], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def unreachable(*_, **__):
    raise source.HubUnreachable("train with --from_scratch")


def test_resolve_model_knows_short_names_and_hub_ids():
    assert source.resolve_model("resnet-50").hub_id == "microsoft/resnet-50"
    other = source.resolve_model("someone/their-model")
    assert (other.hub_id, other.short_name, other.checkpoint) == ("someone/their-model", "their-model", None)


def test_resolve_model_prefers_a_short_name_to_a_folder_without_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("resnet-18")
    assert source.resolve_model("resnet-18").hub_id == "microsoft/resnet-18"
    with pytest.raises(ModelError, match=r"config\.json, got \./resnet-18 without one"):
        source.resolve_model("./resnet-18")


def test_resolve_model_refuses_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        source.resolve_model(str(tmp_path))


def test_resolve_model_names_the_nearest_of_an_unknown_name():
    with pytest.raises(ModelError, match="resnet-50"):
        source.resolve_model("resnet50")


def test_fetch_model_takes_a_local_folder_without_network(tmp_path):
    tiny.write("resnet-18", tmp_path / "mine")
    fetched = source.fetch_model(source.resolve_model(str(tmp_path / "mine")))
    assert (fetched.folder, fetched.short_name, fetched.checkpoint) == (tmp_path / "mine", "mine", None)


def test_fetch_model_downloads_once_and_then_reads_the_cache(tmp_path):
    with LoopbackHub() as hub:
        hub.add_model("microsoft/resnet-18", tiny.write("resnet-18", tmp_path / "hub"))
        env = hub.env(tmp_path / "home")
        settings = fetch_in_subprocess(env, "resnet-18", "settings")
        assert sorted(os.listdir(settings["folder"])) == ["config.json", "preprocessor_config.json"]
        first = fetch_in_subprocess(env, "resnet-18")
        assert "model.safetensors" in os.listdir(first["folder"])
        assert not any(".bin" in request.path for request in hub.requests)
        requests = len(hub.requests)
        assert fetch_in_subprocess(env, "resnet-18")["folder"] == first["folder"]
        assert len(hub.requests) == requests
    assert fetch_in_subprocess(env, "resnet-18")["folder"] == first["folder"]  # without a Hub


def test_fetch_model_of_an_unknown_repository_is_not_a_network_error(tmp_path):
    with LoopbackHub() as hub:
        outcome = fetch_in_subprocess(hub.env(tmp_path), "someone/no-such-model")
    assert not outcome["unreachable"]
    assert "someone/no-such-model" in outcome["error"]
    assert "hf auth login" in outcome["error"]


def test_fetch_model_gives_up_within_seconds_when_the_hub_stalls(tmp_path):
    with LoopbackHub(stall=True) as hub:
        outcome = fetch_in_subprocess(hub.env(tmp_path), "resnet-18")
    assert outcome["unreachable"]
    assert outcome["seconds"] < 6
    assert all(words in outcome["error"] for words in ADVICE)


def test_fetch_model_gives_up_at_once_when_the_hub_refuses_connections(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        outcome = fetch_in_subprocess(env, "resnet-18")
    assert outcome["unreachable"]
    assert outcome["seconds"] < 6
    assert all(words in outcome["error"] for words in ADVICE)


def test_fetch_for_training_needs_no_files_of_a_known_model_from_scratch(monkeypatch):
    monkeypatch.setattr(source, "fetch_model", unreachable)
    resnet = source.resolve_model("resnet-18")
    assert source.fetch_for_training(resnet, from_scratch=True, is_demo=False) == (resnet, True)


def test_fetch_for_training_fetches_the_configuration_alone_from_scratch(monkeypatch):
    requests = []
    monkeypatch.setattr(source, "fetch_model", lambda model, weights: requests.append(weights) or model)
    other = source.resolve_model("someone/their-model")
    assert source.fetch_for_training(other, from_scratch=True, is_demo=False) == (other, True)
    assert source.fetch_for_training(other, from_scratch=False, is_demo=False) == (other, False)
    assert requests == [False, True]


def test_fetch_for_training_without_a_hub_starts_the_demo_alone_from_random_weights(monkeypatch, caplog):
    monkeypatch.setattr(source, "fetch_model", unreachable)
    resnet = source.resolve_model("resnet-18")
    with pytest.raises(source.HubUnreachable):
        source.fetch_for_training(resnet, from_scratch=False, is_demo=False)
    assert source.fetch_for_training(resnet, from_scratch=False, is_demo=True) == (resnet, True)
    assert "RANDOM WEIGHTS" in caplog.text


def test_fetch_trained_model_advises_a_run_folder(monkeypatch):
    monkeypatch.setattr(source, "fetch_model", unreachable)
    with pytest.raises(source.HubUnreachable, match=r"--run\.$") as raised:
        source.fetch_trained_model("someone/model")
    assert "--from_scratch" not in str(raised.value)


def test_base_model_is_the_hub_id_that_weights_come_from(tmp_path):
    assert source.base_model(source.resolve_model("resnet-50")) == "microsoft/resnet-50"
    assert source.base_model(source.resolve_model("someone/their-model")) == "someone/their-model"
    folder = tiny.write("resnet-18", tmp_path / "mine")
    assert source.base_model(source.resolve_model(str(folder))) is None
    run_folder.RunFolder(folder).write_json(run_folder.METRICS, {"sources": {"base_model": "google/vit"}})
    assert source.base_model(source.resolve_model(str(folder))) == "google/vit"


def test_base_model_of_a_run_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = tiny.write("resnet-18", tmp_path / "run")
    run_folder.RunFolder(folder).write_json(run_folder.METRICS, {"sources": {"base_model": "google/vit"}})
    assert source.base_model(source.resolve_model("~/run")) == "google/vit"


def test_previous_datasets_are_the_latest_first(tmp_path):
    assert source.previous_datasets(source.resolve_model("resnet-50")) == []
    folder = tiny.write("resnet-18", tmp_path / "mine")
    run_folder.RunFolder(folder).write_json(run_folder.METRICS, {"sources": {"base_model": "google/vit"}})
    assert source.previous_datasets(source.resolve_model(str(folder))) == [None]
    sources = {"dataset": "someone/photos", "earlier": [None]}
    run_folder.RunFolder(folder).write_json(run_folder.METRICS, {"sources": sources})
    assert source.previous_datasets(source.resolve_model(str(folder))) == ["someone/photos", None]
