"""transformers' image-classification example, as it comes, on one split: what a user gets without imgcls.

    python benchmarks/stock.py TABLE.csv CHECKPOINT PREDICTIONS.csv

AdamW at 5e-5 falling linearly to 0, 3 epochs, batch 8, random crop of 0.08 to 1 and flip. TABLE.csv: path, label and
split (train or test). Writes path and predicted class of the test images.
"""

from __future__ import annotations

import argparse
import csv
import tempfile

import torch
from torchvision.transforms import v2
from transformers import Trainer, TrainingArguments, set_seed

from imgcls.data import decoding
from imgcls.dataloading import augmentation, preprocessing, processor_spec
from imgcls.models import source
from imgcls.models.classifier import build_classifier
from imgcls.system import hardware


def main() -> None:
    """Train and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    hardware.configure_process()
    with open(options.table, newline="") as file:
        rows = list(csv.DictReader(file))
    learned = [(r["path"], r["label"]) for r in rows if r["split"] == "train"]
    tested = [r["path"] for r in rows if r["split"] == "test"]
    classes = sorted({label for _, label in learned})
    set_seed(options.seed)
    classifier = build_classifier(source.fetch_model(source.resolve_model(options.model)), classes)
    network, px = classifier.network, classifier.image_px
    spec = processor_spec.ProcessorSpec(classifier.processor)
    half = augmentation.DeviceAugmentation(spec, augmentation.AugmentationPlan())  # only normalises
    vary = v2.Compose([v2.RandomResizedCrop(px), v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def collate(samples: list) -> dict:
        cropped = torch.stack([vary(decoding.load_rgb(path)) for path, _ in samples])
        labels = torch.tensor([classes.index(label) for _, label in samples])
        return {
            "pixel_values": half(cropped, torch.zeros(len(samples), augmentation.PARAMS_PER_IMAGE)),
            "labels": labels,
        }

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder, seed=options.seed, learning_rate=5e-5, num_train_epochs=3,
            per_device_train_batch_size=8, save_strategy="no", report_to="none", remove_unused_columns=False,
            disable_tqdm=True, **hardware.training_defaults(),
        )  # fmt: skip
        Trainer(network, args, data_collator=collate, train_dataset=learned).train()
    network.eval().cpu()
    with torch.no_grad(), open(options.out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "predicted"])
        for path in tested:
            pixels = preprocessing.evaluation_pixels(path, classifier.processor)
            writer.writerow([path, classes[int(network(pixel_values=pixels[None]).logits.argmax())]])


if __name__ == "__main__":
    main()
