"""Facts of a finished run for its card."""

import pytest

from imgcls.errors import RunError
from imgcls.hub.run_profile import RunProfile
from imgcls.storage import run_folder


def test_run_profile_refuses_a_folder_without_a_finished_run(tmp_path):
    with pytest.raises(RunError, match="Expected a finished run"):
        RunProfile(run_folder.RunFolder(tmp_path), "tester/x")


def test_run_profile_reads_network_sources_and_counts(shared):
    profile = RunProfile(shared, "tester/x")
    assert (profile.owner, profile.title) == ("tester", "x")
    assert RunProfile(shared, "name-alone").owner is None
    network = profile.network
    assert (network.model_type, network.architecture) == ("resnet", "ResNetForImageClassification")
    assert network.input_format == "224 x 224 px, the center of the photo"
    assert network.weight_bytes == (shared / run_folder.WEIGHTS).stat().st_size > 4 * network.parameters > 0
    assert (profile.sources.base_model, profile.sources.dataset, profile.sources.random_weights) == (None, None, False)
    counts = profile.image_counts()
    assert list(counts) == sorted(profile.classes)
    assert sum(count["test"] for count in counts.values()) == profile.evaluations["test"]["images"]


def test_main_evaluation_is_the_most_informative_one(shared):
    profile = RunProfile(shared, "tester/x")
    assert profile.main_evaluation[0] == "test"
    profile.metrics = {**profile.metrics, "test": None}
    assert profile.main_evaluation == ("validation", profile.metrics["validation"])
    profile.metrics = {**profile.metrics, "cross_validation": {"images": 3}}
    assert profile.main_evaluation == ("cross_validation", {"images": 3})


def test_main_evaluation_refuses_a_run_without_results(shared):
    profile = RunProfile(shared, "tester/x")
    profile.metrics = {"train": {}}
    with pytest.raises(RunError, match="Expected results in"):
        _ = profile.main_evaluation
