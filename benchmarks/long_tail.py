"""Six of the ten digits, cut to a long tail: 100 images to train on of the first class, 1 of the last.

    python benchmarks/long_tail.py FOLDER

Writes FOLDER/digits/<class>/*.png (all ten) and FOLDER/long_tail.csv, which train.py and recipe.py take as --data:
train 100, 40, 16, 6, 3 and 1 images of the digits 0 to 5, validation 10 and test 60 of each.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from imgcls.data import demo_digits

TRAIN = (100, 40, 16, 6, 3, 1)
VALIDATION, TEST = 10, 60


def main() -> None:
    """Write the folders and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    root = demo_digits.write_demo_digits(parser.parse_args().folder)
    with open(root.parent / "long_tail.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for folder, count in zip(sorted(p for p in root.iterdir() if p.is_dir()), TRAIN, strict=False):
            images = sorted(folder.iterdir())
            random.Random(0).shuffle(images)
            sizes = {"train": count, "validation": VALIDATION, "test": TEST}
            for split, size in sizes.items():
                writer.writerows([image.resolve(), folder.name, split] for image in images[:size])
                images = images[size:]


if __name__ == "__main__":
    main()
