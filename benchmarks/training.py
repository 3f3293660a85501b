"""scripts/train.py beside a plain Trainer of the stock example's making, and beside what the network alone could do.

    python benchmarks/training.py                                   every table (an hour and a half on two cores)
    python benchmarks/training.py --tables gpu                      one accelerator, five minutes

Tables: `speed` (12 and 0.2 megapixels, against the example with 0 and 2 workers, peak memory), `ceiling` (all eight
models against the same network on a batch that is there already), `head` (ten epochs of --tune head), `start` (seconds
to the first step), `gpu` (three models, 12 megapixels, against the network alone). Sides run in turn, each in a process
of its own; ratios are made pair by pair; steps during which other processes took more than a twentieth of the cores are
left out. Networks have random weights, which are as fast as others. JPEGs are drawn by pictures.py: texture with the
spectrum of photos and noise, at a quality of 80 about 3 MB at 12 megapixels.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pictures
import torch

from imgcls.models import classifier, registry, source
from imgcls.system import cpu, hardware

CHILD = Path(__file__).with_name("one_training.py")
SIZES = {"12 MP": (4000, 3000), "0.2 MP": (512, 384)}
QUALITY = 80
LONG = 100  # epochs of which a few are looked at: a training long enough to be worth the trials at its start
REHEARSED = 16  # images of a batch
DISTURBED = 0.05  # share of the cores that others took: the step is left out
CLASSES = ("first", "second")


class Bench:
    """Folders of one call: drawn photos, networks, caches, run folders."""

    def __init__(self, place: Path):
        self.place, self.runs = place, 0

    def photos(self, size: str, count: int) -> Path:
        """A folder of `count` photos in two class folders, drawn once."""
        folder = self.place / f"{size} {count}".replace(" ", "-")
        if not folder.exists():
            parts = [(folder / name, count // 2 + (i < count % 2), *SIZES[size], i) for i, name in enumerate(CLASSES)]
            for part in parts:
                pictures.write(*part, quality=QUALITY)
        return folder

    def network(self, name: str) -> Path:
        """A folder with random weights of a model of the table."""
        folder = self.place / name
        if not folder.exists():
            built = classifier.build_classifier(source.resolve_model(name), list(CLASSES), from_scratch=True)
            built.network.save_pretrained(folder)
            if not hasattr(built.processor, "data_config"):
                built.processor.save_pretrained(folder)
        return folder

    def child(self, *arguments, cache: str = "warm", **environment) -> dict:
        """What one_training.py writes. cache: name of the folder of kept photos; a new name is an empty one."""
        self.runs += 1
        out = self.place / f"out-{self.runs}.json"
        kept = {"IMGCLS_CACHE": str(self.place / "cache" / cache), "HF_HUB_OFFLINE": "1", **environment}
        command = [sys.executable, str(CHILD), arguments[0], str(out), *map(str, arguments[1:])]
        log = self.place / "log.txt"
        with open(log, "w") as file:
            done = subprocess.run(command, env={**os.environ, **kept}, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode or not out.exists():
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{log.read_text()[-3000:]}")
        return json.loads(out.read_text())

    def ours(self, photos: Path, network: Path, *options, cache: str = "warm", **environment) -> dict:
        """scripts/train.py on a folder of photos."""
        folder = self.place / f"run-{self.runs}"
        try:
            given = ("--data", photos, "--model", network, "--output_dir", folder, "--disable_tqdm", "true", *options)
            return self.child("ours", *given, cache=cache, **environment)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def ms(steps: list[dict]) -> float:
    """Milliseconds an image: the median of the steps that no one disturbed, of all where there is none such."""
    calm = [step for step in steps if step["others"] <= DISTURBED]
    return statistics.median(1000 * step["seconds"] / step["images"] for step in calm or steps)


def mean(steps: list[dict]) -> float:
    """Milliseconds an image over all of these steps."""
    return 1000 * sum(step["seconds"] for step in steps) / sum(step["images"] for step in steps)


def whole(found: dict) -> float:
    """Milliseconds an image of a process's first epoch from its beginning: a batch is read ahead, so steps differ."""
    return mean([step for step in found["steps"] if step["epoch"] == 0])


