"""Depth of each parameter, its learning rate and weight decay, and frozen batch norm statistics."""

import pytest
import tiny
import torch

from imgcls.models import classifier, classifier_head, param_groups, source

BLOCKS = {  # stem, numbered blocks, what comes after them, head
    "vit-base": 1 + 2 + 1 + 1,
    "resnet-18": 1 + 4 + 1,
    "resnet-50": 1 + 4 + 1,
    "efficientnet-b0": None,
    "mobilenetv3-small": 1 + 6 + 1 + 1,
}


@pytest.fixture(scope="module", params=sorted(BLOCKS))
def network(request, tmp_path_factory):
    folder = tiny.write(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b", "c"]).network


def test_layer_depths_rise_from_the_stem_to_the_head(network):
    name, net = network
    head = classifier_head.head_names(net.config)
    depth = param_groups.layer_depths(net, head)
    assert set(depth) == {n for n, _ in net.named_parameters()}
    in_order = [depth[n] for n, _ in net.named_parameters() if n not in head]
    assert in_order == sorted(in_order)
    assert in_order[0] == 0
    assert {depth[n] for n in head} == {max(depth.values())}
    assert set(depth.values()) == set(range(max(depth.values()) + 1))
    assert BLOCKS[name] in (None, max(depth.values()) + 1)


def test_parameter_groups_hold_every_parameter_once_with_its_rate_and_decay(network):
    _, net = network
    head = classifier_head.head_names(net.config)
    rates = param_groups.LearningRates(head, layer_decay=0.5, head_lr_multiplier=10)
    groups = param_groups.parameter_groups(net, rates, learning_rate=1e-3, weight_decay=0.1)
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(settings) == len(list(net.parameters()))
    depth = param_groups.layer_depths(net, head)
    deepest = max(depth.values())
    for name, parameter in net.named_parameters():
        rate, decay = settings[id(parameter)]
        assert rate == pytest.approx(1e-2 if name in head else 1e-3 * 0.5 ** (deepest - 1 - depth[name])), name
        assert (decay == 0) == (parameter.ndim < 2 or name.endswith(("_embeddings", "_token"))), name
    assert [g["lr"] for g in groups] == sorted((g["lr"] for g in groups), reverse=True)


def test_parameter_groups_exclude_frozen_parameters(network):
    _, net = network
    first = next(net.parameters())
    first.requires_grad_(False)
    groups = param_groups.parameter_groups(
        net, param_groups.LearningRates(classifier_head.head_names(net.config)), 1e-3, 0.0
    )
    first.requires_grad_(True)
    assert id(first) not in {id(p) for g in groups for p in g["params"]}


def test_freeze_batch_norm_keeps_the_statistics_in_training_mode(tmp_path):
    folder = tiny.write("mobilenetv3-small", tmp_path)
    net = classifier.build_classifier(source.resolve_model(str(folder)), ["a", "b"]).network
    pixels = torch.rand(4, 3, 64, 64)

    def statistics():
        return {n: b.clone() for n, b in net.named_buffers() if "running" in n}

    before = statistics()
    param_groups.freeze_batch_norm(net)
    net.train()
    net(pixel_values=pixels).logits.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in statistics().items())
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(m.weight.grad is not None for m in norms)  # scale and shift still train
    assert net.training
