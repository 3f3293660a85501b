"""From a name to files: what a name means, what the Hub says, and a Hub that says nothing."""

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

ASK = """
import json, sys, time
from imgcls.models import source
start, found = time.monotonic(), {}
try:
    resolved = source.resolve_model(sys.argv[1])
    found["folder"] = str(source.fetch_model(resolved, weights=sys.argv[2] == "weights").folder)
except source.ModelError as error:
    found |= {"error": str(error), "unreachable": isinstance(error, source.HubUnreachable)}
print(json.dumps(found | {"seconds": time.monotonic() - start}))
"""
THREE_WAYS = ("microsoft/resnet-18", "hf download microsoft/resnet-18", "local model folder", "--from_scratch")


def ask(env, name, weights="weights"):
    """What fetching `name` in a process of its own gave: huggingface_hub reads its settings when it is imported."""
    env = {k: v for k, v in env.items() if k != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", ASK, name, weights], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_folder_is_itself_and_needs_no_network(tmp_path):
    tiny.write("resnet-18", tmp_path / "mine")
    found = source.fetch_model(source.resolve_model(str(tmp_path / "mine")))
    assert (found.folder, found.short_name, found.checkpoint) == (tmp_path / "mine", "mine", None)


def test_a_name_of_the_table_and_a_hub_id():
    assert source.resolve_model("resnet-50").hub_id == "microsoft/resnet-50"
    other = source.resolve_model("someone/their-model")
    assert (other.hub_id, other.short_name, other.checkpoint) == ("someone/their-model", "their-model", None)


def test_a_folder_called_like_a_model_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("resnet-18")
    assert source.resolve_model("resnet-18").hub_id == "microsoft/resnet-18"
    with pytest.raises(ModelError, match=r"config\.json, got \./resnet-18 without one"):
        source.resolve_model("./resnet-18")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ModelError, match="resnet-50"):
        source.resolve_model("resnet50")


def test_files_come_once_and_then_from_the_cache(tmp_path):
    with LoopbackHub() as hub:
        hub.add_model("microsoft/resnet-18", tiny.write("resnet-18", tmp_path / "hub"))
        env = hub.env(tmp_path / "home")
        settings = ask(env, "resnet-18", "settings")
        assert sorted(os.listdir(settings["folder"])) == ["config.json", "preprocessor_config.json"]
        first = ask(env, "resnet-18")
        assert "model.safetensors" in os.listdir(first["folder"])
        assert not any(".bin" in request.path for request in hub.requests)
        asked = len(hub.requests)
        assert ask(env, "resnet-18")["folder"] == first["folder"]
        assert len(hub.requests) == asked
    assert ask(env, "resnet-18")["folder"] == first["folder"]  # and now there is no Hub


def test_a_model_that_the_hub_does_not_know_is_no_network_trouble(tmp_path):
    with LoopbackHub() as hub:
        found = ask(hub.env(tmp_path), "someone/no-such-model")
    assert not found["unreachable"]
    assert "someone/no-such-model" in found["error"]
    assert "hf auth login" in found["error"]


def test_a_hub_that_never_answers_is_noticed_within_seconds(tmp_path):
    with LoopbackHub(stall=True) as hub:
        found = ask(hub.env(tmp_path), "resnet-18")
    assert found["unreachable"]
    assert found["seconds"] < 6
    assert all(words in found["error"] for words in THREE_WAYS)


def test_a_hub_that_refuses_connections_is_noticed_at_once(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        found = ask(env, "resnet-18")
    assert found["unreachable"]
    assert found["seconds"] < 6
    assert all(words in found["error"] for words in THREE_WAYS)


def test_what_a_model_goes_back_to(tmp_path):
    assert source.base_model(source.resolve_model("resnet-50")) == "microsoft/resnet-50"
    assert source.base_model(source.resolve_model("someone/their-model")) == "someone/their-model"
    mine = tiny.write("resnet-18", tmp_path / "mine")
    assert source.base_model(source.resolve_model(str(mine))) is None
    run_folder.RunFolder(mine).write_json(run_folder.METRICS, {"sources": {"base_model": "google/vit"}})
    assert source.base_model(source.resolve_model(str(mine))) == "google/vit"
    assert source.previous_datasets(source.resolve_model("resnet-50")) == []
    assert source.previous_datasets(source.resolve_model(str(mine))) == [None]
    sources = {"dataset": "someone/photos", "earlier": [None]}
    run_folder.RunFolder(mine).write_json(run_folder.METRICS, {"sources": sources})
    assert source.previous_datasets(source.resolve_model(str(mine))) == ["someone/photos", None]


def test_a_model_that_is_only_asked_has_another_cure(monkeypatch):
    def unreachable(_):
        raise source.HubUnreachable("train with --from_scratch")

    monkeypatch.setattr(source, "fetch_model", unreachable)
    with pytest.raises(source.HubUnreachable, match=r"--run\.$") as raised:
        source.fetch_trained_model("someone/model")
    assert "--from_scratch" not in str(raised.value)
