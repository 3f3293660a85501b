"""Push a finished run to a repository of the Hub, and a page to try it to a Space."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Collection

from jinja2 import UndefinedError
from safetensors import SafetensorError

from imgcls.config.inference_options import PushOptions
from imgcls.errors import HubError, RunError, one_line
from imgcls.hub import card_file, model_card, repository
from imgcls.hub import space as spaces
from imgcls.hub.licenses import find_license
from imgcls.hub.run_profile import RunProfile
from imgcls.hub.staging import stage_files
from imgcls.storage import run_folder

# Files that a push may have left in a repository; those that a later push does not bring belong to other weights.
OWN_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model",
    run_folder.METRICS,
    run_folder.CALIBRATION,
    run_folder.REPORT,
    f"{run_folder.FIGURES}/",
    f"{run_folder.ADAPTER}/",
    f"{run_folder.EXPORT}/",
)


def push(options: PushOptions, command: str) -> tuple[str, str | None]:
    """Push a finished run and, with --space, a page to try it; returns the addresses of both.

    command: the command that resumes. Raises HubError, RunError.
    """
    run, include = run_folder.RunFolder(options.run), options.include or []
    check_pushable(run, include)
    private = options.private or is_private(run)
    name = options.repo or run.path.resolve().name
    repo = repository.claim_repository(name, private=private, command=command)
    if not options.space:
        return push_run(run, repo, command=command, license=options.license, include=include), None
    space = repository.claim_repository(options.space, private=repo.private, kind="space", command=command)
    url = push_run(run, repo, command=command, license=options.license, include=include, space=space.repo_id)
    return url, push_space(space, repo.repo_id, private=repo.private, command=command)


def check_pushable(run: run_folder.RunFolder, include: Collection[str] = ()) -> None:
    """Raises RunError unless the run is finished and whole, has what to include, and has a card that the Hub accepts.

    include: "export", "report".
    """
    if not (run.finished and (run / run_folder.WEIGHTS).is_file() and (run / "config.json").is_file()):
        raise RunError(f"Expected a finished run in {run.path}, got none. Train first, or give another --run.")
    if "export" in include and not (run / run_folder.EXPORT / run_folder.EXPORT_RECORD).is_file():
        raise RunError(
            f"Expected an export in {run.path}, got none. Make it with: python scripts/export.py --run {run.path}"
        )
    if "report" in include and not (run / run_folder.REPORT).is_file():
        raise RunError(f"Expected {run_folder.REPORT} in {run.path}, got none. Push without --include report.")
    try:
        model_card.render_model_card(RunProfile(run, "owner/name"))
    except (KeyError, TypeError, ValueError, OSError, AttributeError, SafetensorError, UndefinedError) as error:
        raise RunError(
            f"Expected a whole run in {run.path}, got {type(error).__name__}: {one_line(error)}. Train again."
        ) from error
    card_file.check_edited_card(run)


def push_command(run: run_folder.RunFolder, repo: str | None = None, private: bool = False) -> str:
    """The command that pushes a finished run, or resumes a push that failed."""
    path = str(run.path)
    words = ["python", "scripts/push.py", *([f"--run={path}"] if path.startswith("-") else ["--run", path])]
    return shlex.join([*words, *(["--repo", repo] if repo else []), *(["--private"] if private else [])])


def is_private(run: run_folder.RunFolder) -> bool:
    """Whether the training was given --hub_private_repo."""
    return bool((run.read_options() or {}).get("hub_private_repo"))


def push_run(
    run: run_folder.RunFolder,
    repo: repository.Repo,
    *,
    command: str,
    license: str | None = None,
    include: Collection[str] = (),
    space: str | None = None,
) -> str:
    """Push a finished run; returns the address of its page. Raises HubError; the run folder is not changed.

    command: the command that resumes. license: None takes that of the checkpoint. include: "export", "report". space:
    id of a Space that the card names.
    """
    card_license = license or find_license(run)
    card_file.warn_of_omissions(run, license, space)
    message = f"Model trained by imgcls: {run.path.resolve().name}"
    try:
        with stage_files(run, repo.repo_id, license=card_license, include=include, space=space) as files:
            repository.upload_files(repo, files, message, command, OWN_FILES)
    except OSError as error:
        raise HubError(
            f"Expected {run.path} to be readable and {tempfile.gettempdir()} to be writable, got "
            f"{error.strerror or error}. Then: {command}"
        ) from error
    return repo.url


def push_space(repo: repository.Repo, model: str, *, private: bool, command: str) -> str:
    """Push a page to try `model` ("owner/name", private or not); returns its address. Raises HubError."""
    with spaces.stage_space(model, private=private) as files:
        repository.upload_files(repo, files, f"Page to try {model}", command)
    return repo.url
