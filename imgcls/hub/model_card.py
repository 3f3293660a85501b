"""A finished run -> its model card: what the model is, what it is worth, where it fails, and how to use it.

The sections are those of the Hub's guidebook for model cards (https://huggingface.co/docs/hub/model-card-guidebook).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from huggingface_hub import EvalResult, ModelCardData

from imgcls.hub import card_sections
from imgcls.hub.markdown import bullet_list, code, escape
from imgcls.hub.run_profile import RunProfile
from imgcls.storage import atomic_file, run_folder

LIBRARIES = {"timm_wrapper": "timm"}  # by model type; all others are transformers' own
CURED = ("unreadable", "exact_duplicate", "near_duplicate", "label_conflict", "leak")  # left out, or kept together
NAMED_CLASSES = 20  # in a sentence
METRICS = {  # of metrics.json, by the names that the Hub gives them
    "accuracy": ("accuracy", "Accuracy"),
    "f1": ("macro_f1", "Macro F1"),
    "balanced_accuracy": ("balanced_accuracy", "Balanced accuracy"),
    "cross_entropy": ("loss", "Cross-entropy"),
    "expected_calibration_error": ("ece", "Expected calibration error"),
}
_STAMP = re.compile(r"\n<!-- imgcls [0-9a-f]{16}: .*? -->\n\Z")


def render_model_card(of: RunProfile) -> str:
    """The whole card: metadata and text."""
    sections = {
        "How to use it": _use(of),
        "Model details": _details(of),
        "Uses": _uses(of),
        "Bias, risks and limitations": _limits(of),
        "Training data": card_sections.data_section(of),
        "Training procedure": card_sections.procedure_section(of),
        "Evaluation": card_sections.evaluation_section(of),
        "How far to trust its confidence": card_sections.confidence_section(of),
        "Environmental impact": _impact(of),
        "Technical specifications": _technical(of),
        "Glossary": _GLOSSARY,
        "Citation, authors, contact": _contact(of),
    }
    parts = [
        f"---\n{card_metadata(of).to_yaml()}\n---",
        _headline(of),
        *(f"## {k}\n\n{v}" for k, v in sections.items()),
    ]
    return "\n\n".join(parts) + "\n"


def is_edited(text: str) -> bool:
    """Whether somebody changed a card since it was written, or wrote it without us."""
    return stamped(_STAMP.sub("", text)) != text


def stamped(text: str) -> str:
    """A card with a line at its end by which `is_edited` knows it again."""
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
    return f"{text}\n<!-- imgcls {digest}: once this card is edited by hand, it is kept and pushed as it is -->\n"


def card_metadata(of: RunProfile) -> ModelCardData:
    """What the Hub reads: licence, origin, task, library and what was measured."""
    name, numbers = of.judged
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=of.dataset or "imagefolder",
            dataset_name=of.dataset or ("digits of scikit-learn" if of.is_demo else "images of the author"),
            dataset_split=name,
            metric_type=kind,
            metric_name=shown,
            metric_value=round(numbers[key], 4),
        )
        for kind, (key, shown) in METRICS.items()
        if numbers[key] is not None
    ]
    return ModelCardData(
        pipeline_tag="image-classification",
        library_name=LIBRARIES.get(of.config.model_type, "transformers"),
        license=of.license,
        base_model=of.base_model,
        base_model_relation="finetune" if of.base_model else None,
        datasets=[name for name in (of.dataset, *of.earlier) if name] or None,
        metrics=["accuracy", "f1"],
        tags=["image-classification", "imgcls", *(["lora"] if _has(of, run_folder.ADAPTER) else [])],
        model_name=of.title,
        eval_results=results,
    )


def _has(of: RunProfile, folder: str) -> bool:
    return any(name.startswith(f"{folder}/") for name in of.files)


def _headline(of: RunProfile) -> str:
    name, numbers = of.judged
    low, high = numbers["accuracy_ci95"]
    demo = f" Try it in the browser: https://huggingface.co/spaces/{of.space}" if of.space else ""
    return (
        f"# {escape(of.title)}\n\nSorts photos into {len(of.classes)} classes: {_named(of.classes)}. "
        f"Trained from {_origin(of)}.\n\n**Accuracy {numbers['accuracy']:.3f}** (95 % interval {low:.3f} to "
        f"{high:.3f}) on {numbers['images']:,} {card_sections.JUDGED_ON[name]}.{demo}"
    )


def _named(classes: list[str]) -> str:
    more = f" and {len(classes) - NAMED_CLASSES} more" if len(classes) > NAMED_CLASSES else ""
    return ", ".join(map(escape, classes[:NAMED_CLASSES])) + more


def _origin(of: RunProfile) -> str:
    if of.base_model:
        return f"[{of.base_model}](https://huggingface.co/{of.base_model})"
    return "random weights" if of.metrics["initialised"] == "random" else "weights that are not on the Hub"


def _use(of: RunProfile) -> str:
    pipeline = f"""
from transformers import pipeline

classify = pipeline("image-classification", model="{of.repo_id}")
classify("photo.jpg")"""
    onnx = f"""
import onnxruntime
from huggingface_hub import hf_hub_download
from PIL import Image
from transformers import AutoImageProcessor

