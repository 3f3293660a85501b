"""README.md of a run folder: written after a training and with every push, unless somebody has edited it."""

from __future__ import annotations

import logging

from huggingface_hub import ModelCard

from imgcls.errors import RunError, one_line
from imgcls.hub import model_card
from imgcls.hub.licenses import known_license
from imgcls.hub.run_profile import RunProfile
from imgcls.storage import run_folder

log = logging.getLogger(__name__)

OWNER_PLACEHOLDER = "YOUR-NAME"  # in the card of a run that has no repository yet


def write_model_card(run: run_folder.RunFolder) -> None:
    """Write the card of a run that has no repository yet, without a request to the Hub; an edited card is kept."""
    if read_edited_card(run) is not None:
        log.info("card: %s was edited by hand and is kept (delete it for a new one)", run / run_folder.CARD)
        return
    base_model = (run.read_json(run_folder.METRICS) or {}).get("sources", {}).get("base_model")
    figures = [f"{run_folder.FIGURES}/{file.name}" for file in (run / run_folder.FIGURES).glob("*.png")]
    profile = RunProfile(run, _placeholder_id(run), known_license(base_model), figures)
    _save(run, model_card.stamp(model_card.render_model_card(profile)))


def card_to_push(profile: RunProfile) -> str:
    """The card to push: the edited one with the name of the repository filled in, else a new one, which is saved."""
    run = profile.run
    edited = read_edited_card(run)
    if edited is not None:
        text = edited.replace(_placeholder_id(run), profile.repo_id)
        return text.replace(OWNER_PLACEHOLDER, profile.repo_id.split("/")[0])
    text = model_card.stamp(model_card.render_model_card(profile))
    _save(run, text)
    return text


def read_edited_card(run: run_folder.RunFolder) -> str | None:
    """README.md of a run if somebody wrote or changed it. Raises RunError when it cannot be read."""
    file = run / run_folder.CARD
    try:
        text = file.read_text("utf-8") if file.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"Expected a text in UTF-8 in {file}, got {error}. Repair it, or move it elsewhere.") from error
    return text if text is not None and model_card.is_edited(text) else None


def check_edited_card(run: run_folder.RunFolder) -> None:
    """Raises RunError for an edited card whose metadata cannot be parsed."""
    text = read_edited_card(run)
    if text is None:
        return
    try:
        ModelCard(text)
    except Exception as error:  # of YAML, or of what it says
        raise RunError(
            f"Expected valid YAML at the top of {run / run_folder.CARD}, got {one_line(error)}. Repair it, or delete "
            "the file for a new one."
        ) from error


def warn_of_omissions(run: run_folder.RunFolder, license: str | None, space: str | None) -> None:
    """Log that an edited card is pushed as it is, and what it does not mention; nothing for a card of ours."""
    text = read_edited_card(run)
    if text is None:
        return
    log.info("card: %s was edited by hand and is pushed as it is (delete it for a new one)", run / run_folder.CARD)
    accuracy = RunProfile(run, OWNER_PLACEHOLDER).main_evaluation[1]["accuracy"]
    if f"{accuracy:.3f}" not in text:
        log.warning("warning: card: it does not state this run's accuracy, %.3f: is it of another run?", accuracy)
    for option, value in (("--license", license), ("--space", space)):
        if value and value not in text:
            log.warning("warning: card: it does not mention %s %s; add it, or delete the card", option, value)


def _placeholder_id(run: run_folder.RunFolder) -> str:
    return f"{OWNER_PLACEHOLDER}/{run.path.resolve().name}"


def _save(run: run_folder.RunFolder, text: str) -> None:
    try:
        run.write_text(run_folder.CARD, text)
    except OSError as error:
        log.warning("warning: card: it cannot be saved in %s: %s", run.path, error.strerror)
