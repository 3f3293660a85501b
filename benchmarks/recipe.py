"""The defaults against plain fine-tuning, a probe on frozen features and the stock settings, on the same folds.

    python benchmarks/recipe.py --data FOLDER --model CHECKPOINT

Stratified folds; each is the test split once, so every image is tested once and chooses nothing. A CSV with a test
split is taken as it is. All arms train on the same images: those that train.py leaves after taking its validation
split from the rest. `--arm NAME FLAGS` adds a train.py run with other options. Prints a table of accuracies, macro
recalls, seconds of the whole command (the probe's: without start-up) and paired differences, and writes JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from transformers import set_seed

from imgcls.data import location
from imgcls.dataloading import preprocessing
from imgcls.models import classifier, source
from imgcls.system import hardware

STOCK = Path(__file__).parent / "stock.py"
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


def built(checkpoint: str, classes: list[str], seed: int) -> classifier.Classifier:
    """The pretrained network with a fresh head."""
    set_seed(seed)
    return classifier.build_classifier(source.fetch_model(source.resolve_model(checkpoint)), classes)


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
    with threadpool_limits(1):
        fitted.fit(features([path for path, _ in learned]), [label for _, label in learned])
    return dict(zip(tested, fitted.predict(features(tested)), strict=True))


def stock(table: Path, checkpoint: str, seed: int, out: Path) -> dict[str, str]:
    """path -> predicted class of the table's test images, by benchmarks/stock.py."""
    command = [sys.executable, str(STOCK), str(table), checkpoint, str(out), "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {row["path"]: row["predicted"] for row in rows_of(out)}


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
    parser.add_argument("--only_folds", type=int, help="the first so many of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--arm", nargs=2, action="append", default=[], metavar=("NAME", "FLAGS"))
    parser.add_argument("--only_arms", action="store_true", help="leave probe and stock settings out")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    hardware.configure_process()

    listing = location.read_listing(Path(options.data))
    files = [str(listing.absolute(f)) for f in listing.files]
    labels = np.array([f.label for f in listing.files])
    label_of = dict(zip(files, labels, strict=True))
    split_of = {f: of.split or "train" for f, of in zip(files, listing.files, strict=True)}
    fixed = [i for i, f in enumerate(listing.files) if f.split == "test"]
    processor = built(options.model, listing.classes, 0).processor
    pixels = {f: preprocessing.evaluation_pixels(f, processor) for f in files}
    correct: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IMGCLS_CACHE"] = folder  # nothing is known of these images beforehand
        for seed in options.seeds:
            right: dict[str, dict[str, float]] = {}
            folds = StratifiedKFold(options.folds, shuffle=True, random_state=seed).split(files, labels)
            for k, held_out in enumerate([fixed] if fixed else [test for _, test in folds][: options.only_folds]):
                tested = {files[i] for i in held_out}
                table = Path(folder) / f"fold{k}-seed{seed}.csv"
                with open(table, "w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["path", "label", "split"])
                    writer.writerows([f, label_of[f], "test" if f in tested else split_of[f]] for f in files)
                found = {}
                for name, flags in [("auto", ""), *options.arm]:
                    run = Path(folder) / f"{table.stem}-{name}"
                    shutil.rmtree(Path(folder) / "features", ignore_errors=True)
                    work = partial(train, table, options.model, seed, flags, run)
                    found[name] = timed(work, seconds.setdefault(name, []))
                split = rows_of(Path(folder) / f"{table.stem}-auto" / "split.csv")
                learned = [(r["path"], r["label"]) for r in split if r["split"] == "train"]
                with open(table, "w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerows([["path", "label", "split"], *([p, label, "train"] for p, label in learned)])
                    writer.writerows([p, label_of[p], "test"] for p in sorted(tested))
                if not options.only_arms:
                    arguments = (options.model, listing.classes, seed, pixels, learned, sorted(tested))
                    found["probe"] = timed(partial(probe, *arguments), seconds.setdefault("probe", []))
                    out = Path(folder) / f"{table.stem}-stock.csv"
                    work = partial(stock, table, options.model, seed, out)
                    found["stock"] = timed(work, seconds.setdefault("stock", []))
                for name, predicted in found.items():
                    assert set(predicted) == tested, name
                    right.setdefault(name, {}).update({p: float(predicted[p] == label_of[p]) for p in tested})
                line = {name: f"{np.mean([r[p] for p in tested]):.3f}" for name, r in right.items()}
                print(f"seed {seed} fold {k}: {len(learned)} to train on, {len(tested)} tested, {line}", flush=True)
            for name, r in right.items():
                correct.setdefault(name, []).append(r)
    report(correct, seconds, label_of, options)


def timed(work: Callable, seconds: list[float]) -> dict[str, str]:
    """What `work` gives; its duration is added to `seconds`."""
    start = time.perf_counter()
    found = work()
    seconds.append(time.perf_counter() - start)
    return found


def report(correct: dict[str, list[dict[str, float]]], seconds: dict, label_of: dict, options) -> None:
    """Print accuracies and differences, each image averaged over the seeds that tested it, and write them."""
    paths = sorted(set().union(*correct["auto"]))
    mean = {name: np.array([np.mean([r[p] for r in runs if p in r]) for p in paths]) for name, runs in correct.items()}
    label = np.array([label_of[p] for p in paths])
    result = {"images": len(label_of), "tested": len(paths), "folds": options.folds, "seeds": options.seeds}
    result["machine"] = hardware.device_name()
    print(f"{len(label_of)} images, {len(paths)} tested, seeds {options.seeds}, {result['machine']}")
    for name, values in mean.items():
        row = {
            "accuracy": values.mean(),
            "accuracy_by_seed": [float(np.mean(list(r.values()))) for r in correct[name]],
            "macro_recall": float(np.mean([values[label == c].mean() for c in sorted(set(label))])),
            "seconds": float(np.mean(seconds[name])),
        }
        result[name] = row
        line = f"  {name:<12} {row['accuracy']:.3f}  macro recall {row['macro_recall']:.3f}  {row['seconds']:6.1f} s"
        if name != "auto":
            against = row["auto minus it"] = paired(mean["auto"], values)
            line += "   auto minus it: {:+.3f} ({:+.3f} to {:+.3f})".format(against["difference"], *against["ci95"])
        print(line)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
