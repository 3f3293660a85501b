"""Does measuring find the model that fine-tunes best? recommend.py --measure against train.py, model by model.

    python benchmarks/ranking.py --data FOLDER --models CHECKPOINT CHECKPOINT ...

A fifth of the images is set aside to test on; neither side sees it. Prints each model's probe accuracy and its test
accuracy after full fine-tuning (mean over seeds), their rank correlation, what taking the pick costs in accuracy, and
seconds of both; writes JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from recipe import TRAIN, train
from scipy.stats import spearmanr
from sklearn.model_selection import train_test_split

from imgcls.data import location
from imgcls.system import hardware

RECOMMEND = TRAIN.with_name("recommend.py")


def main() -> None:
    """Measure, fine-tune, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="class folders")
    parser.add_argument("--models", required=True, nargs="+", help="as train.py takes them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--images", type=int, help="take so many images, each class its share (default: all)")
    parser.add_argument("--flags", default="--tune full", help="of train.py")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    listing = location.read_listing(Path(options.data))
    rows = [(str(listing.absolute(f)), f.label) for f in listing.files]
    if options.images:
        rows, _ = train_test_split(rows, train_size=options.images, stratify=[r[1] for r in rows], random_state=0)
    label_of = dict(rows)
    learned, tested = train_test_split(rows, test_size=0.2, stratify=[r[1] for r in rows], random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IMGCLS_CACHE"] = folder  # nothing is known of these images beforehand
        table = Path(folder) / "table.csv"
        with open(table, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split"])
            writer.writerows([*row, split] for part, split in ((learned, "train"), (tested, "test")) for row in part)
        start = time.perf_counter()
        command = [sys.executable, str(RECOMMEND), "--data", str(table), "--json", "--measure", *options.models]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        measuring_s = time.perf_counter() - start
        probe = {row["model"]: row["accuracy"] for row in found["models"]}
        tuned, tuning_s = {}, 0.0
        for i, model in enumerate(options.models):
            shares = []
            for seed in options.seeds:
                start = time.perf_counter()
                predicted = train(table, model, seed, options.flags, Path(folder) / f"run{i}-{seed}")
                tuning_s += (time.perf_counter() - start) / len(options.seeds)
                shares.append(np.mean([name == label_of[path] for path, name in predicted.items()]))
            tuned[model] = float(np.mean(shares))
            print(f"  {Path(model).name:<44} probe {probe[model]:.3f}  fine-tuned {tuned[model]:.3f}", flush=True)
    rank = float(spearmanr([probe[m] for m in options.models], [tuned[m] for m in options.models]).statistic)
    lost = max(tuned.values()) - tuned[found["pick"]]
    print(f"{len(learned)} images, {len(tested)} tested, seeds {options.seeds}, {hardware.device_name()}")
    print(f"  rank correlation {rank:.2f}; pick {Path(found['pick']).name}, accuracy lost by it {lost:.3f}")
    print(f"  measuring {measuring_s:.0f} s, fine-tuning all {tuning_s:.0f} s")
    if options.out:
        result = {"probe": probe, "tuned": tuned, "pick": found["pick"], "rank": rank, "lost": lost}
        options.out.write_text(json.dumps(result | {"seconds": [measuring_s, tuning_s]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
