"""Every number against scikit-learn and against a second, obvious implementation."""

import json
import math
import pickle
import warnings
from fractions import Fraction

import evaluate
import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from imgcls.errors import MetricError
from imgcls.evaluation.intervals import wilson_interval
from imgcls.evaluation.metrics import ImageClassification
from imgcls.evaluation.scores import (
    ECE_BINS,
    expected_calibration_error,
    log_softmax,
    most_confused,
    top_k_hits,
    weakest,
)


def names(k):
    return [f"c{i}" for i in range(k)]


def computed(logits, labels):
    return ImageClassification(names(np.shape(logits)[1])).compute(predictions=logits, references=labels)


# The obvious implementation: lists and loops, one image after the other, finite logits only.


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


def random_case(n, k, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (n, k)), rng.integers(0, k, n)


def one_class_only():
    logits, _ = random_case(40, 4, seed=1)
    return logits, np.full(40, 2)


def absent_class():
    logits, labels = random_case(60, 5, seed=2)
    return logits, np.where(labels == 3, 1, labels)


def absent_and_never_predicted():
    logits, labels = absent_class()
    logits[:, 3] = -100
    return logits, labels


def ties():
    rng = np.random.default_rng(3)
    return rng.integers(0, 2, (80, 7)).astype(float), rng.integers(0, 7, 80)


def all_equal():
    return np.zeros((30, 8)), np.arange(30) % 8


def huge():
    logits, labels = random_case(50, 6, scale=1e30, seed=4)
    return logits, labels


def all_right():
    labels = np.arange(20) % 4
    return np.eye(4)[labels] * 30, labels


def all_wrong():
    labels = np.arange(20) % 4
    return np.eye(4)[(labels + 1) % 4] * 30, labels


def least_bins():
    """Confidences of 1/30, right, and 1/10, wrong: the two lowest bins, whose gaps must not cancel."""
    logits = np.zeros((2, 30))
    logits[1, 0] = math.log(29 / 9)
    return logits, np.array([0, 1])


CASES = {
    "least bins": least_bins(),
    "random": random_case(500, 10),
    "flat": random_case(300, 6, scale=0.01),
    "sharp": random_case(300, 6, scale=50),
    "two classes": random_case(200, 2),
    "three classes": random_case(100, 3),
    "five classes": random_case(100, 5),
    "one image": random_case(1, 7),
    "1,000 classes": random_case(300, 1000),
    "one class only": one_class_only(),
    "absent class": absent_class(),
    "absent and never predicted": absent_and_never_predicted(),
    "ties": ties(),
    "all equal": all_equal(),
    "huge": huge(),
    "all right": all_right(),
    "all wrong": all_wrong(),
    "shifted": (random_case(100, 5)[0] + 1e6, random_case(100, 5)[1]),
    "large negative": (random_case(100, 5)[0] - 1e12, random_case(100, 5)[1]),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_equals_the_obvious(case):
    ours, theirs = computed(*case), obvious(*case)
    assert ours["confusion_matrix"] == theirs.pop("confusion_matrix")
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_equals_scikit_learn(case):
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
def test_loss_and_top5_equal_scikit_learn(name):
    logits, labels = CASES[name]
    k = logits.shape[1]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    ours = computed(logits, labels)
    assert ours["loss"] == pytest.approx(sk.log_loss(labels, p, labels=range(k)))
    if k > 5:
        assert ours["top5_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, p, k=5, labels=range(k)))


def test_loss_equals_torch(case):
    logits, labels = map(torch.from_numpy, case)
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert computed(logits, labels)["loss"] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 3, 7, 64])
def test_a_stream_of_odd_batches_equals_one(case, batch):
    logits, labels = case
    module = ImageClassification(names(logits.shape[1]))
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        module.add_batch(predictions=logits[part], references=labels[part])
    module.add_batch(predictions=logits[:0], references=labels[:0])
    streamed, whole = module.compute(), computed(logits, labels)
    assert streamed.keys() == whole.keys()
    for name, value in whole.items():
        if isinstance(value, float):
            assert streamed[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        else:
            assert streamed[name] == value, name


def test_images_one_by_one():
    logits, labels = CASES["ties"]
    module = ImageClassification(names(7))
    for row, label in zip(torch.from_numpy(logits), labels.tolist(), strict=True):
        module.add(prediction=row, reference=label)
    assert module.compute()["confusion_matrix"] == computed(logits, labels)["confusion_matrix"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_torch_input(dtype):
    logits, labels = CASES["random"]
    low = torch.from_numpy(logits).to(dtype).requires_grad_()
    ours = computed(low, torch.from_numpy(labels))
    expected = computed(low.detach().double().numpy(), labels)
    assert ours["confusion_matrix"] == expected["confusion_matrix"]
    assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.uint64])
