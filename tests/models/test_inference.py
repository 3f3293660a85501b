"""Logits of a saved model: each image once and in order, however the work is dealt out."""

import numpy as np
import pytest
import tiny
import torch
from drawings import photo
from transformers import pipeline

from imgcls.models import classifier, inference, source


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder with three classes, as a run leaves it."""
    folder = tmp_path_factory.mktemp("model")
    tiny.write("resnet-18", folder / "backbone")
    torch.manual_seed(0)
    built = classifier.build_classifier(source.resolve_model(str(folder / "backbone")), ["a", "b", "c"], image_px=64)
    built.network.save_pretrained(folder / "run")
    built.processor.save_pretrained(folder / "run")
    return folder / "run"


class Photos:
    """Photos as an evaluation view gives them."""

    def __init__(self, processor, count):
        self.processor, self.count = processor, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        pixels = self.processor(images=photo(90, 70, i), return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, "labels": 0}


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_logits_are_pipeline_s_whatever_the_batch(saved, batch):
    network, processor = inference.load_model(saved, torch.device("cpu"))
    logits = inference.compute_outputs(
        inference.logits_function(network), Photos(processor, 7), batch=batch, device=torch.device("cpu")
    )
    assert (logits.shape, logits.dtype) == ((7, 3), np.float32)
    predict = pipeline("image-classification", model=str(saved), top_k=None)
    for i, row in enumerate(torch.from_numpy(logits).softmax(1)):
        scores = {entry["label"]: entry["score"] for entry in predict(photo(90, 70, i))}
        assert [scores[name] for name in "abc"] == pytest.approx(row.tolist(), abs=1e-5)


def test_processes_share_the_images(saved):
    network, processor = inference.load_model(saved, torch.device("cpu"))
    view, options = Photos(processor, 7), {"batch": 2, "device": torch.device("cpu")}
    whole = inference.compute_outputs(inference.logits_function(network), view, **options)
    for processes in (2, 9):  # of nine, two have nothing to do
        parts = [
            inference.compute_outputs(inference.logits_function(network), view, part=(rank, processes), **options)
            for rank in range(processes)
        ]
        for rank, part in enumerate(parts):
            assert len(part) == len(whole[rank::processes])
            if len(part):
                np.testing.assert_allclose(part, whole[rank::processes], atol=1e-5)
