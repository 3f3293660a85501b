"""A finished run -> a repository of the Hub: which of its files leave this machine, and that no path of ours does."""

from __future__ import annotations

import contextlib
import html
import json
import logging
import shlex
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from huggingface_hub import model_info

from imgcls import artifacts, card, checkpoints, deadline, hub
from imgcls import space as spaces
from imgcls.errors import RunError
from imgcls.markdown import bullets, code
from imgcls.profile import Profile

log = logging.getLogger(__name__)

MODEL = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
NUMBERS = (artifacts.METRICS, artifacts.CALIBRATION)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LICENSE_WAIT_S = 10
_TEXT = (".json", ".html", ".md")
_KNOWN = {c.hub_id: c.licence for c in checkpoints.CHECKPOINTS.values()}


def check(run: artifacts.RunFolder, include: Collection[str] = ()) -> None:
    """Raises RunError unless the run is finished and has what is to be included."""
    if not (run.finished and (run / artifacts.WEIGHTS).is_file() and (run / "config.json").is_file()):
        raise RunError(f"Expected a finished run in {run.path}, got none. Train first, or give another --run.")
    if "export" in include and not (run / artifacts.EXPORT / artifacts.EXPORT_RECORD).is_file():
        raise RunError(
            f"Expected an export in {run.path}, got none. Make it with: python scripts/export.py --run {run.path}"
        )
    if "report" in include and not (run / artifacts.REPORT).is_file():
        raise RunError(f"Expected {artifacts.REPORT} in {run.path}, got none. Leave out --include report.")


def command(
    run: artifacts.RunFolder, repo: str, private: bool = False, include: Collection[str] = (), space: str | None = None
) -> str:
    """The command that pushes a finished run, or goes on with a push that failed."""
    words = ["python", "scripts/push.py", "--run", str(run.path), "--repo", repo]
    words += ["--private"] if private else []
    words += ["--include", *include] if include else []
    return shlex.join([*words, *(["--space", space] if space else [])])


def push(
    run: artifacts.RunFolder,
    repo: hub.Repo,
    *,
    again: str,
    license: str | None = None,
    include: Collection[str] = (),
    space: str | None = None,
) -> str:
    """Send a finished run; returns the address of its page. Raises HubError; the run folder stays whole.

    license: None takes that of the checkpoint. include: "export", "report". space: that the card names.
    """
    license = license or license_of(run)
    with staged(run, repo.repo_id, license=license, include=include, space=space) as files:
        hub.send(repo, files, f"Model trained by imgcls: {run.path.name}", again)
    return repo.url


def push_space(repo: hub.Repo, model: str, *, private: bool, again: str) -> str:
    """Send the page to try `model`; returns its address."""
    with spaces.staged(model, private=private) as files:
        hub.send(repo, files, f"Page to try {model}", again)
    return repo.url


def license_of(run: artifacts.RunFolder) -> str | None:
    """That of the checkpoint that the run was trained from, as the table or the Hub says; None when neither does."""
    base = (run.read_json(artifacts.METRICS) or {}).get("sources", {}).get("base_model")
    if base is None:
        return None
    if base in _KNOWN:
        return _KNOWN[base]
    try:
        about = deadline.within(LICENSE_WAIT_S, lambda: model_info(base)).card_data
    except Exception as error:  # the client's errors have no common class
        log.warning("card: the license of %s is not known (%s); --license sets it", base, type(error).__name__)
        return None
    return about.get("license") if about else None


@contextlib.contextmanager
def staged(
    run: artifacts.RunFolder,
    repo_id: str,
    *,
    license: str | None,
    include: Collection[str] = (),
    space: str | None = None,
) -> Iterator[dict[str, Path]]:
    """What is pushed: path in the repository -> file, which is there inside the block. Writes the card as README.md.

    Texts are copies in which what lies where on this machine is replaced by the last name of the path.
    """
    with tempfile.TemporaryDirectory(prefix="imgcls-push-") as beside:
        files = {file.relative_to(run.path).as_posix(): file for file in sorted(_chosen(run, include))}
        hidden = private_paths(run)
        for name, file in files.items():
            if file.suffix in _TEXT:
                files[name] = _written(Path(beside, name), without_paths(file.read_text("utf-8"), hidden))
        profile = Profile(run, repo_id, license, [*files], space)
        if f"{artifacts.ADAPTER}/adapter_config.json" in files:
            _describe_adapter(profile, files, Path(beside))
        write_card(profile, hidden)
        files[artifacts.CARD] = run / artifacts.CARD
        yield files


