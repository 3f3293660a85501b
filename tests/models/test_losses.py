"""The loss compared with torch's and with its formula; gradients with accumulation and several processes."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput

from imgcls.errors import OptionError
from imgcls.models.losses import PADDING_LABEL, ClassificationLoss, balanced_class_weights, soft_labels

N, K = 16, 5
SMOOTHING = [0.0, 0.1, 0.5]
WEIGHTS = torch.tensor([0.2, 0.6, 1.0, 1.4, 1.8])


def outputs(logits):
    return SimpleNamespace(logits=logits)


@pytest.fixture
def logits():
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels():
    return torch.randint(0, K, (N,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_classification_loss_equals_torch_without_weights(logits, labels, smoothing):
    loss = ClassificationLoss(label_smoothing=smoothing)(outputs(logits), labels)
    assert loss.shape == ()
    torch.testing.assert_close(loss, functional.cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_classification_loss_equals_the_formula_with_weights(logits, labels, smoothing):
    total = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        log_sum = torch.tensor(row).double().exp().sum().log().item()
        minus_log_p = [log_sum - value for value in row]
        smooth = sum(minus_log_p) / K
        total += WEIGHTS[label].item() * ((1 - smoothing) * minus_log_p[label] + smoothing * smooth)
    loss = ClassificationLoss(WEIGHTS, smoothing)(outputs(logits), labels)
    assert loss.item() == pytest.approx(total / N, rel=1e-6)


def test_classification_loss_takes_a_dict_of_outputs(logits, labels):
    loss = ClassificationLoss(WEIGHTS, 0.1)
    torch.testing.assert_close(loss({"logits": logits}, labels), loss(outputs(logits), labels))
    model_output = ImageClassifierOutput(logits=logits)
    torch.testing.assert_close(loss(model_output, labels), loss(outputs(logits), labels))


def test_classification_loss_is_float32_under_autocast(logits, labels):
    loss = ClassificationLoss(WEIGHTS, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(outputs(logits), labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(outputs(logits), labels))


def test_classification_loss_is_unchanged_by_weights_of_one(logits, labels):
    plain, weighted = ClassificationLoss(label_smoothing=0.1), ClassificationLoss(torch.ones(K), 0.1)
    torch.testing.assert_close(plain(outputs(logits), labels), weighted(outputs(logits), labels))


def accumulated_gradient(loss, logits, labels, size, count):
    """Sum of the gradients of batches of `size`, as accumulation adds them up."""
    leaf = logits.clone().requires_grad_()
    for start in range(0, N, size):
        part = slice(start, start + size)
        loss(outputs(leaf[part]), labels[part], num_items_in_batch=count).backward()
    return leaf.grad


@pytest.mark.parametrize("count", [16, torch.tensor(16)], ids=["int", "tensor"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_classification_loss_has_the_same_gradient_with_accumulation(logits, labels, weights, smoothing, count):
    loss = ClassificationLoss(weights, smoothing)
    whole = accumulated_gradient(loss, logits, labels, N, None)
    torch.testing.assert_close(accumulated_gradient(loss, logits, labels, 4, count), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(accumulated_gradient(loss, logits, labels, 3, count), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_classification_loss_has_the_same_gradient_in_two_processes(labels, weights):
    """Trainer multiplies the loss of each process by their number, and DDP averages the gradients."""
    generator = torch.Generator().manual_seed(2)
    images, matrix = torch.randn(N, 7, generator=generator), torch.randn(7, K, generator=generator)
    loss = ClassificationLoss(weights, 0.1)

    def gradient(rows, count, scale=1):
        leaf = matrix.clone().requires_grad_()
        (scale * loss(outputs(images[rows] @ leaf), labels[rows], num_items_in_batch=count)).backward()
        return leaf.grad

    one = gradient(slice(0, 16), None)
    two = (gradient(slice(0, 8), 16, 2) + gradient(slice(8, 16), 16, 2)) / 2
    torch.testing.assert_close(two, one, atol=1e-6, rtol=0)


def test_classification_loss_has_the_same_gradient_in_uneven_processes(logits, labels):
    """The last step of an epoch: one process has 8 images, the other 3 and 5 rows of padding."""
    loss = ClassificationLoss(WEIGHTS, 0.1)
    padded = labels.clone()
    padded[11:] = PADDING_LABEL
    whole = accumulated_gradient(loss, logits, padded, N, None)
    torch.testing.assert_close(accumulated_gradient(loss, logits, padded, 8, 11), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_classification_loss_ignores_padding(logits, labels, weights):
    loss = ClassificationLoss(weights, 0.1)
    rows = torch.arange(N) % 3 != 0
    padded = labels.where(rows, PADDING_LABEL)
    torch.testing.assert_close(loss(outputs(logits), padded), loss(outputs(logits[rows]), labels[rows]))
    assert accumulated_gradient(loss, logits, padded, N, None)[~rows].abs().max() == 0


@pytest.mark.parametrize("count", [None, 0, 16, torch.tensor(0), torch.tensor(16)], ids=str)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_classification_loss_of_padding_alone_is_zero(logits, weights, count):
    leaf = logits.clone().requires_grad_()
    labels = torch.full((N,), PADDING_LABEL)
    value = ClassificationLoss(weights, 0.1)(outputs(leaf), labels, num_items_in_batch=count)
    value.backward()
    assert value.item() == 0
    assert leaf.grad.abs().max() == 0


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_classification_loss_ignores_nan_and_inf_in_padding(logits, labels, value):
    padded = labels.clone()
    padded[3] = PADDING_LABEL
    logits_with_value = logits.clone()
    logits_with_value[3] = value
    loss = ClassificationLoss(WEIGHTS, 0.1)
    torch.testing.assert_close(loss(outputs(logits_with_value), padded), loss(outputs(logits), padded))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_classification_loss_sums_low_precision_in_float32(logits, labels, dtype):
    low = logits.to(dtype).requires_grad_()
    loss = ClassificationLoss(WEIGHTS, 0.1)
    value = loss(outputs(low), labels)
    value.backward()
    assert value.dtype == torch.float32
    assert low.grad.dtype == dtype
    torch.testing.assert_close(value, loss(outputs(logits.to(dtype).float()), labels))


def test_classification_loss_is_finite_for_huge_logits(labels):
    logits = torch.zeros(N, K)
    logits[:, 0] = 1e30
    leaf = logits.requires_grad_()
    value = ClassificationLoss(label_smoothing=0.1)(outputs(leaf), labels)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(leaf.grad).all()


def test_classification_loss_can_be_pickled(logits, labels):
    loss = ClassificationLoss(WEIGHTS, 0.1)
    loaded = pickle.loads(pickle.dumps(loss))
    torch.testing.assert_close(loaded(outputs(logits), labels), loss(outputs(logits), labels))


@pytest.mark.parametrize("kind", [list, torch.tensor], ids=["list", "tensor"])
def test_balanced_class_weights_give_each_class_the_same_total(kind):
    labels = [0] * 1 + [1] * 2 + [2] * 7
    weights = balanced_class_weights(kind(labels), 3)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([10 / 3, 10 / 6, 10 / 21]))
    torch.testing.assert_close(weights[torch.tensor(labels)].mean(), torch.tensor(1.0))
    per_class = weights * torch.bincount(torch.tensor(labels))
    torch.testing.assert_close(per_class, torch.full((3,), 10 / 3))


def test_balanced_class_weights_of_balanced_classes_are_one():
    torch.testing.assert_close(balanced_class_weights([0, 1, 2] * 4, 3), torch.ones(3))


@pytest.mark.parametrize(("labels", "num_classes", "empty"), [([0, 0, 2], 3, "1"), ([0, 1], 3, "2"), ([], 2, "0, 1")])
def test_balanced_class_weights_need_images_of_every_class(labels, num_classes, empty):
    with pytest.raises(OptionError, match=f"every class .* none of class {empty}"):
        balanced_class_weights(labels, num_classes)


def test_classification_loss_of_soft_labels_is_the_mixture_of_both(logits, labels):
    other = labels.roll(1)
    targets = 0.7 * soft_labels(labels, K) + 0.3 * soft_labels(other, K)
    for loss in (ClassificationLoss(), ClassificationLoss(label_smoothing=0.1), ClassificationLoss(WEIGHTS, 0.1)):
        expected = 0.7 * loss(outputs(logits), labels) + 0.3 * loss(outputs(logits), other)
        torch.testing.assert_close(loss(outputs(logits), targets), expected)


def test_classification_loss_ignores_padding_that_was_mixed_in(logits, labels):
    padded = labels.clone()
    padded[5:] = PADDING_LABEL
    targets = 0.6 * soft_labels(padded, K) + 0.4 * soft_labels(padded, K).roll(1, 0)
    loss = ClassificationLoss()(outputs(logits), targets)
    log_p = functional.log_softmax(logits, -1)
    assert loss.item() == pytest.approx(-(targets * log_p).sum().item() / 5, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_classification_loss_with_gamma_is_the_focal_loss(logits, labels, gamma):
    p = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
    expected = (-((1 - p) ** gamma) * p.log()).mean()
    torch.testing.assert_close(ClassificationLoss(focal_gamma=gamma)(outputs(logits), labels), expected)
