"""Every metric against scikit-learn, torch, and a second, obvious implementation."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from logit_cases import CASES, random_case
from sklearn import metrics as sk

from imgcls.errors import MetricError
from imgcls.evaluation.intervals import wilson_interval
from imgcls.evaluation.metrics import ClassificationMetrics
from imgcls.evaluation.scores import ECE_BINS, top_k_hits


def names(k):
    return [f"c{i}" for i in range(k)]


def computed(logits, labels):
    metrics = ClassificationMetrics(names(np.shape(logits)[1]))
    metrics.add_batch(logits, labels)
    return metrics.compute()


def obvious(logits, labels):
    logits, labels = np.asarray(logits, np.float64).tolist(), np.asarray(labels).tolist()
    n, k = len(labels), len(logits[0])
    matrix = [[0] * k for _ in range(k)]
    loss, top5, bins = 0.0, 0, [[] for _ in range(ECE_BINS)]
    for row, label in zip(logits, labels, strict=True):
        order = sorted(range(k), key=lambda c: (-row[c], c))
        most = row[order[0]]
        log_sum = math.log(math.fsum(math.exp(value - most) for value in row))  # above the largest
        matrix[label][order[0]] += 1
        loss += log_sum - (row[label] - most)
        top5 += label in order[:5]
        confidence = math.exp(-log_sum)
        b = next(i for i in range(ECE_BINS) if confidence <= (i + 1) / ECE_BINS or i == ECE_BINS - 1)
        bins[b].append((confidence, order[0] == label))
    ece = sum(abs(sum(c for c, _ in b) - sum(hit for _, hit in b)) for b in bins) / n
    f1s, recalls = [], []
    for c in range(k):
        hits = matrix[c][c]
        occurs, predicted = sum(matrix[c]), sum(row[c] for row in matrix)
        if occurs:
            recalls.append(hits / occurs)
        if occurs + predicted:
            f1s.append(2 * hits / (occurs + predicted))
    return {
        "images": n,
        "accuracy": sum(matrix[c][c] for c in range(k)) / n,
        "loss": loss / n,
        "top5_accuracy": top5 / n,
        "balanced_accuracy": sum(recalls) / len(recalls),
        "macro_f1": sum(f1s) / len(f1s),
        "ece": ece,
        "confusion_matrix": matrix,
    }


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_compute_equals_the_obvious_implementation(case):
    ours, theirs = computed(*case), obvious(*case)
    assert ours["confusion_matrix"] == theirs.pop("confusion_matrix")
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_compute_equals_scikit_learn(case):
    logits, labels = case
    k = logits.shape[1]
    everything = list(range(k))
    predicted = logits.argmax(axis=1)
    ours = computed(logits, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn on classes that do not occur
        occurring = sorted({*labels.tolist(), *predicted.tolist()})
        assert ours["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro", zero_division=0))
        assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
        precision, recall, f1, support = sk.precision_recall_fscore_support(
            labels, predicted, labels=everything, zero_division=0
        )
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    matrix = sk.confusion_matrix(labels, predicted, labels=everything)
    assert ours["confusion_matrix"] == matrix.tolist()
    for i, (name, numbers) in enumerate(ours["per_class"].items()):
        assert name == f"c{i}"
        assert numbers["support"] == support[i]
        assert (numbers["precision"] is None) == (i not in predicted)
        assert (numbers["recall"] is None) == (i not in labels)
        assert (numbers["f1"] is None) == (i not in occurring)
        assert (numbers["precision"] or 0) == pytest.approx(precision[i])
        assert (numbers["recall"] or 0) == pytest.approx(recall[i])
        assert (numbers["f1"] or 0) == pytest.approx(f1[i])


@pytest.mark.parametrize("name", ["random", "1,000 classes", "three classes", "absent class", "one class only"])
def test_compute_loss_and_top5_equal_scikit_learn(name):
    logits, labels = CASES[name]
    k = logits.shape[1]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    ours = computed(logits, labels)
    assert ours["loss"] == pytest.approx(sk.log_loss(labels, p, labels=range(k)))
    if k > 5:
        assert ours["top5_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, p, k=5, labels=range(k)))


def test_compute_loss_equals_torch(case):
    logits, labels = map(torch.from_numpy, case)
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert computed(logits, labels)["loss"] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_add_batch_in_odd_batches_equals_one_batch(case, batch):
    logits, labels = case
    module = ClassificationMetrics(names(logits.shape[1]))
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        module.add_batch(logits[part], labels[part])
    module.add_batch(logits[:0], labels[:0])
    streamed, whole = module.compute(), computed(logits, labels)
    assert streamed.keys() == whole.keys()
    for name, value in whole.items():
        if isinstance(value, float):
            assert streamed[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        else:
            assert streamed[name] == value, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_add_batch_takes_torch_tensors(dtype):
    logits, labels = CASES["random"]
    low = torch.from_numpy(logits).to(dtype).requires_grad_()
    ours = computed(low, torch.from_numpy(labels))
    expected = computed(low.detach().double().numpy(), labels)
    assert ours["confusion_matrix"] == expected["confusion_matrix"]
    assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.uint64])
def test_add_batch_takes_labels_of_any_integer_type(dtype):
    logits, labels = CASES["random"]
    assert computed(logits, labels.astype(dtype)) == computed(logits, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("junk", [0.0, math.nan])
def test_add_batch_with_more_classes_than_the_label_type_can_count(dtype, junk):
    logits = np.zeros((2, 1000))
    logits[1, 0] = junk
    matrix = computed(logits, np.array([0, 127], dtype))["confusion_matrix"]
    assert matrix[0][0] == matrix[127][0 if junk == 0 else 128] == 1


def test_add_batch_sums_float16_logits_in_float64():
    logits = np.full((4, 3), 60_000, np.float16)
    assert computed(logits, np.array([0, 1, 2, 0]))["loss"] == pytest.approx(math.log(3))


def test_add_batch_takes_plain_lists():
    assert computed([[1.0, 0.0], [0.0, 1.0]], [0, 0])["confusion_matrix"] == [[1, 1], [0, 0]]


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_compute_counts_non_finite_images_as_wrong(junk, k):
    logits, labels = random_case(40, k, seed=6)
    logits[[3, 17, 39], [0, 1, k - 1]] = junk
    ours = computed(logits, labels)
    sound = np.isfinite(logits).all(axis=1)
    hits = int((logits[sound].argmax(axis=1) == labels[sound]).sum())
    assert ours["images"] == 40
    assert ours["non_finite"] == 3
    assert ours["accuracy"] == hits / 40
    assert ours["loss"] == math.inf
    assert ours["ece"] == pytest.approx(obvious(logits[sound], labels[sound])["ece"])
    assert ours["top5_accuracy"] == pytest.approx(top_k_hits(logits[sound], labels[sound], min(5, k)).sum() / 40)
    assert sum(map(sum, ours["confusion_matrix"])) == 40
    assert [sum(row) for row in ours["confusion_matrix"]] == np.bincount(labels, minlength=k).tolist()


def test_compute_with_no_finite_image():
    ours = computed(np.full((5, 3), np.nan), np.array([0, 1, 2, 0, 1]))
    assert ours["accuracy"] == ours["ece"] == ours["top5_accuracy"] == ours["macro_f1"] == 0
    assert ours["non_finite"] == 5


def test_compute_has_no_non_finite_when_all_are_finite():
    assert "non_finite" not in computed(*CASES["random"])


def test_compute_returns_plain_python_values():
    ours = computed(*CASES["random"])
    assert json.loads(json.dumps(ours)) == ours


def test_compute_without_images_is_refused():
    with pytest.raises(MetricError, match="at least one image"):
        ClassificationMetrics(names(3)).compute()


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", "b", "a"]], ids=str)
def test_classification_metrics_needs_two_distinct_classes(classes):
    with pytest.raises(MetricError, match="two classes"):
        ClassificationMetrics(classes)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((4, 2)), np.zeros(4, int)),
        (np.zeros((4, 4)), np.zeros(4, int)),
        (np.zeros((4, 3)), np.zeros(5, int)),
        (np.zeros((4, 3)), np.zeros((4, 1), int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((2, 2, 3)), np.zeros(2, int)),
        (np.zeros((4, 3)), np.array([0, 1, 2, 3])),
        (np.zeros((4, 3)), np.array([0, 1, 2, -100])),
        (np.zeros((1, 3)), np.array([0.5])),
        (np.zeros((1, 3)), np.array([math.nan])),
        (np.zeros((1, 3)), None),
    ],
    ids=lambda v: str(np.shape(v)),
)
def test_add_batch_refuses_wrong_input_and_keeps_the_sums(logits, labels):
    module = ClassificationMetrics(names(3))
    with pytest.raises(MetricError, match="Expected l"):
        module.add_batch(logits, labels)
    with pytest.raises(MetricError, match="got none"):
        module.compute()


def test_compute_has_wilson_s_interval_of_accuracy():
    ours = computed(*CASES["random"])
    assert ours["accuracy_ci95"] == list(wilson_interval(round(500 * ours["accuracy"]), 500))