def describe(run: artifacts.RunFolder) -> None:
    """The card of a run that has no repository yet, without network."""
    base = run.read_json(artifacts.METRICS)["sources"]["base_model"]
    figures = [f"{artifacts.FIGURES}/{file.name}" for file in (run / artifacts.FIGURES).glob("*.png")]
    write_card(Profile(run, run.path.resolve().name, _KNOWN.get(base), figures), private_paths(run))


def write_card(of: Profile, hidden: Collection[str]) -> None:
    """README.md of a run, unless somebody has edited it. hidden: as of `private_paths`."""
    place = of.run / artifacts.CARD
    if place.is_file() and card.is_edited(place.read_text("utf-8", "replace")):
        log.info("card: %s was edited by hand and stays as it is (delete it for a new one)", place)
    else:
        of.run.write_text(artifacts.CARD, card.stamped(without_paths(card.render(of), hidden)))


def private_paths(run: artifacts.RunFolder) -> list[str]:
    """Whatever tells where on this machine things lie: the run, the home, paths among options and images."""
    metrics, options = run.read_json(artifacts.METRICS) or {}, run.read_options() or {}
    public = set(metrics.get("sources", {}).values())
    said = shlex.split(metrics.get("made", {}).get("command", ""))  # a run may have been moved since
    values = [v for v in [*options.values(), metrics.get("model"), *said] if isinstance(v, str) and v not in public]
    found = {v for v in values if _is_path(v) and v not in _KNOWN and not v.startswith("scripts/")}
    found |= {str(Path(v).expanduser().resolve()) for v in found}
    rows = [row["path"] for row in run.read_csv(artifacts.SPLIT)]
    found |= {str(parent) for row in rows if Path(row).is_absolute() for parent in Path(row).parents}
    found |= {str(run.path), str(run.path.resolve()), str(Path.home())}
    return sorted((p for p in found if len(Path(p).parts) > 1), key=len, reverse=True)


def without_paths(text: str, hidden: Collection[str]) -> str:
    """A text in which each hidden path is its last name; as it is, and as HTML and JSON write it."""
    for path in hidden:
        name = Path(path).name
        for written in {path: name, html.escape(path): html.escape(name), json.dumps(path)[1:-1]: name}.items():
            text = text.replace(*written)
    return text


def _is_path(value: str) -> bool:
    return "/" in value.strip("/") or value.startswith(("/", "~", "./", "../")) or "\\" in value


def _chosen(run: artifacts.RunFolder, include: Collection[str]) -> Iterator[Path]:
    for pattern in MODEL:
        yield from run.path.glob(pattern)
    wanted = [run / name for name in NUMBERS]
    wanted += [run / artifacts.FIGURES / f"{name}.png" for name in artifacts.FIGURE_NAMES]
    wanted += [run / artifacts.ADAPTER / name for name in ADAPTER_FILES]
    wanted += [run / artifacts.REPORT] if "report" in include else []
    wanted += [*(run / artifacts.EXPORT).glob("*")] if "export" in include else []
    yield from (file for file in wanted if file.is_file())


def _written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def _describe_adapter(of: Profile, files: dict[str, Path], beside: Path) -> None:
    """Give the adapter the name of its base, and a card of its own."""
    name = f"{artifacts.ADAPTER}/adapter_config.json"
    config = json.loads(files[name].read_text("utf-8")) | {"base_model_name_or_path": of.base_model}
    files[name] = _written(beside / name, json.dumps(config, indent=2) + "\n")
    readme = f"{artifacts.ADAPTER}/{artifacts.CARD}"
    files[readme] = _written(beside / readme, adapter_card(of, config))


def adapter_card(of: Profile, config: dict) -> str:
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
model = PeftModel.from_pretrained(base, "{of.repo_id}", subfolder="{artifacts.ADAPTER}")"""
    about = bullets({
        "Base model": f"[{base}](https://huggingface.co/{base})" if of.base_model else "one that is not on the Hub",
        "Rank": str(config.get("r")),
        "Merged, with all numbers": f"[{of.repo_id}](https://huggingface.co/{of.repo_id})",
    })  # fmt: skip
    return f"---\n{head}\n---\n\n# LoRA adapter of {of.title}\n\n{about}\n\n{code('python', use)}\n"
