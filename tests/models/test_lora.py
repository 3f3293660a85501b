"""Adapters for all eight architectures: what is trained, and that saved, loaded and merged models agree."""

import peft
import pytest
import tiny
import torch

from imgcls.models import classifier, lora, param_groups, source


@pytest.fixture(scope="module", params=sorted(tiny.HUB_IDS))
def folder(request, tmp_path_factory):
    return tiny.write(request.param, tmp_path_factory.mktemp(request.param))


def build(folder):
    torch.manual_seed(0)
    return classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b", "c"])


def logits(network, pixels):
    network.eval()
    with torch.no_grad():
        return network(pixel_values=pixels).logits


def test_add_lora_trains_adapters_and_head_alone_and_all_forms_agree(folder, tmp_path):
    classifier = build(folder)
    wrapped = lora.add_lora(classifier, rank=4)
    param_groups.freeze_batch_norm(wrapped)
    pixels = torch.randn(4, 3, classifier.image_px, classifier.image_px, generator=torch.Generator().manual_seed(1))
    untouched = logits(build(folder).network, pixels)
    torch.testing.assert_close(logits(wrapped, pixels), untouched, atol=1e-5, rtol=0)  # adapters start at zero

    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    rates = param_groups.LearningRates(lora.head_names(wrapped), head_lr_multiplier=2.0)
    groups = param_groups.parameter_groups(wrapped, rates, learning_rate=1e-2, weight_decay=0.0)
    assert {group["lr"] for group in groups} == {1e-2, 2e-2}
    optimizer = torch.optim.AdamW(groups)
    wrapped.train()
    loss = torch.nn.functional.cross_entropy(wrapped(pixel_values=pixels).logits, torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optimizer.step()
    changed = {name for name, value in wrapped.state_dict().items() if not torch.equal(value, before[name])}
    allowed = {n for n in before if ".lora_A." in n or ".lora_B." in n or ".modules_to_save." in n}
    assert changed <= allowed  # no base weight and no batch norm statistic
    second_factors = {n for n in allowed if ".lora_B." in n or ".modules_to_save." in n}
    assert second_factors <= changed  # in each adapter the second factor, which starts at 0, changes in the first step

    trained = logits(wrapped, pixels)
    assert (trained - untouched).abs().max() > 1e-3
    lora.save_adapter(wrapped, str(tmp_path / "adapter"))
    loaded = peft.PeftModel.from_pretrained(build(folder).network, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded, pixels), trained, atol=1e-5, rtol=0)
    merged = lora.merge_adapter(wrapped)
    assert merged is classifier.network
    assert set(merged.state_dict()) == set(build(folder).network.state_dict())
    torch.testing.assert_close(logits(merged, pixels), trained, atol=1e-5, rtol=0)


def test_add_lora_freezes_most_weights(folder):
    classifier = build(folder)
    trainable, total = lora.add_lora(classifier, rank=4).get_nb_trainable_parameters()
    assert 0 < trainable < total


def test_lora_targets_exclude_depthwise_and_grouped_convolutions(tmp_path):
    classifier = build(tiny.write("mobilenetv3-small", tmp_path))
    modules = dict(classifier.network.named_modules())
    targets = [modules[name] for name in lora.lora_targets(classifier)]
    assert targets
    assert all(getattr(m, "groups", 1) == 1 for m in targets)
    assert any(getattr(m, "groups", 1) > 1 for m in modules.values())
