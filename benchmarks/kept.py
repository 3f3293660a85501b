"""What kept photos and scaled decodes cost in accuracy: the same folds and seeds with and without, paired.

    python benchmarks/kept.py --data FOLDER --model CHECKPOINT --seeds 0 1 2 3 4

Three sides, each `scripts/train.py --folds 5`: photos kept shrunk (the default), `--cache off` (each crop decoded at
the smallest JPEG scale that covers it), and `--cache off` on the same photos as PNG, which are decoded in full. Each
image is judged by a model that did not see it. Prints accuracy and loss of each seed, and the mean difference to the
last side with its standard error. `--out` is written after each run, and what it holds already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from imgcls.data import decoding
from imgcls.data.image_folder import scan_image_folder

TRAIN = Path(__file__).parent.parent / "scripts" / "train.py"


def as_png(folder: Path, target: Path) -> Path:
    """The photos of class folders, as PNG: decoded in full whatever is asked for."""
    for file in scan_image_folder(folder).paths():
        place = target / Path(file).parent.name / f"{Path(file).stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        decoding.load_rgb(file).save(place, compress_level=1)
    return target


def judged(data: Path, model: str, seed: str, cache: str, scratch: Path, kept: Path) -> tuple[float, float]:
    """Accuracy and loss over all folds."""
    run = scratch / f"{data.name}-{cache}-{seed}"
    command = [sys.executable, str(TRAIN), "--data", str(data), "--model", model, "--output_dir", str(run),
               "--folds", "5", "--seed", seed, "--cache", cache, "--bf16", "false"]  # fmt: skip
    environment = {**os.environ, "IMGCLS_CACHE": str(kept)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    found = json.loads((run / "metrics.json").read_text())["cross_validation"]
    return found["accuracy"], found["loss"]


def main() -> None:
    """Train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        png = as_png(options.data, scratch / "png")
        sides = {"kept": (options.data, "auto"), "scaled": (options.data, "off"), "in full": (png, "off")}
        found: dict[str, dict] = {side: {} for side in sides}  # accuracy and loss by side and seed
        if options.out and options.out.is_file():
            found = json.loads(options.out.read_text())
        for seed in map(str, options.seeds):
            for side, (data, cache) in sides.items():
                if seed not in found[side]:
                    found[side][seed] = judged(data, options.model, seed, cache, scratch, scratch / "cache")
                    if options.out:
                        options.out.write_text(json.dumps(found, indent=1) + "\n")
                accuracy, loss = found[side][seed]
                print(f"seed {seed}, {side}: accuracy {accuracy:.4f}, loss {loss:.4f}", flush=True)
    for side in list(sides)[:-1]:
        for i, what in enumerate(("accuracy", "loss")):
            over = [found[side][str(seed)][i] - found["in full"][str(seed)][i] for seed in options.seeds]
            error = statistics.stdev(over) / len(over) ** 0.5 if len(over) > 1 else float("nan")
            print(f"{side} minus in full, {what}: {statistics.mean(over):+.4f} (standard error {error:.4f})")


if __name__ == "__main__":
    main()