def test_labels_of_any_integer_type(dtype):
    logits, labels = CASES["random"]
    assert computed(logits, labels.astype(dtype)) == computed(logits, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("junk", [0.0, math.nan])
def test_more_classes_than_the_labels_type_can_count(dtype, junk):
    logits = np.zeros((2, 1000))
    logits[1, 0] = junk
    matrix = computed(logits, np.array([0, 127], dtype))["confusion_matrix"]
    assert matrix[0][0] == matrix[127][0 if junk == 0 else 128] == 1


def test_float16_logits_are_summed_in_float64():
    logits = np.full((4, 3), 60_000, np.float16)
    assert computed(logits, np.array([0, 1, 2, 0]))["loss"] == pytest.approx(math.log(3))


def test_plain_lists():
    assert computed([[1.0, 0.0], [0.0, 1.0]], [0, 0])["confusion_matrix"] == [[1, 1], [0, 0]]


# Logits that are not finite.


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_images_that_are_not_finite_are_wrong(junk, k):
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


def test_nothing_finite():
    ours = computed(np.full((5, 3), np.nan), np.array([0, 1, 2, 0, 1]))
    assert ours["accuracy"] == ours["ece"] == ours["top5_accuracy"] == ours["macro_f1"] == 0
    assert ours["non_finite"] == 5


def test_non_finite_is_absent_when_all_is_well():
    assert "non_finite" not in computed(*CASES["random"])


# Use.


def test_plain_python_values():
    ours = computed(*CASES["random"])
    assert json.loads(json.dumps(ours)) == ours


def test_describes_itself():
    module = ImageClassification(names(3))
    assert module.name == "image_classification"
    module.add_batch(predictions=np.eye(3), references=np.arange(3))
    assert len(module) == 3
    assert "image_classification" in repr(module)


def test_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    computed(*CASES["random"])
    assert not list(tmp_path.iterdir())


def test_works_in_other_processes():
    """Half of the images here, the module as it then is sent to where the other half is."""
    logits, labels = CASES["ties"]
    module = ImageClassification(names(7))
    module.add_batch(predictions=logits[:40], references=labels[:40])
    module = pickle.loads(pickle.dumps(module))
    module.add_batch(predictions=logits[40:], references=labels[40:])
    assert module.compute()["confusion_matrix"] == computed(logits, labels)["confusion_matrix"]


def test_compute_starts_anew():
    logits, labels = CASES["random"]
    module = ImageClassification(names(10))
    first = module.compute(predictions=logits, references=labels)
    assert module.compute(predictions=logits, references=labels) == first
    with pytest.raises(MetricError, match="got none"):
        module.compute()
    module.add_batch(predictions=np.full((1, 10), np.nan), references=np.array([0]))
    module.compute()
    assert module.compute(predictions=logits, references=labels) == first


def test_nothing_to_compute():
    module = ImageClassification(names(3))
    with pytest.raises(MetricError, match="at least one image"):
        module.compute()
    with pytest.raises(MetricError, match="at least one image"):
        module.compute(predictions=np.zeros((0, 3)), references=[])
    with pytest.raises(MetricError, match="Expected logits"):
        module.compute(references=np.zeros(2, int))


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", "b", "a"]], ids=str)
def test_two_classes_are_needed(classes):
    with pytest.raises(MetricError, match="two classes"):
        ImageClassification(classes)


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
def test_wrong_input_leaves_the_sums_alone(logits, labels):
    module = ImageClassification(names(3))
    with pytest.raises(MetricError, match="Expected l"):
        module.add_batch(predictions=logits, references=labels)
    with pytest.raises(MetricError, match="got none"):
        module.compute()


def test_accuracy_interval_is_wilson_s():
    ours = computed(*CASES["random"])
    assert ours["accuracy_ci95"] == list(wilson_interval(round(500 * ours["accuracy"]), 500))


# The parts.


def test_log_softmax_of_any_size():
    logits = np.array([[1.7e308, -1.7e308, 0.0], [0.0, 0.0, 0.0], [-1e6, -1e6 - 1, -1e6 - 2]])
    found = log_softmax(logits)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    np.testing.assert_allclose(found[1], -math.log(3))
    np.testing.assert_allclose(found[2], log_softmax(np.array([[0.0, -1.0, -2.0]]))[0])
    assert log_softmax(np.zeros((0, 3))).shape == (0, 3)


def test_calibration_error_by_hand():
    """Bins of 1/15: 0 with 0.05 | 1/15 + a bit | 0.9, 0.92 (13.5 and 13.8, bin 14) | 1."""
    confidence = np.array([0.0, 0.05, 0.07, 0.90, 0.92, 1.0])
    correct = np.array([False, True, False, True, False, True])
    expected = (abs(0.05 - 1) + 0.07 + abs(1.82 - 1) + 0) / 6
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


@pytest.mark.parametrize("edge", range(1, ECE_BINS))
def test_calibration_bins_include_their_upper_end(edge):
    """A wrong image at the edge and a right one a little below share a bin, so their gaps partly cancel."""
    at = edge / ECE_BINS
    below, above = at - 1e-6, at + 1e-6
    right = np.array([True, False])
    together, apart = abs(at + below - 1) / 2, (abs(1 - above) + at) / 2
    assert expected_calibration_error(np.array([below, at]), right) == pytest.approx(together)
    assert expected_calibration_error(np.array([above, at]), right) == pytest.approx(apart)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 2)])