def of_epochs(found: dict, first: int, last: int = 10**6) -> list[dict]:
    """The steps of some epochs, without the first step of a process."""
    return [step for step in found["steps"][1:] if first <= step["epoch"] <= last]


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def speed(bench: Bench, options) -> list[dict]:
    """Ours against the example: first epoch, later epochs, peak memory."""
    rows = []
    for size, names, count in (
        ("12 MP", ("resnet-18", "mobilenetv3-small"), 76),
        ("0.2 MP", ("resnet-18", "mobilenetv3-small", "vit-small-msn"), 112),
    ):
        if size not in options.sizes:
            continue
        photos = bench.photos(size, count)
        for name in [name for name in names if name in (options.models or names)]:
            network = bench.network(name)
            pairs = []
            for pair in range(options.pairs):
                given = ("--tune", "full", "--batch_size", 16, "--epochs", LONG, "--compile", "off")
                ours = bench.ours(photos, network, *given, cache=f"{size}-{name}-{pair}", IMGCLS_EPOCHS="3")
                # the check decodes large photos, and keeps them, before the first epoch would
                bare = ("--check", "off")
                first = bench.ours(
                    photos, network, *given, *bare, cache=f"first-{size}-{name}-{pair}", IMGCLS_EPOCHS="1"
                )
                pairs.append({"ours": ours, "first": first})
                for workers in (0, 2) if size == "12 MP" else (0,):
                    pairs[-1][f"stock {workers}"] = bench.child("stock", photos, network, workers, 1)
                shutil.rmtree(bench.place / "cache")
            row = {"photos": size, "model": name, "pairs": pairs, "ratios": {}}
            later = [ms(of_epochs(p["ours"], 1)) for p in pairs]
            # the rehearsed batch was decoded before the epoch began: what that saved is added again
            images = sum(step["images"] for step in pairs[0]["first"]["steps"] if step["epoch"] == 0)
            over = images / (images - REHEARSED)
            first = [least + (whole(p["first"]) - least) * over for p, least in zip(pairs, later, strict=True)]
            row["ours ms"] = {"first": first, "later": later}
            for side in pairs[0]:
                if side in ("ours", "first"):
                    continue
                # with workers batches come in bursts: the mean is what they take
                theirs = [(ms if side == "stock 0" else mean)(of_epochs(p[side], 0)) for p in pairs]
                row["ratios"][f"later / {side}"] = [t / o for t, o in zip(theirs, later, strict=True)]
                begun = [whole(p[side]) for p in pairs]
                row["ratios"][f"first / {side}"] = [t / o for t, o in zip(begun, first, strict=True)]
            print(f"{size}, {name}: first epoch {spread(first, 1)} ms an image, later {spread(later, 1)}")
            for what, values in row["ratios"].items():
                print(f"  {what:<18} {spread(values)}")
            memory = {side: [p[side]["peak_mb"] for p in pairs] for side in pairs[0]}
            print("  peak MB " + ", ".join(f"{side} {max(values):.0f}" for side, values in memory.items()), flush=True)
            rows.append(row)
    return rows


def ceiling(bench: Bench, options) -> list[dict]:
    """All models from the second epoch against the same network on a batch that is there already."""
    rows = []
    for size in options.sizes:
        for name in options.models or registry.CHECKPOINTS:
            heavy = registry.CHECKPOINTS[name].parameters > 40e6
            batch, count = (4, 10) if name == "vit-large" else (8, 19) if heavy else (16, 38 if size == "12 MP" else 76)
            steps = {"IMGCLS_CEILING": str(2 if heavy else 4), "IMGCLS_CEILING_PX": "224"}
            given = ("--tune", "full", "--batch_size", batch, "--epochs", LONG, "--image_px", 224, "--compile", "off")
            steps["IMGCLS_EPOCHS"] = str(options.pairs + 1)
            found = bench.ours(bench.photos(size, count), bench.network(name), *given, cache="ceiling", **steps)
            later = [ms([s for s in found["steps"] if s["epoch"] == epoch + 1]) for epoch in range(options.pairs)]
            alone = [ms(spent) for spent in found["ceiling"]]
            shares = [a / o for a, o in zip(alone, later, strict=True)]
            print(
                f"{size}, {name}: {spread(later, 1)} ms an image, alone {spread(alone, 1)}: {spread(shares)}",
                flush=True,
            )
            rows.append({"photos": size, "model": name, "ours ms": later, "alone ms": alone, "shares": shares})
    return rows


