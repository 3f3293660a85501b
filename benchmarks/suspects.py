"""How many of labels that were swapped on purpose stand among as many first suspects, beside sorting by loss.

    python benchmarks/suspects.py --data FOLDER --model CHECKPOINT --seeds 1 2 3

Swaps `--share` of the labels for another class each, drawn by chance, trains with `--folds 5`, and looks at the k
likeliest suspects, k being the number swapped: of so many, precision and recall are the same number. Sorting by loss:
of the same fold models on images that they did not see; and of the run's own model on the images it was trained on.
By chance: the share. Prints a line a seed, means with standard errors, and writes JSON.
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

from imgcls.data import location
from imgcls.dataloading import preprocessing
from imgcls.evaluation import calibration, label_errors, scores
from imgcls.models import inference
from imgcls.storage import run_folder

TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"


def swapped(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Labels (N,) of which a share is another class."""
    rng = np.random.default_rng(seed)
    at = rng.permutation(len(labels))[: round(share * len(labels))]
    found = labels.copy()
    found[at] = (labels[at] + rng.integers(1, classes, len(at))) % classes
    return found


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image (N,)."""
    return -scores.log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]


def one(listing, model: str, share: float, seed: int, flags: list[str], scratch: Path) -> dict[str, float]:
    """Precision at k of each order."""
    classes = listing.classes
    true = np.array([classes.index(f.label) for f in listing.files])
    given = swapped(true, share, len(classes), seed)
    files = listing.paths()
    table, folder = scratch / f"{seed}.csv", scratch / f"run{seed}"
    with open(table, "w", newline="") as out:
        csv.writer(out).writerows([("path", "label"), *((f, classes[g]) for f, g in zip(files, given, strict=True))])
    command = [sys.executable, str(TRAIN), "--data", str(table), "--model", model, "--output_dir", str(folder)]
    subprocess.run([*command, "--folds", "5", "--seed", str(seed), *flags], check=True, stdout=subprocess.DEVNULL)

    run = run_folder.RunFolder(folder)
    rows, kept = run.read_csv(run_folder.OUT_OF_FOLD), run.read_logits(run_folder.OUT_OF_FOLD_LOGITS)
    place = {file: i for i, file in enumerate(files)}
    at = np.array([place[row["path"]] for row in rows])
    wrong = (given != true)[at]
    k = int((given != true).sum())
    temperature = run.read_json(run_folder.CALIBRATION)["temperature"]
    opinions = [calibration.probabilities(kept["out_of_fold"], temperature)]
    opinions += [calibration.probabilities(kept["probes"][:, m]) for m in range(kept["probes"].shape[1])]
    network, processor = inference.load_model(folder, torch.device("cpu"))
    stream = inference.stream_outputs(
        inference.logits_function(network),
        [files[i] for i in at],
        lambda f: preprocessing.evaluation_pixels(f, processor),
        batch=16,
        device=torch.device("cpu"),
    )
    learned = np.concatenate([logits for _, logits, _ in stream])
    orders = {
        "suspects": label_errors.rank_label_errors(given[at], opinions)[1],
        "loss of the fold models": np.argsort(-losses(kept["out_of_fold"], given[at]), kind="stable"),
        "loss of the trained model": np.argsort(-losses(learned, given[at]), kind="stable"),
    }
    found = {name: float(wrong[order[:k]].mean()) for name, order in orders.items()}
    listed = [place[row["path"]] for row in run.read_csv(run_folder.SUSPECTS)]
    hits = int((given != true)[listed].sum())
    return found | {"chance": k / len(files), "k": k, "listed": len(listed), "right of the listed": hits}


def main() -> None:
    """Swap, train, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="class folders whose labels are right")
    parser.add_argument("--model", required=True, help="as train.py takes it")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--flags", default="", help="more options of train.py")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    listing = location.read_listing(Path(options.data))
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            flags = options.flags.split()
            found.append(one(listing, options.model, options.share, seed, flags, Path(scratch)))
            print(f"seed {seed}: {found[-1]}", flush=True)
    for name in ("suspects", "loss of the fold models", "loss of the trained model", "chance"):
        values = np.array([row[name] for row in found])
        print(f"  {name:<26} {values.mean():.3f} +- {values.std(ddof=1) / len(values) ** 0.5:.3f}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
