"""The numbers of a model card: the data, the procedure, what the model is worth, how far to trust its confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from imgcls.evaluation.intervals import wilson_interval
from imgcls.evaluation.scores import most_confused
from imgcls.hub.markdown import code, escape, table
from imgcls.hub.run_profile import RunProfile
from imgcls.storage import run_folder

SHOWN_CLASSES = 200  # rows of a table
SETTINGS = (
    "tune", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "label_smoothing_factor", "focal", "class_weights", "sampler",
    "augment", "mixup", "cutmix", "batch_norm", "ema", "bf16", "fp16", "seed",
)  # fmt: skip
JUDGED_ON = {
    "test": "images that were held out from all choices (test)",
    "validation": "images that were not trained on, but chose the best epoch (validation)",
    "cross_validation": "images, each by a model that never saw it (cross-validation)",
}


def data_section(of: RunProfile) -> str:
    """Where the images come from, what was left out, and how many of each class were used for what."""
    if of.dataset:
        source = f"[{of.dataset}](https://huggingface.co/datasets/{of.dataset})."
    elif of.is_demo:
        source = "1,797 handwritten digits, which scikit-learn brings along (Alpaydin and Kaynak, UCI, 1998)."
    else:
        source = "A collection of images that is not part of this repository."
    counts = of.counts
    splits = [s for s in ("train", "validation", "test") if any(k[s] for k in counts.values())]
    rows = [[escape(c), *(k[s] for s in splits)] for c, k in counts.items()][:SHOWN_CLASSES]
    total = ["all", *(sum(k[s] for k in counts.values()) for s in splits)]
    reasons = Counter(map(_kind, (row["reason"] for row in of.run.read_csv(run_folder.EXCLUDE))))
    left_out = ", ".join(f"{n} {why}" for why, n in reasons.most_common()) or "nothing"
    together = "Copies of a picture are in one split only" if of.options.get("check") != "off" else ""
    if of.options.get("group_by", "none") != "none":
        together = "Images that belong together are in one split only"
    if of.earlier:
        named = (name or "a collection that is not public" for name in of.earlier)
        source += f" Before that, its weights were trained on: {', '.join(named)}."
    words = [f"{source} Left out: {left_out}.", f"{together}." if together else ""]
    return " ".join(words).strip() + "\n\n" + table([["class", *splits], *rows, total])


def _kind(reason: str) -> str:
    """Why an image was left out, without the names of files and the author's own notes that a reason may hold."""
    kinds = {"the same file under": "under several classes", "the same file as": "twice there",
             "a copy of": "copied from another split"}  # fmt: skip
    return next((kind for start, kind in kinds.items() if reason.startswith(start)), "unreadable or by choice")


def procedure_section(of: RunProfile) -> str:
    """What the network was shown, how long, by which command and with which settings."""
    train, options, kept = of.metrics["train"], of.options, of.metrics.get("selection")
    plain = options.get("tune") == "head" or options.get("augment") == "none"
    crops = "" if plain else "; training sees random crops, changed a little (augmentation)"
    rows = [[f"`{k}`", escape(options[k])] for k in SETTINGS if options.get(k) not in (None, 0, False)]
    stopped = ", stopped early" if train["stopped_early"] else ""
    if options.get("search"):
        stopped += f"; {options['search']} settings were tried before, and validation chose among them"
    chosen = f" Of probe, fine-tuned weights and their average, {kept['kept']} was kept." if kept else ""
    course = (
        f"{train['images']:,} images x {train['epochs']:g} epochs in {train['seconds']:.0f} s "
        f"({train['images_per_second']:.0f} images a second), best epoch {train['best_epoch']:g}{stopped}.{chosen}"
    )
    parts = [f"**Preprocessing.** The network sees {of.view}{crops}.", f"**Course.** {course}"]
    if of.command:
        parts += ["**Command.**", code("bash", of.command)]
    return "\n\n".join([*parts, table([["option", "value"], *rows])])


def evaluation_section(of: RunProfile) -> str:
    """Each part that was judged, each class with its interval, and what is taken for what."""
    name, numbers = of.judged
    overview = [["images of", "images", "accuracy", "95 % interval", "macro F1", "balanced accuracy", "loss"]]
    for part, k in of.parts.items():
        interval = "{:.3f} to {:.3f}".format(*k["accuracy_ci95"])
        overview.append([part, k["images"], k["accuracy"], interval, k["macro_f1"], k["balanced_accuracy"], k["loss"]])
    by_recall = sorted(numbers["per_class"].items(), key=lambda item: item[1]["recall"] or 0)
    rows = [["class", "images", "recall", "95 % interval", "precision", "F1"]]
    for c, k in by_recall[:SHOWN_CLASSES]:
        interval = "{:.2f} to {:.2f}".format(*recall_interval(k)) if k["support"] else "–"
        rows.append([escape(c), k["support"], k["recall"], interval, k["precision"], k["f1"]])
    parts = [
        "**Testing data.** Images of the same collection that were not trained on. **Factors.** Classes. **Metrics.** "
        "See the glossary; intervals are Wilson's.",
        table(overview),
        f"**By class,** the lowest recall first, on {numbers['images']:,} {JUDGED_ON[name]}:",
        table(rows),
    ]
    confused = most_confused(numbers["confusion_matrix"], of.classes, 5)
    if confused:
        pairs = (f"{escape(a)} for {escape(b)} ({n} of {numbers['per_class'][a]['support']})" for a, b, n in confused)
        parts.append(f"**Taken for another most often:** {', '.join(pairs)}.")
    return "\n\n".join([*parts, *_pictures(of, {"confusion_matrix": "Which class is taken for which"})])


def confidence_section(of: RunProfile) -> str:
    """Whether confidence means what it says, and from where on answers can be left alone."""
    trust = of.run.read_json(run_folder.CALIBRATION)
    if not trust or trust["ece_before"] is None:
        return "It was not measured."
    found = trust["threshold"]
    scaled = (
        "no temperature makes that clearly better. "
        if trust["temperature"] == 1
        else f"by {trust['ece_after']:.3f} once the logits are divided by {trust['temperature']:.3f} "
        "(`calibration.json`; `scripts/predict.py` does so by itself). "
    )
    words = (
        f"On {trust['images']:,} validation images, confidence differs from accuracy by {trust['ece_before']:.3f} on "
        f"average (ECE); {scaled}"
    )
    if found["confidence"] is None:
        words += f"At no confidence were {found['min_precision']:.0%} of answers right: let a person look at all."
    else:
        low, high = found["ci95"]
        words += (
            f"Answers with a confidence of {found['confidence']:.3f} or more, {found['coverage']:.0%} of all, were "
            f"right in {found['precision']:.1%} (95 % interval {low:.1%} to {high:.1%}); let a person look at the rest."
        )
    pictures = {"reliability": "Confidence against accuracy", "coverage": "Share answered against accuracy"}
    return "\n\n".join([words, *_pictures(of, pictures)])


def recall_interval(of: Mapping) -> tuple[float, float]:
    """The 95 % interval of a class's recall. of: its entry in metrics.json."""
    return wilson_interval(round(of["recall"] * of["support"]), of["support"])


def _pictures(of: RunProfile, named: Mapping[str, str]) -> list[str]:
    files = {f"{run_folder.FIGURES}/{name}.png": words for name, words in named.items()}
    return [f"![{words}]({file})" for file, words in files.items() if file in of.files]