def head(bench: Bench, options) -> list[dict]:
    """Ten epochs of --tune head, all of it but the start of the process, against ten of the example's."""
    rows, trained = [], 0.85  # of the images; the example's evaluation is not counted
    for size in options.sizes:
        count = 1000 if size == "0.2 MP" else 112
        photos, some, few = (bench.photos(size, images) for images in (count, 112, 8))
        for name in options.models or ("resnet-18", "mobilenetv3-small"):
            network, ratios = bench.network(name), []
            for pair in range(options.pairs):
                given = ("--tune", "head", "--epochs", 10)
                start = bench.ours(few, network, *given, cache=f"few-{size}-{name}-{pair}")["seconds"]
                ours = bench.ours(photos, network, *given, cache=f"head-{size}-{name}-{pair}")["seconds"] - start
                theirs = ms(of_epochs(bench.child("stock", some, network, 0, 1), 0)) / 1000 * trained * (count - 8) * 10
                ratios.append(theirs / ours)
            print(f"{size}, {name}: ten epochs of --tune head {spread(ratios, 1)} times as fast", flush=True)
            rows.append({"photos": size, "count": count, "model": name, "ratios": ratios})
    return rows


def start(bench: Bench, options) -> list[dict]:
    """Seconds to the first step, 1,000 photos, second run, beside the imports alone."""
    photos, network = bench.photos("0.2 MP", 1000), bench.network("resnet-18")
    rows = []
    of_probes = ("sklearn.linear_model", "sklearn.preprocessing")
    for given, others in (((), of_probes), (("--tune", "full"), ())):
        bench.ours(photos, network, *given, "--max_steps", 1)
        firsts, alone = [], []
        for _ in range(options.pairs):
            firsts.append(bench.ours(photos, network, *given, "--max_steps", 1)["first_s"])
            alone.append(bench.child("imports", *others)["seconds"])
        over = [first - least for first, least in zip(firsts, alone, strict=True)]
        said = " ".join(given) or "default options"
        print(
            f"{said}: first step {spread(firsts, 1)} s, imports {spread(alone, 1)} s, beyond them {spread(over, 1)} s"
        )
        rows.append({"options": said, "first_s": firsts, "imports_s": alone})
    return rows


def gpu(bench: Bench, options) -> list[dict]:
    """Three models on an accelerator, 12 megapixels: first epoch and later ones against the network alone."""
    photos, rows = bench.photos("12 MP", options.photos), []
    for name in options.models or ("resnet-18", "resnet-50", "vit-base"):
        for compile in ("off", "on") if options.compile else ("off",):
            given = ("--tune", "full", "--batch_size", options.batch, "--epochs", options.pairs + 1, "--check", "off")
            steps = {"IMGCLS_CEILING": "12", "IMGCLS_CEILING_PX": "224"}
            found = bench.ours(photos, bench.network(name), *given, "--compile", compile, cache="gpu", **steps)
            later = [ms([s for s in found["steps"] if s["epoch"] == epoch + 1]) for epoch in range(options.pairs)]
            alone = [ms(spent) for spent in found["ceiling"]]
            shares = [a / o for a, o in zip(alone, later, strict=True)]
            first = found["steps"][0]
            rates = [first["images"] / first["seconds"], *(1000 / statistics.median(of) for of in (later, alone))]
            print(
                f"{name}, batch {options.batch}, compile {compile}: "
                f"images a second in the first epoch {rates[0]:.0f}, later {rates[1]:.0f}, "
                f"alone {rates[2]:.0f}: {spread(shares)}; the first step {found['first_s']:.0f} s after the start",
                flush=True,
            )
            kept = {"model": name, "batch": options.batch, "compile": compile}
            rows.append({**kept, "first": first, "later ms": later, "alone ms": alone})
    return rows


TABLES = {"speed": speed, "ceiling": ceiling, "head": head, "start": start, "gpu": gpu}


def main() -> None:
    """Draw, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=[name for name in TABLES if name != "gpu"])
    parser.add_argument("--models", nargs="+", help="of speed, ceiling, head and gpu (default: all that they know)")
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of photos, in speed, ceiling and head"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--photos", type=int, default=2048, help="of gpu")
    parser.add_argument("--batch", type=int, default=128, help="of gpu")
    parser.add_argument("--compile", action="store_true", help="gpu also with --compile on")
    parser.add_argument("--place", type=Path, help="folder for photos and caches, kept (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    results = {"machine": hardware.device_name(), "cores": cpu.available_cores(), "torch": torch.__version__}
    print(", ".join(map(str, results.values())))
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options.place or Path(name))
        bench.place.mkdir(parents=True, exist_ok=True)
        for table in options.tables:
            print(f"\n{TABLES[table].__doc__}")
            results[table] = TABLES[table](bench, options)
            if options.out:
                options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
