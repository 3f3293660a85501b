"""The files of a run that are pushed: a whitelist, without paths of this machine."""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from imgcls.hub import card_file, model_card
from imgcls.hub.run_profile import RunProfile
from imgcls.storage import run_folder
from imgcls.system import redaction

MODEL = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
NUMBERS = (run_folder.METRICS, run_folder.CALIBRATION)
ADAPTER_CONFIG = f"{run_folder.ADAPTER}/adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, f"{run_folder.ADAPTER}/adapter_model.safetensors")


@contextlib.contextmanager
def stage_files(
    run: run_folder.RunFolder,
    repo_id: str,
    *,
    license: str | None,
    include: Collection[str] = (),
    space: str | None = None,
) -> Iterator[dict[str, Path]]:
    """The files to push: path in the repository -> file, valid inside the block. Saves the card as README.md.

    include: "export", "report". metrics.json and the report are copies without the paths of this machine.
    """
    files = {file.relative_to(run.path).as_posix(): file for file in sorted(_chosen_files(run, include))}
    profile = RunProfile(run, repo_id, license, [*files], space)
    texts = {run_folder.METRICS: json.dumps(public_metrics(profile), ensure_ascii=False) + "\n"}
    if run_folder.REPORT in files:
        page = (run / run_folder.REPORT).read_text("utf-8", "replace")
        texts[run_folder.REPORT] = redaction.redact(page, private_paths(run))
    if ADAPTER_CONFIG in files:
        config = json.loads(files[ADAPTER_CONFIG].read_text("utf-8"))
        config["base_model_name_or_path"] = profile.sources.base_model
        texts[ADAPTER_CONFIG] = json.dumps(config, indent=2) + "\n"
        adapter_card = model_card.render_adapter_card(profile, config.get("r"))
        texts[f"{run_folder.ADAPTER}/{run_folder.CARD}"] = adapter_card
    texts[run_folder.CARD] = card_file.card_to_push(profile)
    with tempfile.TemporaryDirectory(prefix="imgcls-push-") as folder:
        for name, text in texts.items():
            files[name] = Path(folder, name)
            files[name].parent.mkdir(parents=True, exist_ok=True)
            files[name].write_text(text, "utf-8")
        yield files


def public_metrics(profile: RunProfile) -> dict[str, Any]:
    """metrics.json without paths of this machine."""
    provenance = {name: value for name, value in profile.provenance.items() if name != "folder"}
    if profile.command:
        provenance["command"] = profile.command
    model = profile.sources.base_model or redaction.basename(profile.metrics["model"])
    return {**profile.metrics, "model": model, "made": provenance}


def private_paths(run: run_folder.RunFolder) -> set[str]:
    """Paths of this machine that a report may contain: the run, its data and model, images, the home folder."""
    metrics, options = run.read_json(run_folder.METRICS) or {}, run.read_options() or {}
    public = {value for value in metrics.get("sources", {}).values() if isinstance(value, str)}
    provenance = metrics.get("made", {})
    values = [options.get(name) for name in ("data", "model", "exclude", "logging_dir")]
    values += [metrics.get("model"), provenance.get("folder"), str(run.path), str(run.path.resolve())]
    values += shlex.split(provenance.get("command", ""))
    paths = {v for v in values if isinstance(v, str) and v not in public and redaction.basename(v) != v}
    with contextlib.suppress(RuntimeError, OSError):  # "~" of an unknown user
        paths |= {str(Path(path).expanduser().resolve()) for path in paths}
    images = [Path(row["path"]) for row in run.read_csv(run_folder.SPLIT)]
    outside = [image for image in images if image.is_absolute() or ".." in image.parts]
    paths |= {str(p) for image in outside for p in image.parents if p.name not in ("", "..") and len(p.parts) > 2}
    return paths | {str(Path.home())}


def _chosen_files(run: run_folder.RunFolder, include: Collection[str]) -> Iterator[Path]:
    for pattern in MODEL:
        yield from run.path.glob(pattern)
    figures = [f"{run_folder.FIGURES}/{name}.png" for name in run_folder.FIGURE_NAMES]
    names = [*NUMBERS, *figures, *ADAPTER_FILES]
    if "report" in include:
        names.append(run_folder.REPORT)
    if "export" in include:
        record = run.read_json(f"{run_folder.EXPORT}/{run_folder.EXPORT_RECORD}") or {}
        exported = (run_folder.EXPORT_RECORD, record.get("file"), record.get("external_data"))
        names += [f"{run_folder.EXPORT}/{name}" for name in exported if name]
    yield from (run / name for name in names if (run / name).is_file())
