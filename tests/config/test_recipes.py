"""Recipes: enough optimizer steps, nothing against the user, a reason for every value."""

import math

import pytest

from imgcls.config import recipes
from imgcls.config.recipes import Facts


def facts(images=500, classes=5, imbalance=1.0, family="cnn", pretrained=True, **more):
    return Facts(images, classes, imbalance, family, pretrained, **more)


def chosen(**kwargs):
    return {choice.option: choice.value for choice in recipes.choose_options(facts(**kwargs))}


@pytest.mark.parametrize("images", [4, 20, 150, 999, 1000, 9999, 10_000, 200_000])
@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("processes", [1, 8])
def test_choose_options_gives_enough_optimizer_steps(images, pretrained, processes):
    values = chosen(images=images, pretrained=pretrained, processes=processes)
    batch = values["per_device_train_batch_size"] * processes
    assert values["num_train_epochs"] * math.ceil(images / batch) >= recipes.MIN_STEPS


@pytest.mark.parametrize(
    ("images", "rate", "augment"), [(300, 1e-5, "heavy"), (3_000, 5e-5, "standard"), (20_000, 1e-4, "light")]
)
def test_choose_options_of_the_guide_has_its_values(images, rate, augment):
    small = facts(images=images)
    values = {choice.option: choice.value for choice in recipes.choose_options(small, "guide")}
    assert (values["learning_rate"], values["augment"]) == (rate, augment)
    assert 4 <= values["per_device_train_batch_size"] <= 32


def test_undertraining_warning_names_the_measured_rate():
    assert "0.0004 measured best" in recipes.undertraining_warning(facts(), 1e-5)
    assert recipes.undertraining_warning(facts(), 5e-5) is None
    assert recipes.undertraining_warning(facts(family="vit"), 1e-5) is None
    assert "0.001 measured best" in recipes.undertraining_warning(facts(mode="head"), 1e-5)
    assert recipes.undertraining_warning(facts(pretrained=False), 1e-5) is None


def test_choose_options_gives_transformers_lower_rates_than_cnns():
    assert 1e-5 <= chosen(family="vit")["learning_rate"] <= 1e-4
    assert 3e-4 <= chosen(family="cnn")["learning_rate"] <= 6e-4


def test_choose_options_selects_by_macro_f1_on_skewed_classes():
    assert chosen(imbalance=5.0)["metric_for_best_model"] == "accuracy"
    assert chosen(imbalance=5.1)["metric_for_best_model"] == "macro_f1"


def test_choose_options_weighs_skewed_classes_unless_the_sampler_balances_them():
    assert "class_weights" not in chosen(imbalance=5.0)
    assert chosen(imbalance=5.1)["class_weights"] == "balanced"
    assert "class_weights" not in chosen(imbalance=100.0, balanced_sampler=True)


def test_train_px_of_cnns_is_below_a_large_input():
    assert recipes.train_px("cnn", 288).value == 192
    assert recipes.train_px("cnn", 224).value == recipes.train_px("vit", 224).value == 224
    assert recipes.train_px("vit", 384).value == 384


def test_choose_options_does_not_mirror_digits():
    assert chosen(is_demo=True, pretrained=False)["flip"] == "none"
    assert chosen()["flip"] == "horizontal"


def test_choose_options_gives_every_choice_a_reason():
    assert all(choice.reason for choice in recipes.choose_options(facts()))


def test_open_choices_leave_out_what_the_user_set():
    choices = recipes.choose_options(facts())
    assert [c for c in recipes.open_choices(choices, {"learning_rate"}) if c.option == "learning_rate"] == []
    assert len(recipes.open_choices(choices, {"learning_rate"})) == len(choices) - 1


def test_choice_lines_show_option_value_and_reason():
    lines = recipes.choice_lines([recipes.Choice("learning_rate", 0.5, "just so")])
    assert lines[0] == "options by recipe:"
    assert lines[1].split() == ["learning_rate", "0.5", "just", "so"]
    assert recipes.choice_lines([]) == []


@pytest.mark.parametrize(
    ("family", "images", "mode"),
    [("cnn", 999, "probe_then_full"), ("cnn", 1_000, "probe_and_full"), ("vit", 50_000, "probe_then_full")],
)
def test_auto_tuning_mode_by_family_and_number_of_images(family, images, mode):
    assert recipes.auto_tuning_mode(family, images) == mode
    values = chosen(images=images, family=family, mode=mode)
    assert values["num_train_epochs"] <= 5
    assert values["batch_norm"] == ("train" if mode == "probe_and_full" else "hold")


@pytest.mark.parametrize(
    ("family", "own_px", "short_side_px", "expected"),
    [
        ("cnn", 224, 10, 160),
        ("cnn", 224, 32, 160),
        ("cnn", 224, 40, 192),
        ("cnn", 224, 64, 224),
        ("cnn", 224, 288, 288),
        ("cnn", 224, 287, 224),
        ("cnn", 384, 2000, 384),
        ("cnn", 128, 10, 128),
        ("vit", 224, 10, 224),
        ("vit", 224, 2000, 224),
    ],
)
def test_input_px_follows_the_size_of_the_images(family, own_px, short_side_px, expected):
    assert recipes.input_px(family, own_px, short_side_px) == expected


def test_choose_options_gives_small_inputs_more_epochs():
    facts = recipes.Facts(1200, 10, 1.0, "cnn", pretrained=True, mode="probe_and_full", smaller_input=True)
    (epochs,) = [c.value for c in recipes.choose_options(facts) if c.option == "num_train_epochs"]
    assert epochs == 6
