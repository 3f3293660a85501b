"""The default recipe against a probe on frozen features and the stock fine-tuning settings, on the same folds.

    python benchmarks/recipe.py --data FOLDER --model CHECKPOINT

Stratified folds; each is the test split once, so every image is tested once and chooses nothing. All arms train on
the same images: those that train.py leaves after taking its validation split from the rest. `--arm NAME FLAGS` adds
a train.py run with other options. Prints a table of accuracies and paired differences, and writes JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms import v2
from transformers import Trainer, TrainingArguments, set_seed

from imgcls import dataset, images, machine, model, source, transforms

TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"
DRAWS = 10_000  # bootstrap


def rows_of(file: Path) -> list[dict]:
    """Rows of a CSV file as dicts."""
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def train(table: Path, checkpoint: str, seed: int, flags: str, run: Path) -> dict[str, str]:
    """path -> predicted class of the test images, after scripts/train.py with `flags`."""
    command = [sys.executable, str(TRAIN), "--data", str(table), "--model", checkpoint, "--seed", str(seed)]
    subprocess.run([*command, "--output_dir", str(run), *flags.split()], check=True, stdout=subprocess.DEVNULL)
    return {row["path"]: row["predicted"] for row in rows_of(run / "predictions.csv") if row["split"] == "test"}


def built(checkpoint: str, classes: list[str], seed: int) -> model.Classifier:
    """The pretrained network with a fresh head."""
    set_seed(seed)
    return model.build(source.fetch(source.locate(checkpoint)), classes)


def probe(checkpoint: str, classes: list[str], seed: int, pixels: dict, learned: list, tested: list) -> dict:
    """Logistic regression on what the head's linear layer is given; standardised, C = 0.01."""
    network = built(checkpoint, classes, seed).network.eval()
    seen = []
    head = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1)))

    def features(paths: list[str]) -> np.ndarray:
        seen.clear()
        with torch.no_grad():
            for path in paths:
                network(pixel_values=pixels[path][None])
        return torch.cat(seen).numpy()

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    fitted.fit(features([path for path, _ in learned]), [label for _, label in learned])
    return dict(zip(tested, fitted.predict(features(tested)), strict=True))


def stock(checkpoint: str, classes: list[str], seed: int, pixels: dict, learned: list, tested: list, root: Path):
    """transformers' image-classification example: AdamW 5e-5 falling linearly, 3 epochs, batch 8, crop 0.08 to 1."""
    classifier = built(checkpoint, classes, seed)
    network, px = classifier.network, classifier.image_px
    half = transforms.DeviceHalf(classifier.processor, transforms.Plan(), px)  # only normalises
    vary = v2.Compose([v2.RandomResizedCrop(px), v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def collate(samples: list) -> dict:
        cropped = torch.stack([vary(images.load_rgb(str(root / path))) for path, _ in samples])
        labels = torch.tensor([classes.index(label) for _, label in samples])
        return {"pixel_values": half(cropped, torch.zeros(len(samples), transforms.DRAWS)), "labels": labels}

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder, seed=seed, learning_rate=5e-5, num_train_epochs=3, per_device_train_batch_size=8,
            save_strategy="no", report_to="none", remove_unused_columns=False, disable_tqdm=True,
            **machine.defaults(),
        )  # fmt: skip
        Trainer(network, args, data_collator=collate, train_dataset=learned).train()
    network.eval().cpu()
    with torch.no_grad():
        return {p: classes[int(network(pixel_values=pixels[p][None]).logits.argmax())] for p in tested}


def paired(first: np.ndarray, second: np.ndarray) -> dict:
    """Mean of first - second over images with a 95 % interval by bootstrap over images."""
    difference = first - second
    rng = np.random.default_rng(0)
    means = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(DRAWS)]
    return {"difference": difference.mean(), "ci95": np.quantile(means, [0.025, 0.975]).tolist()}


def main() -> None:
    """Run every arm on every fold and seed; print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="class folders")
    parser.add_argument("--model", required=True, help="as train.py takes it")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--arm", nargs=2, action="append", default=[], metavar=("NAME", "FLAGS"))
    parser.add_argument("--only_arms", action="store_true", help="leave probe and stock settings out")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    machine.prepare()

    listing = dataset.read_listing(Path(options.data))
    root, paths = listing.root.resolve(), [f.path for f in listing.files]
    label_of = {f.path: f.label for f in listing.files}
    labels = [label_of[p] for p in paths]
    processor = built(options.model, listing.classes, 0).processor
    pixels = {p: transforms.evaluation_pixels(str(root / p), processor) for p in paths}
    correct: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            right: dict[str, dict[str, float]] = {}
            folds = StratifiedKFold(options.folds, shuffle=True, random_state=seed).split(paths, labels)
            for k, (_, held_out) in enumerate(folds):
                tested = [paths[i] for i in held_out]
                table = Path(folder) / f"fold{k}-seed{seed}.csv"
                with open(table, "w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["path", "label", "split"])
                    writer.writerows([root / p, label_of[p], "test" if p in tested else "train"] for p in paths)
                found = {}
                for name, flags in [("recipe", ""), *options.arm]:
                    run = Path(folder) / f"{table.stem}-{name}"
                    predicted = train(table, options.model, seed, flags, run)
                    found[name] = {str(Path(p).relative_to(root)): label for p, label in predicted.items()}
                split = rows_of(Path(folder) / f"{table.stem}-recipe" / "split.csv")
                learned = [(str(Path(r["path"]).relative_to(root)), r["label"]) for r in split if r["split"] == "train"]
                if not options.only_arms:
                    arguments = (options.model, listing.classes, seed, pixels, learned, tested)
                    found["probe"] = probe(*arguments)
                    found["stock"] = stock(*arguments, root)
                for name, predicted in found.items():
                    assert set(predicted) == set(tested), name
                    right.setdefault(name, {}).update({p: float(predicted[p] == label_of[p]) for p in tested})
                line = {name: f"{np.mean([r[p] for p in tested]):.3f}" for name, r in right.items()}
                print(f"seed {seed} fold {k}: {len(learned)} to train on, {len(tested)} tested, {line}", flush=True)
            for name, r in right.items():
                correct.setdefault(name, []).append(np.array([r[p] for p in paths]))
    report(correct, options)


def report(correct: dict[str, list[np.ndarray]], options: argparse.Namespace) -> None:
    """Print accuracies and differences, each image averaged over seeds, and write them."""
    mean = {name: np.mean(arrays, axis=0) for name, arrays in correct.items()}
    result = {"images": len(mean["recipe"]), "folds": options.folds, "seeds": options.seeds, "machine": machine.name()}
    result["accuracy"] = {name: float(values.mean()) for name, values in mean.items()}
    result["recipe minus"] = {name: paired(mean["recipe"], v) for name, v in mean.items() if name != "recipe"}
    print(f"{result['images']} images, {options.folds} folds, seeds {options.seeds}, {result['machine']}")
    for name, accuracy in result["accuracy"].items():
        line = f"  {name:<12} {accuracy:.3f}"
        if name != "recipe":
            against = result["recipe minus"][name]
            line += "   recipe minus it: {:+.3f} ({:+.3f} to {:+.3f})".format(against["difference"], *against["ci95"])
        print(line)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
