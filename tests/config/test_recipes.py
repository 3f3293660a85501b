"""Facts -> hyper-parameters: never too few steps, never against the user, nothing without a reason."""

import math
from types import SimpleNamespace

import pytest

from imgcls.config import recipes
from imgcls.config.recipes import Facts


def facts(images=500, classes=5, largest_over_smallest=1.0, family="cnn", pretrained=True, **more):
    return Facts(images, classes, largest_over_smallest, family, pretrained, **more)


def chosen(**of):
    return {choice.option: choice.value for choice in recipes.choose_options(facts(**of))}


@pytest.mark.parametrize("images", [4, 20, 150, 999, 1000, 9999, 10_000, 200_000])
@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("processes", [1, 8])
def test_there_are_always_enough_steps(images, pretrained, processes):
    values = chosen(images=images, pretrained=pretrained, processes=processes)
    batch = values["per_device_train_batch_size"] * processes
    assert values["num_train_epochs"] * math.ceil(images / batch) >= recipes.MIN_STEPS


@pytest.mark.parametrize(
    ("images", "rate", "augment"), [(300, 1e-5, "heavy"), (3_000, 5e-5, "standard"), (20_000, 1e-4, "light")]
)
def test_the_guide_s_values_are_there(images, rate, augment):
    of = facts(images=images)
    values = {choice.option: choice.value for choice in recipes.choose_options(of, "guide")}
    assert (values["learning_rate"], values["augment"]) == (rate, augment)
    assert 4 <= values["per_device_train_batch_size"] <= 32


def test_rates_far_below_the_measured_ones_are_said_to_undertrain():
    assert "0.0004 measured best" in recipes.undertraining_warning(facts(), 1e-5)
    assert recipes.undertraining_warning(facts(), 5e-5) is None
    assert recipes.undertraining_warning(facts(family="vit"), 1e-5) is None
    assert "0.001 measured best" in recipes.undertraining_warning(facts(mode="head"), 1e-5)
    assert recipes.undertraining_warning(facts(pretrained=False), 1e-5) is None


def test_transformers_get_lower_rates_than_cnns():
    assert 1e-5 <= chosen(family="vit")["learning_rate"] <= 1e-4
    assert 3e-4 <= chosen(family="cnn")["learning_rate"] <= 6e-4


def test_skewed_classes_are_judged_by_macro_f1():
    assert chosen(largest_over_smallest=5.0)["metric_for_best_model"] == "accuracy"
    assert chosen(largest_over_smallest=5.1)["metric_for_best_model"] == "macro_f1"


def test_skewed_classes_are_weighed_unless_they_are_drawn_equally_often():
    assert "class_weights" not in chosen(largest_over_smallest=5.0)
    assert chosen(largest_over_smallest=5.1)["class_weights"] == "balanced"
    assert "class_weights" not in chosen(largest_over_smallest=100.0, balanced_draws=True)


def test_cnns_train_on_smaller_crops_than_they_are_shown():
    assert recipes.train_px("cnn", 288).value == 192
    assert recipes.train_px("cnn", 224).value == recipes.train_px("vit", 224).value == 224
    assert recipes.train_px("vit", 384).value == 384


def test_digits_are_not_mirrored():
    assert chosen(is_demo=True, pretrained=False)["flip"] == "none"
    assert chosen()["flip"] == "horizontal"


def test_every_choice_has_a_reason():
    assert all(choice.reason for choice in recipes.choose_options(facts()))


def test_an_option_given_is_never_overruled():
    args = SimpleNamespace(**dict.fromkeys(chosen()), greater_is_better=None)
    args.learning_rate = 0.5
    lines = recipes.apply_choices(recipes.choose_options(facts()), {"learning_rate": 0.5}, args)
    assert args.learning_rate == 0.5
    assert args.num_train_epochs > 0
    assert not any("learning_rate" in line for line in lines)


@pytest.mark.parametrize(
    ("family", "images", "mode"),
    [("cnn", 999, "probe_then_full"), ("cnn", 1_000, "probe_and_full"), ("vit", 50_000, "probe_then_full")],
)
def test_what_auto_means(family, images, mode):
    assert recipes.auto_tuning_mode(family, images) == mode
    values = chosen(images=images, family=family, mode=mode)
    assert values["num_train_epochs"] <= 5
    assert values["batch_norm"] == ("train" if mode == "probe_and_full" else "hold")


@pytest.mark.parametrize(
    ("family", "own_px", "short_side_px", "expected"),
    [("cnn", 224, 10, 160), ("cnn", 224, 32, 160), ("cnn", 224, 40, 192), ("cnn", 224, 64, 224), ("cnn", 224, 288, 288),
     ("cnn", 224, 287, 224), ("cnn", 384, 2000, 384), ("cnn", 128, 10, 128), ("vit", 224, 10, 224),
     ("vit", 224, 2000, 224)],
)  # fmt: skip
def test_the_input_follows_the_size_of_the_pictures(family, own_px, short_side_px, expected):
    assert recipes.input_px(family, own_px, short_side_px) == expected


def test_smaller_inputs_leave_time_for_more_epochs():
    facts = recipes.Facts(1200, 10, 1.0, "cnn", pretrained=True, mode="probe_and_full", shown_smaller=True)
    (epochs,) = [c.value for c in recipes.choose_options(facts) if c.option == "num_train_epochs"]
    assert epochs == 6
