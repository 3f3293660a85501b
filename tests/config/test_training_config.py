"""Options before and after their resolution: copies instead of changes."""

import dataclasses

import pytest
import yaml

from imgcls.config.parser import ParsedOptions
from imgcls.config.training_config import TrainingConfig, TrainingRequest


@pytest.fixture
def request_():
    return TrainingRequest.from_parsed(ParsedOptions({"image_px": 64, "learning_rate": 0.5}), {"use_cpu": True})


def test_from_parsed_remembers_what_the_user_set(request_):
    assert request_.given == {"image_px", "learning_rate"}
    assert request_.model.image_px == 64
    assert request_.training.learning_rate == 0.5
    assert request_.training.use_cpu


def test_with_options_changes_a_copy_in_whichever_group_holds_them(request_):
    changed = request_.with_options(image_px=96, learning_rate=0.1, folds=3, metric_for_best_model="macro_f1")
    assert (changed.model.image_px, changed.training.learning_rate, changed.data.folds) == (96, 0.1, 3)
    assert changed.training.greater_is_better
    assert (request_.model.image_px, request_.training.learning_rate, request_.data.folds) == (64, 0.5, None)
    assert request_.training.metric_for_best_model != "macro_f1"
    with pytest.raises(KeyError, match="no_such_option"):
        request_.with_options(no_such_option=1)


def test_options_cannot_be_changed_in_place(request_):
    for group in ("data", "model", "tune", "augment", "performance", "command"):
        options = getattr(request_, group)
        name = dataclasses.fields(options)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request_.data = None


def test_value_finds_an_option_in_any_group(request_):
    assert request_.value("learning_rate") == 0.5
    assert request_.value("layer_decay") is None
    assert request_.value("val_fraction") == 0.15


def test_option_values_are_plain_and_without_secrets(request_):
    values = request_.with_options(hub_token="hf_secret").option_values()
    assert yaml.safe_load(yaml.safe_dump(values)) == values
    assert "hf_secret" not in str(values)
    assert values["image_px"] == 64
    assert "output_dir" not in values


def test_reasons_are_added_to_a_copy(request_):
    config = TrainingConfig.from_request(request_, "head", is_demo=False)
    explained = config.with_reasons({"augment": "because"})
    assert explained.reasons == {"augment": "because"}
    assert config.reasons == {}


@pytest.mark.parametrize(
    ("mode", "tune", "chooses"), [("full", "auto", False), ("head", "head", False), ("probe_then_full", "auto", True)]
)
def test_chooses_input_only_with_auto_and_a_probe(request_, mode, tune, chooses):
    config = TrainingConfig.from_request(request_.with_options(tune=tune), mode, is_demo=False)
    assert config.chooses_input == chooses


def test_reads_photos_once_only_for_features_of_one_crop(request_):
    head = TrainingConfig.from_request(request_, "head", is_demo=False)
    assert head.reads_photos_once
    assert not head.with_options(feature_crops=2).reads_photos_once
    assert not head.with_options(folds=2).reads_photos_once
    assert not TrainingConfig.from_request(request_, "full", is_demo=False).reads_photos_once
