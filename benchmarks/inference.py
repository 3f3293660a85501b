"""scripts/predict.py beside `transformers.pipeline` and what decoding alone and the network alone could do.

    python benchmarks/inference.py --model mobilenetv3-small --files 20000 --photos 200

Draws small JPEGs (224 x 168 px) and photos of 12 megapixels, writes a model with random weights, and lets each side
look at all of them, in turn, `--rounds` times. Images a second of predict.py and pipeline: of the whole process, less
what the same command takes for one image. Ceilings: the same threads that only decode and prepare, or only compute.
On a CPU the same cores do both, so no program can be faster than both one after the other: `both`. Prints medians and
spread, peak memory at a twentieth of the files and at all, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pictures
import torch

from imgcls.dataloading import preprocessing
from imgcls.models import classifier, inference, source
from imgcls.system import cpu, hardware

PREDICT = Path(__file__).parent.parent / "scripts" / "predict.py"
BATCHES = (1, 8, 32)  # of pipeline, whose best one counts
PIPELINE = """
import sys, warnings
from pathlib import Path
from transformers import pipeline
run, folder, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
files = sorted(str(f) for f in Path(folder).iterdir())
predict = pipeline("image-classification", model=run, top_k=1)
for answer in predict((file for file in files), batch_size=batch):
    pass
"""


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, command
    return time.perf_counter() - start, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def ceilings(folder: Path, files: list[Path]) -> dict[str, float]:
    """Images a second of the threads of predict.py when they only decode and prepare, and when they only compute."""
    network, processor = inference.load_model(folder, torch.device("cpu"))
    sample = preprocessing.evaluation_pixels(str(files[0]), processor)

    def rate(forward, items, pixels) -> float:
        start = time.perf_counter()
        for _ in inference.stream_outputs(forward, items, pixels, batch=16, device=torch.device("cpu")):
            pass
        return len(items) / (time.perf_counter() - start)

    logits, compute_items = inference.logits_function(network), [None] * 600
    rate(logits, compute_items[:64], lambda _: sample)
    found = {"network": rate(logits, compute_items, lambda _: sample)}
    found["decode"] = rate(
        lambda p: p[:, :1, 0, 0], files, lambda f: preprocessing.evaluation_pixels(str(f), processor)
    )
    return found | {"both": 1 / (1 / found["network"] + 1 / found["decode"])}


def compare(folder: Path, files: list[Path], one: Path, rounds: int, scratch: Path) -> dict:
    """Median images a second of each side on a folder of files, and predict.py's peak memory."""
    rates: dict[str, list[float]] = {}
    peaks = []
    place = files[0].parent

    def ours(what: Path) -> tuple[float, float]:
        out = scratch / f"{time.monotonic_ns()}.csv"
        return run([sys.executable, str(PREDICT), "--run", str(folder), str(what), "--out", str(out)])

    def theirs(what: Path, batch: int) -> float:
        return run([sys.executable, "-c", PIPELINE, str(folder), str(what), str(batch)])[0]

    start = {"predict.py": ours(one)[0], "pipeline": theirs(one, 1)}
    some = scratch / f"some-{place.name}"  # to find pipeline's best batch on
    some.mkdir()
    for file in files[: max(50, len(files) // 20)]:
        (some / file.name).symlink_to(file)
    batch = min(BATCHES, key=lambda size: theirs(some, size))
    for _ in range(rounds):
        seconds, peak = ours(place)
        peaks.append(peak)
        rates.setdefault("predict.py", []).append((len(files) - 1) / (seconds - start["predict.py"]))
        rates.setdefault("pipeline", []).append((len(files) - 1) / (theirs(place, batch) - start["pipeline"]))
        for name, value in ceilings(folder, files[:2000]).items():
            rates.setdefault(name, []).append(value)
    found = {name: {"median": statistics.median(values), "all": values} for name, values in rates.items()}
    return {"files": len(files), "batch of pipeline": batch, "peak_mb": max(peaks), "start_s": start, **found}


def main() -> None:
    """Draw, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv3-small", help="a name of the table, with random weights")
    parser.add_argument("--files", type=int, default=20_000, help="small JPEGs")
    parser.add_argument("--photos", type=int, default=200, help="of 12 megapixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    hardware.configure_process()
    results = {"model": options.model, "machine": hardware.device_name(), "cores": cpu.available_cores()}
    print(
        f"{options.model}, {results['machine']}, {results['cores']} cores; images a second, median of {options.rounds}"
    )
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        built = classifier.build_classifier(
            source.resolve_model(options.model), [f"class {i}" for i in range(10)], from_scratch=True
        )
        built.network.save_pretrained(scratch / "model")
        if not hasattr(built.processor, "data_config"):
            built.processor.save_pretrained(scratch / "model")
        one = scratch / "one"
        pictures.write(one, 1, 224, 168, seed=1)
        for kind, count, width, height in (("small", options.files, 224, 168), ("12 MP", options.photos, 4000, 3000)):
            if not count:
                continue
            files = pictures.write(scratch / kind, count, width, height)
            found = results[kind] = compare(scratch / "model", files, one, options.rounds, scratch)
            if kind == "small":
                few = pictures.write(scratch / "few", max(1, count // 20), width, height)
                out = str(scratch / "few.csv")
                command = [sys.executable, str(PREDICT), "--run", str(scratch / "model"), str(few[0].parent)]
                found["peak_mb_of_a_twentieth"] = run([*command, "--out", out])[1]
            show(kind, found)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


def show(kind: str, found: dict) -> None:
    """One block of the table."""
    ours = found["predict.py"]["median"]
    print(f"{found['files']:,} {kind} files; pipeline's best batch: {found['batch of pipeline']}")
    for name in ("predict.py", "pipeline", "decode", "network", "both"):
        values = found[name]
        spread = f"{min(values['all']):.1f} to {max(values['all']):.1f}"
        print(f"  {name:<12} {values['median']:8.1f}  ({spread})   predict.py is {ours / values['median']:.2f} of it")
    few = f", at a twentieth of the files {found['peak_mb_of_a_twentieth']:.0f} MB" if kind == "small" else ""
    print(f"  peak memory of predict.py {found['peak_mb']:.0f} MB{few}", flush=True)


if __name__ == "__main__":
    main()
