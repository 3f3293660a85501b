"""Outputs of a saved model: each image once and in order, however the work is divided among threads and processes."""

import numpy as np
import pytest
import tiny
import torch
from drawings import photo
from transformers import pipeline

from imgcls.errors import ImageError, ModelError
from imgcls.models import inference, source
from imgcls.models.classifier import build_classifier

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model folder with three classes, as a run writes it."""
    folder = tmp_path_factory.mktemp("model")
    tiny.write("resnet-18", folder / "backbone")
    torch.manual_seed(0)
    model = build_classifier(source.resolve_model(str(folder / "backbone")), ["a", "b", "c"], image_px=64)
    model.network.save_pretrained(folder / "run")
    model.processor.save_pretrained(folder / "run")
    return folder / "run"


class Photos:
    """Samples like those of `EvaluationDataset`."""

    def __init__(self, processor, count):
        self.processor, self.count = processor, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        pixels = self.processor(images=photo(90, 70, i), return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, "labels": 0}


def constant_pixels(number):
    """An image whose pixels all are the item, which must not be a multiple of 5."""
    if number % 5 == 0:
        raise ImageError(f"image {number}")
    return torch.full((3, 2, 2), float(number))


def channel_sums(pixels):
    return pixels.sum(dim=(2, 3))


def test_load_model_refuses_a_backbone(tmp_path):
    folder = tiny.write("vit-base", tmp_path)
    with pytest.raises(ModelError, match=r"Expected a trained classifier in .* Train it first"):
        inference.load_model(folder, CPU)


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_compute_outputs_gives_the_logits_of_pipeline_for_every_batch_size(model_folder, batch):
    network, processor = inference.load_model(model_folder, CPU)
    logits = inference.compute_outputs(
        inference.logits_function(network), Photos(processor, 7), batch=batch, device=CPU
    )
    assert (logits.shape, logits.dtype) == ((7, 3), np.float32)
    predict = pipeline("image-classification", model=str(model_folder), top_k=None)
    for i, row in enumerate(torch.from_numpy(logits).softmax(1)):
        scores = {entry["label"]: entry["score"] for entry in predict(photo(90, 70, i))}
        assert [scores[name] for name in "abc"] == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.parametrize("processes", [2, 9])  # of nine, two have no images
def test_compute_outputs_divides_the_images_among_processes(model_folder, processes):
    network, processor = inference.load_model(model_folder, CPU)
    forward, dataset = inference.logits_function(network), Photos(processor, 7)
    logits = inference.compute_outputs(forward, dataset, batch=2, device=CPU)
    for rank in range(processes):
        part = inference.compute_outputs(forward, dataset, batch=2, device=CPU, part=(rank, processes))
        assert len(part) == len(logits[rank::processes])
        if len(part):
            np.testing.assert_allclose(part, logits[rank::processes], atol=1e-5)


def test_compute_outputs_raises_the_error_of_an_image():
    class Broken(Photos):
        def __getitem__(self, i):
            return {"pixel_values": constant_pixels(i)}

    with pytest.raises(ImageError, match="image 0"):
        inference.compute_outputs(channel_sums, Broken(None, 7), batch=2, device=CPU)


def test_stream_outputs_keeps_the_order_and_reports_images_that_cannot_be_read():
    batches = list(inference.stream_outputs(channel_sums, range(4, 11), constant_pixels, batch=2, device=CPU))
    assert [items for items, _, _ in batches] == [[4, 5], [6, 7], [8, 9], [10]]
    assert [outputs[:, 0].tolist() for _, outputs, _ in batches[:3]] == [[16], [24, 28], [32, 36]]
    assert batches[3].outputs.shape == (0, 0)
    assert [{position: str(error) for position, error in errors.items()} for _, _, errors in batches] == [
        {1: "image 5"}, {}, {}, {0: "image 10"},
    ]  # fmt: skip


def test_stream_outputs_reads_only_a_few_batches_ahead(monkeypatch):
    monkeypatch.setattr(inference.cpu, "available_cores", lambda: 2)
    monkeypatch.setattr(inference.torch, "get_num_threads", lambda: 2)
    taken = []

    def items():
        for number in range(1, 1000):
            taken.append(number)
            yield number

    stream = inference.stream_outputs(channel_sums, items(), lambda _: torch.ones(3, 2, 2), batch=1, device=CPU)
    for received in range(1, 20):
        next(stream)
        assert len(taken) == received + 4  # two batches for each of two threads
    stream.close()
    assert len(taken) == 23


def test_stream_outputs_restores_the_number_of_threads_when_it_is_left_early():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        stream = inference.stream_outputs(channel_sums, range(1, 5), constant_pixels, batch=1, device=CPU)
        next(stream)
        stream.close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
