"""What copies across a split do to the accuracy that is reported: a plain split against one that keeps copies together.

    python benchmarks/leak.py --data FOLDER --model CHECKPOINT --share 0.1

Of the photos a fifth is set aside to test on. Of the rest, copies are made (re-encoded, resized, cropped a little,
brightened or mirrored) until they are `--share` of the set. train.py then takes its validation images by chance
(--check off) or keeps copies on one side (its default). Prints the validation accuracy of both, and the accuracy on the
photos set aside, which no copy reaches, over several seeds.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from sklearn.model_selection import train_test_split

from imgcls.data import decoding, location

TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"


def copy(picture: Image.Image, rng: random.Random) -> bytes:
    """One of five kinds of copy, as JPEG."""
    width, height = picture.size
    made = rng.choice((
        picture,
        ImageOps.scale(picture, 0.6),
        picture.crop((int(0.05 * width), int(0.03 * height), int(0.96 * width), int(0.95 * height))),
        ImageEnhance.Brightness(picture).enhance(1.2),
        ImageOps.mirror(picture),
    ))  # fmt: skip
    out = io.BytesIO()
    made.save(out, "JPEG", quality=rng.randint(60, 90))
    return out.getvalue()


def accuracies(table: Path, options, seed: int, run: Path, *flags: str) -> tuple[float, float]:
    """On validation and on test images."""
    command = [sys.executable, str(TRAIN), "--data", str(table), "--model", options.model, "--output_dir", str(run)]
    subprocess.run([*command, "--seed", str(seed), *options.flags.split(), *flags], check=True, capture_output=True)
    numbers = json.loads((run / "metrics.json").read_text())
    return numbers["validation"]["accuracy"], numbers["test"]["accuracy"]


def main() -> None:
    """Copy, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="class folders")
    parser.add_argument("--model", required=True, help="as train.py takes it")
    parser.add_argument("--share", type=float, default=0.1, help="of the set that are copies")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2, 3, 4])
    parser.add_argument("--flags", default="--tune head", help="of train.py")
    options = parser.parse_args()
    listing = location.read_listing(options.data)
    rows = list(zip(listing.paths(), [file.label for file in listing.files], strict=True))
    found = {"plain": [], "copies together": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IMGCLS_CACHE"] = f"{folder}/cache"
        for seed in options.seeds:
            learned, tested = train_test_split(rows, test_size=0.2, stratify=[r[1] for r in rows], random_state=seed)
            rng = random.Random(seed)
            copies = []
            for i in range(round(len(learned) * options.share / (1 - options.share))):
                path, label = learned[i % len(learned)]
                target = Path(folder) / f"copy{seed}-{i}.jpg"
                target.write_bytes(copy(decoding.load_rgb(path), rng))
                copies.append((str(target), label))
            table = Path(folder) / f"table{seed}.csv"
            with open(table, "w", newline="") as file:
                parts = ((learned + copies, ""), (tested, "test"))
                lines = [(*row, split) for part, split in parts for row in part]
                csv.writer(file).writerows([("path", "label", "split"), *lines])
            found["plain"].append(accuracies(table, options, seed, Path(folder) / f"plain{seed}", "--check", "off"))
            found["copies together"].append(accuracies(table, options, seed, Path(folder) / f"kept{seed}"))
    print(f"{len(rows)} photos, copies {options.share:.0%} of those to train on, seeds {options.seeds}")
    for name, pairs in found.items():
        (reported, true), (spread, _) = np.mean(pairs, 0), np.std(pairs, 0, ddof=1)
        print(f"  {name:<16} reported {reported:.3f} (sd {spread:.3f})  true {true:.3f}  {reported - true:+.3f}")


if __name__ == "__main__":
    main()
