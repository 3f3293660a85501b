"""The model card of a finished run: metadata that the Hub reads, and text (templates/model_card.md).

The sections are those of the Hub's guidebook for model cards (https://huggingface.co/docs/hub/model-card-guidebook).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from imgcls.evaluation.intervals import wilson_interval
from imgcls.evaluation.scores import most_confused
from imgcls.hub import markdown
from imgcls.hub.run_profile import RunProfile
from imgcls.storage import run_folder

LIBRARIES = {"timm_wrapper": "timm"}  # by model type; all others are transformers' own
HANDLED_ISSUES = ("unreadable", "exact_duplicate", "near_duplicate", "label_conflict", "leak")  # by training itself
MAX_CLASSES = 200  # rows of a table
METRICS = {  # name on the Hub -> key in metrics.json, title
    "accuracy": ("accuracy", "Accuracy"),
    "f1": ("macro_f1", "Macro F1"),
    "balanced_accuracy": ("balanced_accuracy", "Balanced accuracy"),
    "cross_entropy": ("loss", "Cross-entropy"),
    "expected_calibration_error": ("ece", "Expected calibration error"),
}
SETTINGS = (
    "tune", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "label_smoothing_factor", "focal", "class_weights", "sampler",
    "augment", "mixup", "cutmix", "batch_norm", "ema", "bf16", "fp16", "seed",
)  # fmt: skip
SKIPPED = {  # start of a reason in exclude.csv -> its words for one photo, for several
    "the same file under": ("photo filed under two classes", "photos filed under two classes"),
    "the same file as": ("duplicate", "duplicates"),
    "a copy of": ("copy of a photo in another split", "copies of photos in another split"),
}
_STAMP = re.compile(r"\n<!-- imgcls ([0-9a-f]{16}): .*? -->\n\Z")


def render_model_card(profile: RunProfile) -> str:
    """The whole card: metadata and text.

    Raises KeyError, TypeError, AttributeError, jinja2.UndefinedError and what `RunProfile.network` does for a damaged
    run.
    """
    split, results = profile.main_evaluation
    counts = profile.image_counts()
    splits = [name for name in ("train", "validation", "test") if any(count[name] for count in counts.values())]
    calibration = profile.run.read_json(run_folder.CALIBRATION)
    options = profile.options
    return markdown.render(
        "model_card.md",
        profile=profile,
        metadata=card_metadata(profile),
        classes=profile.classes,
        sources=profile.sources,
        network=profile.network,
        provenance=profile.provenance,
        options=options,
        settings=[(name, options[name]) for name in SETTINGS if options.get(name) not in (None, 0, False)],
        has_adapter=_has_adapter(profile),
        augmented=not (options.get("tune") == "head" or options.get("augment") == "none"),
        training=profile.metrics["train"],
        selection=profile.metrics.get("selection"),
        evaluations=profile.evaluations,
        split=split,
        results=results,
        class_results=_class_results(results)[:MAX_CLASSES],
        weak_classes=[name for name, row in _class_results(results, sort=False) if _may_miss_half(row)],
        confusions=most_confused(results["confusion_matrix"], profile.classes, 5),
        findings=profile.run.read_json(run_folder.DIAGNOSIS) or [],
        data_issues=list(_data_issues(profile.run)),
        skipped=_skipped_photos(profile),
        counted_splits=splits,
        image_counts=list(counts.items())[:MAX_CLASSES],
        total_counts={name: sum(count[name] for count in counts.values()) for name in splits},
        calibration=calibration if calibration and calibration["ece_before"] is not None else None,
    )


def render_adapter_card(profile: RunProfile, rank: object) -> str:
    """The card of a LoRA run's adapter: its base model, its rank, and how to load it."""
    metadata = ModelCardData(
        library_name="peft",
        base_model=profile.sources.base_model,
        license=profile.license,
        pipeline_tag="image-classification",
    )
    return markdown.render("adapter_card.md", profile=profile, metadata=metadata, rank=rank)


def card_metadata(profile: RunProfile) -> ModelCardData:
    """What the Hub reads: license, origin, task, library, and the results as a model index."""
    split, numbers = profile.main_evaluation
    sources = profile.sources
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=sources.dataset or "imagefolder",
            dataset_name=sources.dataset or ("digits of scikit-learn" if sources.is_demo else "images of the author"),
            dataset_split=split,
            metric_type=metric,
            metric_name=title,
            metric_value=round(numbers[key], 4),
        )
        for metric, (key, title) in METRICS.items()
        if numbers[key] is not None
    ]
    return ModelCardData(
        pipeline_tag="image-classification",
        library_name=LIBRARIES.get(profile.network.model_type, "transformers"),
        license=profile.license,
        base_model=sources.base_model,
        base_model_relation="finetune" if sources.base_model else None,
        datasets=[name for name in (sources.dataset, *sources.earlier_datasets) if name] or None,
        metrics=["accuracy", "f1"],
        tags=["image-classification", "imgcls", *(["lora"] if _has_adapter(profile) else [])],
        model_name=profile.title,
        eval_results=results,
    )


def stamp(text: str) -> str:
    """A card with a last line by which `is_edited` recognizes it."""
    return f"{text}\n<!-- imgcls {_digest(text)}: a card that was edited by hand is kept and pushed as it is -->\n"


def is_edited(text: str) -> bool:
    """Whether a card was changed after it was stamped, or was never stamped."""
    match = _STAMP.search(text)
    return match is None or match[1] != _digest(text[: match.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def _has_adapter(profile: RunProfile) -> bool:
    return any(name.startswith(f"{run_folder.ADAPTER}/") for name in profile.files)


def _class_results(results: Mapping[str, Any], sort: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Classes with their results and the 95 % interval of their recall; `sort`: the lowest recall first."""
    rows = [(name, row | {"recall_ci95": _recall_interval(row)}) for name, row in results["per_class"].items()]
    return sorted(rows, key=lambda item: item[1]["recall"] or 0) if sort else rows


def _recall_interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    return wilson_interval(round(row["recall"] * row["support"]), row["support"]) if row["support"] else None


def _may_miss_half(row: Mapping[str, Any]) -> bool:
    return bool(row["support"]) and row["recall_ci95"][0] < 0.5


def _data_issues(run: run_folder.RunFolder) -> Iterator[str]:
    """Messages about the data that training did not handle, without names of files, which are private."""
    for issue in run.read_json(run_folder.CHECK) or []:
        if issue["severity"] != "info" and issue["code"] not in HANDLED_ISSUES:
            names_classes = all(str(name).endswith("/") for name in issue["files"])
            yield issue["message"] if names_classes else issue["message"].split(": ")[0]


def _skipped_photos(profile: RunProfile) -> list[tuple[str, int]]:
    """Why photos were skipped, and how many, most frequent first; without names of files and the author's notes."""
    issues = profile.run.read_json(run_folder.CHECK) or []
    unreadable = {f for issue in issues if issue["code"] in ("unreadable", "huge_image") for f in issue["files"]}
    counts: Counter[tuple[str, str]] = Counter()
    for row in profile.run.read_csv(run_folder.EXCLUDE):
        words = next((words for start, words in SKIPPED.items() if row["reason"].startswith(start)), None)
        by_author = profile.options.get("exclude") and row["path"] not in unreadable
        other = "excluded by the author" if by_author else "unreadable"
        counts[words or (other, other)] += 1
    return [(one if number == 1 else several, number) for (one, several), number in counts.most_common()]
