"""One training with a clock at its steps, for training.py: ours, the stock example's, or the imports of ours alone.

    python benchmarks/one_training.py ours OUT.json --data FOLDER --model CHECKPOINT ...
    python benchmarks/one_training.py stock OUT.json FOLDER CHECKPOINT WORKERS EPOCHS
    python benchmarks/one_training.py imports OUT.json MODULE ...

Writes the seconds of each step (of each epoch on an accelerator, which works on while the host goes ahead), how busy
other processes kept the cores meanwhile, the seconds from the start of the process to the first step, and peak memory.
With IMGCLS_CEILING=N, after each epoch but the first N steps of the same network on a batch that is there already are
timed in the same process: the synthetic ceiling. IMGCLS_EPOCHS=N ends a longer training after N epochs. The process
ends with its training: nothing is evaluated after it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).parent.parent / "scripts"
ME = psutil.Process()


def cpu_seconds() -> tuple[float, float]:
    """Busy seconds of all cores, and those of this process and its workers."""
    used = psutil.cpu_times()
    busy = sum(getattr(used, name, 0.0) for name in ("user", "system", "irq", "softirq", "steal"))
    mine = time.process_time()
    for worker in multiprocessing.active_children():
        with contextlib.suppress(psutil.Error):  # one that has just ended
            times = psutil.Process(worker.pid).cpu_times()
            mine += times.user + times.system
    return busy, mine


def clock(out: Path):
    """A callback class that times the steps of any Trainer and ends the process with its training."""
    import torch
    from transformers import TrainerCallback

    from imgcls.storage import run_folder

    def synchronize() -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    class Clock(TrainerCallback):
        def __init__(self):
            self.steps, self.ceiling, self.first_s = [], [], None
            self.on_accelerator = torch.accelerator.is_available()

        def _mark(self) -> None:
            self.at, self.cpu, self.images = time.perf_counter(), cpu_seconds(), 0

        def _count(self, args, state) -> None:
            now, (busy, mine) = time.perf_counter(), cpu_seconds()
            seconds = now - self.at
            others = max(0.0, (busy - self.cpu[0]) - (mine - self.cpu[1])) / (seconds * psutil.cpu_count())
            epoch = int(state.epoch - 1e-6)
            self.steps.append({"epoch": epoch, "images": self.images, "seconds": seconds, "others": others})
            self._mark()

        def on_epoch_begin(self, args, state, control, **kwargs):
            synchronize()
            self._mark()

        def on_step_begin(self, args, state, control, **kwargs):
            if self.first_s is None:
                self.first_s = time.time() - ME.create_time()

        def on_step_end(self, args, state, control, **kwargs):
            self.images += args.per_device_train_batch_size * args.gradient_accumulation_steps
            if not self.on_accelerator:
                self._count(args, state)

        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            if self.on_accelerator:
                synchronize()
                self._count(args, state)
            control.should_training_stop = state.epoch > float(os.environ.get("IMGCLS_EPOCHS", 1e9)) - 0.5
            steps = int(os.environ.get("IMGCLS_CEILING", 0))
            if steps and state.epoch > 1.5:
                self.ceiling.append(self._synthetic(args, model, steps))

        def _kind(self, args):
            tried = Path(args.output_dir) / run_folder.PRECISION  # of a CPU
            lowered = tried.exists() and json.loads(tried.read_text())["bf16"]
            return torch.bfloat16 if args.bf16 or lowered else torch.float16 if args.fp16 else None

        def _synthetic(self, args, model, count: int) -> dict:
            """Seconds of `count` steps on a batch that is on the device, as fast as the network goes here."""
            import copy

            from imgcls.models import classifier as models

            network = copy.deepcopy(getattr(model, "module", model))
            layout = models.memory_layout(network)
            px = int(os.environ["IMGCLS_CEILING_PX"])
            batch = args.per_device_train_batch_size
            kind = self._kind(args)
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
            pixels = torch.randn(batch, 3, px, px, device=args.device).contiguous(memory_format=layout)
            labels = torch.randint(0, network.config.num_labels, (batch,), device=args.device)
            network.train()

            def step() -> None:
                with torch.autocast(args.device.type, kind, enabled=kind is not None):
                    logits = network(pixel_values=pixels).logits
                torch.nn.functional.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
                optimizer.zero_grad()

            for _ in range(3 if self.on_accelerator else 1):
                step()
            synchronize()
            spent = []
            for _ in range(1 if self.on_accelerator else count):
                self._mark()
                for _ in range(count if self.on_accelerator else 1):
                    step()
                synchronize()
                seconds = time.perf_counter() - self.at
                busy, mine = cpu_seconds()
                others = max(0.0, (busy - self.cpu[0]) - (mine - self.cpu[1])) / (seconds * psutil.cpu_count())
                images = batch * (count if self.on_accelerator else 1)
                spent.append({"images": images, "seconds": seconds, "others": others})
            return spent

        def on_train_end(self, args, state, control, **kwargs):
            write(out, steps=self.steps, ceiling=self.ceiling, first_s=self.first_s)
            os._exit(0)

    return Clock


def write(out: Path, **found) -> None:
    """The JSON file, with peak memory."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would give the parent's peak where that is higher
        peak = int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    out.write_text(json.dumps({**found, "seconds": time.time() - ME.create_time(), "peak_mb": peak}))


