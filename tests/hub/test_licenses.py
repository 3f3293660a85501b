"""The license that a model inherits from its checkpoint."""

from imgcls.hub import licenses
from imgcls.storage import run_folder


def test_find_license_takes_that_of_the_registry(run):
    metrics = run.read_json(run_folder.METRICS)
    assert licenses.find_license(run) is None
    run.write_json(run_folder.METRICS, metrics | {"sources": {"base_model": "microsoft/resnet-18"}})
    assert licenses.find_license(run) == "apache-2.0"


def test_find_license_asks_the_hub_about_other_checkpoints(run, monkeypatch, caplog):
    metrics = run.read_json(run_folder.METRICS)
    run.write_json(run_folder.METRICS, metrics | {"sources": {"base_model": "someone/model"}})

    class Info:
        card_data = {"license": "cc-by-4.0"}  # noqa: RUF012

    monkeypatch.setattr(licenses, "model_info", lambda name: Info)
    assert licenses.find_license(run) == "cc-by-4.0"

    def broken(name):
        raise ConnectionError

    monkeypatch.setattr(licenses, "model_info", broken)
    assert licenses.find_license(run) is None
    assert "--license" in caplog.text