photo = Image.open("photo.jpg").convert("RGB")
pixels = AutoImageProcessor.from_pretrained("{of.repo_id}")(images=photo, return_tensors="pt")["pixel_values"]
session = onnxruntime.InferenceSession(hf_hub_download("{of.repo_id}", "export/model.onnx"))
(logits,) = session.run(["logits"], {{"pixel_values": pixels.numpy()}})  # (1, {len(of.classes)})"""
    needs = "pip install transformers torch torchvision"
    if "export/model.onnx.data" in of.files:  # the weights of a large network
        fetch = f'hf_hub_download("{of.repo_id}", "export/model.onnx.data")'
        onnx = onnx.replace("session =", f"{fetch}  # the weights, beside it\nsession =")
    parts = [code("bash", needs + " timm" * (of.config.model_type in LIBRARIES)), code("python", pipeline)]
    parts += [
        "Whole folders, with calibrated confidence and the unsure answers marked (the scripts that made it):",
        code("bash", f"python scripts/predict.py --run {of.repo_id} photos --out answers.csv"),
    ]
    if "export/model.onnx" in of.files:
        parts += ["With ONNX Runtime (`export/export.json` tells how equal it is):", code("python", onnx)]
    if _has(of, run_folder.ADAPTER):
        parts.append("The LoRA adapter alone lies in `adapter/`; in the model here it is merged.")
    return "\n\n".join(parts)


def _details(of: RunProfile) -> str:
    kind = (of.config.architectures or [of.config.model_type])[0]
    version = of.made.get("versions", {}).get("imgcls")
    made = f"{of.made['date']}, with imgcls {version}" if version else "on a day that was not recorded"
    return bullet_list({
        "Developed and shared by": of.owner or "not stated",
        "Model type": f"image classifier ({kind})",
        "Trained from": _origin(of),
        "Input": of.view,
        "Output": f"logits of {len(of.classes)} classes, named in `config.json`",
        "Size": f"{of.parameters / 1e6:.1f} M parameters, {atomic_file.format_bytes(of.weight_bytes)}",
        "License": of.license or "not stated",
        "Language": "none; classes are called as their folders were",
        "Made": made,
    })  # fmt: skip


def _uses(of: RunProfile) -> str:
    return (
        "**Direct use.** Photos like those it was trained on (see Training data), each of one of its classes.\n\n"
        f"**Downstream use.** A start for other classes of similar photos: `train.py --model {of.repo_id}`.\n\n"
        "**Out of scope.** Photos of none of these classes: it names one of them all the same. Several things in one "
        "photo: it gives one answer. Decisions about people, health or safety without a person who looks at the photo."
    )


def _limits(of: RunProfile) -> str:
    name, numbers = of.judged
    findings = of.run.read_json(run_folder.DIAGNOSIS) or []
    lines = [f"{escape(found['evidence'])}. {escape(found['advice'])}" for found in findings]
    seen = of.run.read_json(run_folder.CHECK) or []
    problems = [p for p in seen if p["severity"] != "info" and p["code"] not in CURED]
    lines += [f"In its data: {escape(_without_files(problem))}." for problem in problems]
    missed = [c for c, k in numbers["per_class"].items() if k["support"] and card_sections.recall_interval(k)[0] < 0.5]
    if missed:
        lines.append(f"It may miss more than half of the photos of (95 % interval of recall): {_named(missed)}.")
    low, high = numbers["accuracy_ci95"]
    if high - low > 0.1:
        few = f"It was judged on {numbers['images']:,} images only"
        lines.append(f"{few}: by chance alone its true accuracy may be {low:.2f} or {high:.2f}.")
    if name == "validation":
        lines.append("The images it was judged on chose the epoch as well: expect a little less on others.")
    lines.append(
        "It learned from one collection of photos. On those of another camera, place, light or group of people it may "
        "do worse, and nothing here tells by how much."
    )
    judge = f"python scripts/validate.py --run {of.repo_id} --data your_photos"
    advice = "**Recommendation.** Before you rely on it, judge it on labelled photos of your own:"
    return "\n".join(f"- {line}" for line in lines) + f"\n\n{advice}\n\n{code('bash', judge)}"


def _without_files(problem: Mapping) -> str:
    """A problem's message without the names of files, which are nobody else's business; classes end in a slash."""
    of_classes = all(str(name).endswith("/") for name in problem["files"])
    return problem["message"] if of_classes else problem["message"].split(": ")[0]


def _impact(of: RunProfile) -> str:
    return bullet_list({
        "Hardware": escape(of.made.get("machine", "not recorded")),
        "Hours of this training": f"{of.metrics['train']['seconds'] / 3600:.3f}",
        "Cloud provider, region": "not recorded",
        "Energy, carbon": "not measured",
    })  # fmt: skip


def _technical(of: RunProfile) -> str:
    loss = "focal loss" if of.options.get("focal") else "cross-entropy"
    versions = ", ".join(f"{name} {version}" for name, version in of.made.get("versions", {}).items())
    return bullet_list({
        "Architecture and objective": f"`{of.config.model_type}`, {loss} over {len(of.classes)} classes",
        "Compute": escape(of.made.get("machine", "not recorded")),
        "Software": versions or "not recorded",
    })  # fmt: skip


_GLOSSARY = bullet_list({
    "Accuracy": "share of photos whose class is named rightly",
    "Recall, precision": "that share among the photos of a class; the share that is right among those called so",
    "F1": "the harmonic mean of recall and precision; macro F1 is its mean over classes",
    "Balanced accuracy": "mean recall: rare classes count as much as frequent ones",
    "Loss": "cross-entropy: 0 when all are named rightly and surely",
    "95 % interval": "where the true value lies, as far as so many images can tell",
    "ECE": "how far confidence is from accuracy, on average",
})  # fmt: skip


def _contact(of: RunProfile) -> str:
    written = "This card was written by imgcls from what it measured."
    if not of.owner:
        return written
    return (
        f"[{of.owner}](https://huggingface.co/{of.owner}) made this model and answers in its discussions. To cite it, "
        f"name this repository{f' and {of.base_model}' if of.base_model else ''}. {written}"
    )