def ours(out: Path, options: list[str]) -> None:
    """scripts/train.py with these options."""
    import runpy

    import transformers.trainer

    transformers.trainer.DEFAULT_CALLBACKS.append(clock(out))
    script = SCRIPTS / "train.py"
    sys.argv = [str(script), *options]
    sys.path.insert(0, str(SCRIPTS))
    runpy.run_path(str(script), run_name="__main__")


def imports(out: Path, *others: str) -> None:
    """What scripts/train.py imports until its first step, and nothing else. others: what some options need besides."""
    import importlib

    for name in (
        "experiment.run",
        "data.dataset",
        "system.hardware",
        "storage.pixel_cache",
        "probing.model_choice",
        "audit.screening",
        "experiment.hub_push",
        "experiment.summary",
    ):
        importlib.import_module(f"imgcls.{name}")
    for name in ("experiment.setup", "training.trainer", "config.training_options", "models.source"):
        importlib.import_module(f"imgcls.{name}")
    importlib.import_module("transformers.models.resnet.modeling_resnet")
    for name in ("transformers.models.convnext.image_processing_convnext", *others):
        importlib.import_module(name)
    write(out)


def stock(out: Path, folder: str, checkpoint: str, workers: str, epochs: str) -> None:
    """A plain Trainer as transformers' image-classification example makes it: whole photos decoded in every epoch.

    imagefolder, random crop and flip and normalisation in `set_transform`, float32, NCHW, batch 8, AdamW at 5e-5.
    """
    import torch
    from datasets import load_dataset
    from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor
    from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

    images = load_dataset("imagefolder", data_dir=folder, split="train")
    labels = images.features["label"].names
    network = AutoModelForImageClassification.from_pretrained(
        checkpoint, num_labels=len(labels), ignore_mismatched_sizes=True
    )
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    size = getattr(processor, "size", None) or {"height": processor.data_config["input_size"][-1]}
    mean = getattr(processor, "image_mean", None) or processor.data_config["mean"]
    std = getattr(processor, "image_std", None) or processor.data_config["std"]
    side = dict(size).get("shortest_edge") or dict(size)["height"]
    vary = Compose([RandomResizedCrop(side), RandomHorizontalFlip(), ToTensor(), Normalize(mean, std)])

    def transform(batch: dict) -> dict:
        batch["pixel_values"] = [vary(image.convert("RGB")) for image in batch["image"]]
        return batch

    def collate(samples: list[dict]) -> dict:
        pixels = torch.stack([sample["pixel_values"] for sample in samples])
        return {"pixel_values": pixels, "labels": torch.tensor([sample["label"] for sample in samples])}

    images.set_transform(transform)
    args = TrainingArguments(
        output_dir=str(out.parent / "stock"), num_train_epochs=float(epochs), dataloader_num_workers=int(workers),
        remove_unused_columns=False, save_strategy="no", report_to="none", disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
    )  # fmt: skip
    Trainer(network, args, data_collator=collate, train_dataset=images, callbacks=[clock(out)]).train()


if __name__ == "__main__":
    kind, target = sys.argv[1], Path(sys.argv[2])
    {"ours": lambda *given: ours(target, list(given)), "imports": lambda *given: imports(target, *given),
     "stock": lambda *given: stock(target, *given)}[kind](*sys.argv[3:])  # fmt: skip