def test_calibration_error_of_nothing(n, m):
    with pytest.raises(MetricError, match="Expected two arrays"):
        expected_calibration_error(np.zeros(n), np.zeros(m, bool))


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_with_ties(k):
    logits, labels = CASES["ties"]
    expected = [
        label in sorted(range(7), key=lambda c: (-row[c], c))[:k] for row, label in zip(logits, labels, strict=True)
    ]
    assert top_k_hits(logits, labels, k).tolist() == expected


def test_top_1_is_argmax():
    for logits, labels in CASES.values():
        np.testing.assert_array_equal(top_k_hits(logits, labels, 1), logits.argmax(axis=1) == labels)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # statsmodels proportion_confint(method="wilson"), to four places
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
        (0, 1, 0.0, 0.7935),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(correct, n, low, high):
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5.1e-5)


def test_wilson_interval_solves_its_equation():
    """Its ends are the shares p at which |correct/n - p| = z * sqrt(p (1 - p) / n)."""
    z = 1.96
    for correct, n in [(1, 7), (50, 100), (999, 1000), (3, 10_000)]:
        for p in wilson_interval(correct, n, z):
            assert abs(correct / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n))
    for n in (1, 3, 10, 10_000_000):
        for correct in {0, 1, n // 2, n}:
            low, high = wilson_interval(correct, n)
            assert 0 <= low <= Fraction(correct, n) <= high <= 1


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_wilson_interval_of_nothing(correct, n):
    with pytest.raises(MetricError, match="correct <= n"):
        wilson_interval(correct, n)


def test_most_confused():
    matrix = [[9, 4, 0], [7, 9, 4], [1, 0, 9]]
    assert most_confused(matrix, "abc") == [("b", "a", 7), ("a", "b", 4), ("b", "c", 4)]
    assert most_confused(matrix, "abc", count=10)[-1] == ("c", "a", 1)
    assert len(most_confused(matrix, "abc", count=10)) == 4
    assert most_confused(np.array(matrix), "abc", count=1) == [("b", "a", 7)]
    assert most_confused([[3, 0], [0, 4]], "ab") == []


def test_weakest():
    logits = np.eye(4)[[0, 0, 1, 0, 2, 0, 0]]
    per_class = computed(logits, np.array([0, 0, 1, 1, 2, 2, 2]))["per_class"]
    assert weakest(per_class) == ["c2", "c0", "c1"]  # F1 1/2, 4/7, 2/3; c3 does not occur
    assert weakest(per_class, count=1) == ["c2"]
    faultless = computed(np.eye(3), np.arange(3))["per_class"]
    assert weakest(faultless) == []


def test_weakest_with_a_class_never_right():
    per_class = computed(*CASES["all wrong"])["per_class"]
    assert weakest(per_class, count=2) == ["c0", "c1"]
    assert all(numbers["f1"] == 0 for numbers in per_class.values())
