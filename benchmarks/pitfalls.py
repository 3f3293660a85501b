"""Each pitfall provoked on purpose, and healthy runs beside them: what does the diagnosis name?

    python benchmarks/pitfalls.py --data FOLDER --model CHECKPOINT

FOLDER: class folders of some hundred photos. CHECKPOINT: a pretrained CNN. Digits are added from the demo. Prints a
table: provoked, named (codes of diagnosis.json), rightly or not; then the false alarms of the healthy runs; writes
JSON. A finding counts as right when the provoked code is among those named.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoConfig, AutoModelForImageClassification, ConvNextImageProcessor

from imgcls.data import demo_digits, location

TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"
# Run before train.py's main: what stages the machine's own shortcomings.
SLOW_DISK = """
import time
from imgcls.data import decoding
opened = decoding.open_image
def open_slowly(source):
    time.sleep(0.05)
    return opened(source)
decoding.open_image = open_slowly
"""
LITTLE_MEMORY = """
import torch
from imgcls.training.trainer import ImageTrainer
step = ImageTrainer.training_step
def limited(self, *arguments, **options):
    if self._train_batch_size > 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return step(self, *arguments, **options)
ImageTrainer.training_step = limited
"""


@dataclass
class Case:
    """One run. expected: the code that must be named; None for a healthy run, which must stay silent."""

    name: str
    expected: str | None
    data: Path
    flags: str
    staged: str = ""
    seed: int = 42
    named: list[str] = field(default_factory=list)


class Tables:
    """CSV files made of a folder's images, in a folder of their own."""

    def __init__(self, data: str, place: Path):
        listing = location.read_listing(data)
        self.place = place
        self.rows = [(str(listing.absolute(f)), f.label) for f in listing.files]
        random.Random(0).shuffle(self.rows)

    def of(self, name: str, rows: list[tuple[str, str]]) -> Path:
        """A CSV of these rows."""
        path = self.place / f"{name}.csv"
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *rows])
        return path

    def some(self, count: int, classes: int) -> list[tuple[str, str]]:
        """The first `count` images of each of the first classes."""
        names = sorted({label for _, label in self.rows})[:classes]
        return [row for name in names for row in [r for r in self.rows if r[1] == name][:count]]


def tiny_network(folder: Path) -> Path:
    """A ResNet of a few hundred weights, saved with random ones."""
    config = AutoConfig.for_model("resnet", embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(folder)
    return folder


def cases(photos: Tables, numbers: Tables, model: str, place: Path) -> Iterator[Case]:
    """All provoked cases, then the healthy ones."""
    use = f"--model {model}"
    small = f"{use} --tune full --image_px 96"
    few = photos.of("sixty", photos.some(20, 3))
    everything = photos.of("everything", photos.rows)
    labels = [label for _, label in photos.rows]
    random.Random(1).shuffle(labels)
    shuffled = photos.of("shuffled", [(path, label) for (path, _), label in zip(photos.rows, labels, strict=True)])
    classes = sorted(set(labels))
    skewed = photos.of("skewed", [(p, classes[i % 20 == 0]) for i, (p, _) in enumerate(photos.rows)])
    tail = numbers.of("tail", [row for i, row in enumerate(numbers.some(180, 6)) if row[1] != "5" or i % 60 == 0])
    halves = numbers.of("halves", [(p, f"3{'ab'[i % 2]}" if c == "3" else c) for i, (p, c) in enumerate(numbers.rows)])
    pixels = numbers.of("digits", numbers.some(120, 10))
    yield Case("learning rate 10", "diverged", everything, f"{small} --lr 10 --epochs 4")
    yield Case("learning rate 1e-9", "not_learning", everything, f"{small} --lr 1e-9 --epochs 4")
    yield Case("labels shuffled", "not_learning", shuffled, f"{small} --epochs 6")
    yield Case("20 images", "tiny_validation", photos.of("twenty", photos.some(10, 2)), f"{small} --epochs 4")
    yield Case("one class at 95 %", "one_class_predictions", skewed, f"{small} --epochs 4")
    yield Case("100 : 1", "imbalance", tail, f"{small} --epochs 2")
    yield Case("slow disk", "data_bound", everything, f"{small} --epochs 2", SLOW_DISK)
    yield Case("little memory", "out_of_memory", everything, f"{small} --epochs 1", LITTLE_MEMORY)
    yield Case(
        "60 images by heart", "overfitting", few, f"{small} --augment none --epochs 60 --label_smoothing_factor 0"
    )
    net = tiny_network(place / "tiny")
    hard = f"--model {net} --tune full --image_px 64 --epochs 30"
    yield Case("tiny network, hard data", "underfitting", everything, hard)
    yield Case("one digit cut in two classes", "weak_classes", halves, f"{use} --tune head --image_px 96 --epochs 10")
    yield Case("ten times too long", "plateau", everything, f"{use} --tune head --image_px 96 --epochs 60")
    for seed in (1, 2):
        yield Case("photos, auto", None, everything, use, seed=seed)
        yield Case("photos, full", None, everything, f"{use} --tune full", seed=seed)
        yield Case("photos, head", None, everything, f"{use} --tune head", seed=seed)
        yield Case("digits, auto", None, pixels, f"{use} --image_px 96 --flip none", seed=seed)
        yield Case("digits, head", None, pixels, f"{use} --tune head --image_px 96", seed=seed)
    yield Case("digits, full", None, pixels, f"{small} --flip none")
    yield Case("demo, random weights", None, Path(), "--model resnet-18 --from_scratch")
    yield Case("demo, random weights", None, Path(), "--model efficientnet-b0 --from_scratch")


def named_by(case: Case, run: Path) -> list[str]:
    """Codes of the run's diagnosis.json."""
    command = [str(TRAIN), "--output_dir", str(run), "--seed", str(case.seed), *case.flags.split()]
    if case.data != Path():
        command += ["--data", str(case.data)]
    start = f"import runpy, sys\nsys.argv = {command!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    program = f"{case.staged}\n{start}"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=run.parent, capture_output=True, text=True)
    return [entry["code"] for entry in json.loads((run / "diagnosis.json").read_text())]


def main() -> None:
    """Run every case; print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    finished = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        numbers = Tables(str(demo_digits.write_demo_digits(place)), place)
        every = cases(Tables(options.data, place), numbers, str(Path(options.model).resolve()), place)
        for i, case in enumerate(every):
            if options.only and options.only not in case.name:
                continue
            try:
                case.named = named_by(case, place / f"run{i}")
            except subprocess.CalledProcessError as error:
                case.named = [f"failed: {error.stderr.strip().splitlines()[-1][:100]}"]
            finished.append(case)
            right = not case.named if case.expected is None else case.expected in case.named
            verdict = "right" if right else "WRONG"
            print(f"{verdict}  {case.name:<30} {case.expected or 'healthy':<22} {', '.join(case.named)}", flush=True)
    provoked = [case for case in finished if case.expected]
    healthy = [case for case in finished if not case.expected]
    hits = sum(case.expected in case.named for case in provoked)
    silent = sum(not case.named for case in healthy)
    print(f"named rightly: {hits} of {len(provoked)}; silent: {silent} of {len(healthy)} healthy runs")
    if options.out:
        rows = [{"name": c.name, "expected": c.expected, "named": c.named, "seed": c.seed} for c in finished]
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
