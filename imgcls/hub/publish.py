"""A finished run -> a repository of the Hub: which of its files leave this machine, and that no path of ours does."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from huggingface_hub import ModelCard, model_info
from safetensors import SafetensorError

from imgcls.errors import HubError, RunError, one_line
from imgcls.hub import model_card, repository
from imgcls.hub import space as spaces
from imgcls.hub.markdown import bullet_list, code
from imgcls.hub.run_profile import RunProfile
from imgcls.models import registry
from imgcls.storage import run_folder
from imgcls.system import network, redaction

log = logging.getLogger(__name__)

MODEL = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
NUMBERS = (run_folder.METRICS, run_folder.CALIBRATION)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LICENSE_WAIT_S = 10
# What a push may have left in a repository; what of it a later one does not bring would belong to other weights.
OWN_FILES = (
    "config.json", "preprocessor_config.json", "model", run_folder.METRICS, run_folder.CALIBRATION, run_folder.REPORT,
    f"{run_folder.FIGURES}/", f"{run_folder.ADAPTER}/", f"{run_folder.EXPORT}/",
)  # fmt: skip
PLACEHOLDER = "YOUR-NAME"  # the owner in the card of a run that has no repository yet
_KNOWN = {c.hub_id: c.license for c in registry.CHECKPOINTS.values()}


def check_pushable(run: run_folder.RunFolder, include: Collection[str] = ()) -> None:
    """Raises RunError unless the run is finished, whole, has what is to be included, and a card that the Hub takes."""
    if not (run.finished and (run / run_folder.WEIGHTS).is_file() and (run / "config.json").is_file()):
        raise RunError(f"Expected a finished run in {run.path}, got none. Train first, or give another --run.")
    if "export" in include and not (run / run_folder.EXPORT / run_folder.EXPORT_RECORD).is_file():
        raise RunError(
            f"Expected an export in {run.path}, got none. Make it with: python scripts/export.py --run {run.path}"
        )
    if "report" in include and not (run / run_folder.REPORT).is_file():
        raise RunError(f"Expected {run_folder.REPORT} in {run.path}, got none. Leave out --include report.")
    try:
        model_card.render_model_card(RunProfile(run, "owner/name"))
    except (KeyError, TypeError, ValueError, OSError, AttributeError, SafetensorError) as error:
        reason = one_line(error)
        raise RunError(
            f"Expected a whole run in {run.path}, got {type(error).__name__}: {reason}. Train again."
        ) from error
    text = edited_card(run)
    if text is not None:
        try:
            ModelCard(text)
        except Exception as error:  # of YAML, or of what it says
            reason = one_line(error)
            raise RunError(
                f"Expected YAML that can be read at the top of {run / run_folder.CARD}, got {reason}. Mend it, or "
                "delete the file for a new one."
            ) from error


def push_command(run: run_folder.RunFolder, repo: str | None = None, private: bool = False) -> str:
    """The command that pushes a finished run, or goes on with a push that failed."""
    words = ["python", "scripts/push.py", f"--run={run.path}" if str(run.path).startswith("-") else "--run"]
    words += [] if "=" in words[-1] else [str(run.path)]
    return shlex.join([*words, *(["--repo", repo] if repo else []), *(["--private"] if private else [])])


def is_private(run: run_folder.RunFolder) -> bool:
    """Whether the training was told to keep its repository private."""
    return bool((run.read_options() or {}).get("hub_private_repo"))


def push_run(
    run: run_folder.RunFolder,
    repo: repository.Repo,
    *,
    again: str,
    license: str | None = None,
    include: Collection[str] = (),
    space: str | None = None,
) -> str:
    """Send a finished run; returns the address of its page. Raises HubError; the run folder stays whole.

    license: None takes that of the checkpoint. include: "export", "report". space: that the card names.
    """
    stated = license or license_of(run)
    edited = edited_card(run)
    if edited is not None:
        _warn_of_edited(run, edited, license, space)
    name = run.path.resolve().name
    try:
        with stage_files(run, repo.repo_id, license=stated, include=include, space=space) as files:
            repository.upload_files(repo, files, f"Model trained by imgcls: {name}", again, OWN_FILES)
    except OSError as error:
        raise HubError(
            f"Expected {run.path} to be read and a copy of its texts written to {tempfile.gettempdir()}, got "
            f"{error.strerror or error}. Then: {again}"
        ) from error
    return repo.url


def edited_card(run: run_folder.RunFolder) -> str | None:
    """README.md of a run when somebody wrote or changed it. Raises RunError when it cannot be read."""
    place = run / run_folder.CARD
    try:
        text = place.read_text("utf-8") if place.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"Expected a text in UTF-8 in {place}, got {error}. Mend it, or move it elsewhere.") from error
    return text if text is not None and model_card.is_edited(text) else None


def _warn_of_edited(run: run_folder.RunFolder, text: str, license: str | None, space: str | None) -> None:
    place = run / run_folder.CARD
    log.info("card: %s was edited by hand and is pushed as it is (delete it for a new one)", place)
    _, numbers = RunProfile(run, PLACEHOLDER).judged
    if f"{numbers['accuracy']:.3f}" not in text:
        log.warning("warning: card: it does not state this run's accuracy, %.3f: of another run?", numbers["accuracy"])
    for option, value in (("--license", license), ("--space", space)):
        if value and value not in text:
            log.warning("warning: card: %s %s is not in it; write it there, or delete it", option, value)


def push_space(repo: repository.Repo, model: str, *, private: bool, again: str) -> str:
    """Send the page to try `model`; returns its address."""
    with spaces.stage_space(model, private=private) as files:
        repository.upload_files(repo, files, f"Page to try {model}", again)
    return repo.url


def license_of(run: run_folder.RunFolder) -> str | None:
    """That of the checkpoint that the run was trained from, as the table or the Hub says; None when neither does."""
    base = (run.read_json(run_folder.METRICS) or {}).get("sources", {}).get("base_model")
    if base is None:
        return None
    if base in _KNOWN:
        return _KNOWN[base]
    try:
        about = network.call_with_timeout(LICENSE_WAIT_S, lambda: model_info(base)).card_data
    except Exception as error:  # the client's errors have no common class
        log.warning("card: the license of %s is not known (%s); --license sets it", base, type(error).__name__)
        return None
    return about.get("license") if about else None


@contextlib.contextmanager
def stage_files(
    run: run_folder.RunFolder,
    repo_id: str,
    *,
    license: str | None,
    include: Collection[str] = (),
    space: str | None = None,
) -> Iterator[dict[str, Path]]:
    """What is pushed: path in the repository -> file, which is there inside the block. Keeps the card as README.md.

    metrics.json and the report are copies that do not tell where on this machine things lie.
    """
    with tempfile.TemporaryDirectory(prefix="imgcls-push-") as name:
        beside = Path(name)
        files = {file.relative_to(run.path).as_posix(): file for file in sorted(_chosen(run, include))}
        profile = RunProfile(run, repo_id, license, [*files], space)
        metrics = json.dumps(public_metrics(profile), ensure_ascii=False)
        files[run_folder.METRICS] = _written(beside / run_folder.METRICS, metrics + "\n")
        if run_folder.REPORT in files:
            page = (run / run_folder.REPORT).read_text("utf-8", "replace")
            files[run_folder.REPORT] = _written(beside / run_folder.REPORT, redaction.redact(page, private_paths(run)))
        if f"{run_folder.ADAPTER}/adapter_config.json" in files:
            _describe_adapter(profile, files, beside)
        edited = edited_card(run)
        text = (
            model_card.stamped(model_card.render_model_card(profile))
            if edited is None
            else _filled(edited, run, repo_id)
        )
        files[run_folder.CARD] = _written(beside / run_folder.CARD, text)
        if edited is None:
            _keep_card(run, text)
        yield files


def _unnamed(run: run_folder.RunFolder) -> str:
    return f"{PLACEHOLDER}/{run.path.resolve().name}"


def _filled(text: str, run: run_folder.RunFolder, repo_id: str) -> str:
    """An edited card with the name of its repository where it had none when it was written."""
    return text.replace(_unnamed(run), repo_id).replace(PLACEHOLDER, repo_id.split("/")[0])


def write_model_card(run: run_folder.RunFolder) -> None:
    """The card of a run that has no repository yet, without network; one that was edited stays."""
    if edited_card(run) is not None:
        log.info("card: %s was edited by hand and stays as it is (delete it for a new one)", run / run_folder.CARD)
        return
    base = run.read_json(run_folder.METRICS)["sources"]["base_model"]
    figures = [f"{run_folder.FIGURES}/{file.name}" for file in (run / run_folder.FIGURES).glob("*.png")]
    profile = RunProfile(run, _unnamed(run), _KNOWN.get(base), figures)
    _keep_card(run, model_card.stamped(model_card.render_model_card(profile)))


def _keep_card(run: run_folder.RunFolder, text: str) -> None:
    try:
        run.write_text(run_folder.CARD, text)
    except OSError as error:
        log.warning("warning: card: it is not kept in %s: %s", run.path, error.strerror)


def public_metrics(of: RunProfile) -> dict:
    """metrics.json without what tells of this machine."""
    made = {name: value for name, value in of.made.items() if name != "folder"}
    if of.command:
        made["command"] = of.command
    return {**of.metrics, "model": of.base_model or redaction.basename(of.metrics["model"]), "made": made}


def private_paths(run: run_folder.RunFolder) -> set[str]:
    """Whatever in a report tells where on this machine things lie: the run, its data and model, images, the home."""
    metrics, options = run.read_json(run_folder.METRICS) or {}, run.read_options() or {}
    public = {value for value in metrics.get("sources", {}).values() if isinstance(value, str)}
    values = [options.get(name) for name in ("data", "model", "exclude", "logging_dir")]
    made = metrics.get("made", {})
    values += [metrics.get("model"), made.get("folder"), str(run.path), str(run.path.resolve())]
    values += shlex.split(made.get("command", ""))
    found = {v for v in values if isinstance(v, str) and v not in public and redaction.basename(v) != v}
    with contextlib.suppress(RuntimeError, OSError):  # "~" of nobody
        found |= {str(Path(v).expanduser().resolve()) for v in found}
    rows = [Path(row["path"]) for row in run.read_csv(run_folder.SPLIT)]
    outside = [row for row in rows if row.is_absolute() or ".." in row.parts]
    found |= {str(p) for row in outside for p in row.parents if p.name not in ("", "..") and len(p.parts) > 2}
    return found | {str(Path.home())}


def _chosen(run: run_folder.RunFolder, include: Collection[str]) -> Iterator[Path]:
    for pattern in MODEL:
        yield from run.path.glob(pattern)
    wanted = [run / name for name in NUMBERS]
    wanted += [run / run_folder.FIGURES / f"{name}.png" for name in run_folder.FIGURE_NAMES]
    wanted += [run / run_folder.ADAPTER / name for name in ADAPTER_FILES]
    wanted += [run / run_folder.REPORT] if "report" in include else []
    if "export" in include:
        record = run.read_json(f"{run_folder.EXPORT}/{run_folder.EXPORT_RECORD}")
        named = (run_folder.EXPORT_RECORD, record.get("file"), record.get("external_data"))
        wanted += [run / run_folder.EXPORT / name for name in named if name]
    yield from (file for file in wanted if file.is_file())


def _written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def _describe_adapter(of: RunProfile, files: dict[str, Path], beside: Path) -> None:
    """Give the adapter the name of its base, and a card of its own."""
    name = f"{run_folder.ADAPTER}/adapter_config.json"
    config = json.loads(files[name].read_text("utf-8")) | {"base_model_name_or_path": of.base_model}
    files[name] = _written(beside / name, json.dumps(config, indent=2) + "\n")
    readme = f"{run_folder.ADAPTER}/{run_folder.CARD}"
    files[readme] = _written(beside / readme, adapter_card(of, config))


def adapter_card(of: RunProfile, config: dict) -> str:
    """The card of a LoRA run's adapter: its base, its rank, and how it is put on."""
    base = of.base_model or "FOLDER_OF_THE_CHECKPOINT"
    facts = {"library_name": "peft", "base_model": of.base_model, "license": of.license,
             "pipeline_tag": "image-classification"}  # fmt: skip
    head = "\n".join(f"{key}: {value}" for key, value in facts.items() if value)
    use = f"""
from peft import PeftModel
from transformers import AutoModelForImageClassification

base = AutoModelForImageClassification.from_pretrained(
    "{base}", num_labels={len(of.classes)}, ignore_mismatched_sizes=True
)
model = PeftModel.from_pretrained(base, "{of.repo_id}", subfolder="{run_folder.ADAPTER}")"""
    about = bullet_list({
        "Base model": f"[{base}](https://huggingface.co/{base})" if of.base_model else "one that is not on the Hub",
        "Rank": str(config.get("r")),
        "Merged, with all numbers": f"[{of.repo_id}](https://huggingface.co/{of.repo_id})",
    })  # fmt: skip
    return f"---\n{head}\n---\n\n# LoRA adapter of {of.title}\n\n{about}\n\n{code('python', use)}\n"
