"""scripts/check.py, first and second run, beside `load_dataset("imagefolder")` with a decode of every image.

    python benchmarks/check.py --files 1000 10000 100000

Draws JPEGs of 96 x 72 px with a photo's spectrum into ten class folders, the same for all. Each side runs in a process
of its own with empty caches; seconds are of the whole process, memory is its peak. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import idctn

from imgcls.system import cpu

CHECK = Path(__file__).parent.parent / "scripts" / "check.py"
WIDTH, HEIGHT, CLASSES = 96, 72, 10
LOAD = """
import sys, datasets
rows = datasets.load_dataset("imagefolder", data_dir=sys.argv[1], split="train")
for row in rows:
    row["image"].convert("RGB")
"""


def draw(root: Path, count: int) -> None:
    """`count` different JPEGs."""
    rng = np.random.default_rng(0)
    fall = 1 + np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))
    for number in range(count):
        folder = root / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        waves = idctn(rng.normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32) / fall[..., None] ** 1.2, axes=(0, 1))
        waves = 0.7 * waves.mean(2, keepdims=True) + 0.3 * waves
        picture = np.clip(127 + 55 * waves / waves.std() + rng.normal(0, 4, waves.shape), 0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:07}.jpg", quality=90)


def run(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """Seconds and peak memory in MB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 3), f"{command} ended with {code}"
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": time.perf_counter() - start, "peak_mb": used.ru_maxrss * unit / 1e6}


def main() -> None:
    """Draw, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    found = []
    print(f"{cpu.available_cores()} cores; seconds and peak MB")
    print("    files   imagefolder + decode      first check     second check    first/  second/ imagefolder")
    for count in options.files:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder) / "data", count)
            env = os.environ | {"IMGCLS_CACHE": f"{folder}/cache", "HF_HOME": f"{folder}/hf", "HF_HUB_OFFLINE": "1"}
            data = f"{folder}/data"
            check = [sys.executable, str(CHECK), "--data", data, "--output_dir", f"{folder}/out"]
            load = run([sys.executable, "-c", LOAD, data], env)
            first, second = run(check, env), run(check, env)
        found.append({"files": count, "imagefolder": load, "first": first, "second": second})
        sides = "".join(f"{side['seconds']:10.1f} s {side['peak_mb']:5.0f} " for side in (load, first, second))
        ratios = [side["seconds"] / load["seconds"] for side in (first, second)]
        print(f"{count:9,} {sides}    {ratios[0]:.2f}    {ratios[1]:.3f}", flush=True)
    if len(found) > 1:
        (low, high) = found[0], found[-1]
        more = (high["first"]["peak_mb"] - low["first"]["peak_mb"]) / (high["files"] - low["files"])
        print(f"memory a file: {1e3 * more:.2f} kB")
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
