"""The metrics as a module of Hugging Face `evaluate`."""

import pickle

import evaluate
import numpy as np
import pytest
import torch
from logit_cases import CASES

from imgcls.errors import MetricError
from imgcls.evaluation.evaluate_adapter import ImageClassification


def names(k):
    return [f"c{i}" for i in range(k)]


def computed(logits, labels):
    return ImageClassification(names(np.shape(logits)[1])).compute(predictions=logits, references=labels)


def test_add_one_by_one_equals_one_batch():
    logits, labels = CASES["ties"]
    module = ImageClassification(names(7))
    for row, label in zip(torch.from_numpy(logits), labels.tolist(), strict=True):
        module.add(prediction=row, reference=label)
    assert module.compute()["confusion_matrix"] == computed(logits, labels)["confusion_matrix"]


def test_image_classification_describes_itself():
    module = ImageClassification(names(3))
    assert module.name == "image_classification"
    module.add_batch(predictions=np.eye(3), references=np.arange(3))
    assert len(module) == 3
    assert "image_classification" in repr(module)


def test_image_classification_writes_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    computed(*CASES["random"])
    assert not list(tmp_path.iterdir())


def test_image_classification_can_be_pickled_half_way():
    """Half of the images here, the module as it then is sent to where the other half is."""
    logits, labels = CASES["ties"]
    module = ImageClassification(names(7))
    module.add_batch(predictions=logits[:40], references=labels[:40])
    module = pickle.loads(pickle.dumps(module))
    module.add_batch(predictions=logits[40:], references=labels[40:])
    assert module.compute()["confusion_matrix"] == computed(logits, labels)["confusion_matrix"]


def test_compute_resets():
    logits, labels = CASES["random"]
    module = ImageClassification(names(10))
    first = module.compute(predictions=logits, references=labels)
    assert module.compute(predictions=logits, references=labels) == first
    with pytest.raises(MetricError, match="got none"):
        module.compute()
    module.add_batch(predictions=np.full((1, 10), np.nan), references=np.array([0]))
    module.compute()
    assert module.compute(predictions=logits, references=labels) == first


def test_compute_without_images_is_refused():
    module = ImageClassification(names(3))
    with pytest.raises(MetricError, match="at least one image"):
        module.compute()
    with pytest.raises(MetricError, match="at least one image"):
        module.compute(predictions=np.zeros((0, 3)), references=[])
    with pytest.raises(MetricError, match="Expected logits"):
        module.compute(references=np.zeros(2, int))
