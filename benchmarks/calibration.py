"""Calibration error before and after the temperature, on images that it was not fitted on.

    python benchmarks/calibration.py --data FOLDER --model CHECKPOINT --folds 5

Trains with `--folds`; of each fold the temperature is fitted on its validation images and judged on its test images,
which chose nothing. Prints the error over all of them with 95 % intervals by bootstrap, before, after, and of the
difference, and how many answers changed; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from imgcls.evaluation import calibration, intervals, scores
from imgcls.storage import run_folder

TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"


def split_of(fold: run_folder.RunFolder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) and labels (N,) of a split."""
    classes = fold.read_json(run_folder.METRICS)["classes"]
    labels = [classes.index(row["label"]) for row in fold.read_csv(run_folder.PREDICTIONS) if row["split"] == split]
    return fold.read_logits()[split], np.array(labels)


def main() -> None:
    """Train, fit, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="class folders")
    parser.add_argument("--model", required=True, help="as train.py takes it")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    before, after, temperatures = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            run = Path(scratch) / f"{seed}"
            command = [
                sys.executable,
                str(TRAIN),
                "--data",
                options.data,
                "--model",
                options.model,
                "--seed",
                str(seed),
            ]
            command += ["--folds", str(options.folds), "--output_dir", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for k in range(options.folds):
                fold = run_folder.RunFolder(run / run_folder.FOLDS / str(k + 1))
                temperatures.append(calibration.fit_temperature(*split_of(fold, "validation")))
                logits, labels = split_of(fold, "test")
                for seen, t in ((before, 1.0), (after, temperatures[-1])):
                    seen.append(
                        np.stack(calibration.confidence_and_correct(calibration.probabilities(logits, t), labels), 1)
                    )
    rows = np.concatenate([np.concatenate(before), np.concatenate(after)], axis=1)  # confidence, correct, twice

    def error(some: np.ndarray, at: int) -> float:
        return scores.expected_calibration_error(some[:, at], some[:, at + 1] > 0)

    found = {
        "images": len(rows),
        "temperatures": temperatures,
        "changed answers": int((rows[:, 1] != rows[:, 3]).sum()),
    }
    found["accuracy"] = float(rows[:, 1].mean())
    for name, of in (
        ("before", lambda some: error(some, 0)),
        ("after", lambda some: error(some, 2)),
        ("before - after", lambda some: error(some, 0) - error(some, 2)),
    ):
        found[name] = {"ece": of(rows), "ci95": intervals.bootstrap(rows, of)}
        print(f"{name:<15} {found[name]['ece']:.3f}  ({found[name]['ci95'][0]:+.3f} to {found[name]['ci95'][1]:+.3f})")
    print(f"{len(rows)} images, accuracy {found['accuracy']:.3f}, answers changed: {found['changed answers']}, "
          f"temperatures {min(temperatures):.2f} to {max(temperatures):.2f}")  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
