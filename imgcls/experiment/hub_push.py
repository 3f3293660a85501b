"""Pushing a training to the Hub: write access is checked before, models are pushed during and after the training."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from imgcls.config.training_options import TrainingOptions
from imgcls.errors import HubError, one_line
from imgcls.hub import publish, repository
from imgcls.storage import run_folder
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)

CONTINUES = "Training continues; the whole run is pushed at its end."


@dataclass
class HubDestination:
    """Where a finished training is pushed. repo: None if the Hub was not asked before training (--hub_check off)."""

    name: str
    private: bool = False
    token: str | None = field(default=None, repr=False)
    repo: repository.Repo | None = None
    every_save: bool = False

    def claim(self, command: str) -> repository.Repo:
        """The repository, checked again: hours may lie between the start of a training and its end."""
        return repository.claim_repository(self.name, token=self.token, private=self.private, command=command)

    def callbacks(self, trainer: ImageTrainer) -> list[TrainerCallback]:
        """The callbacks that push during the training."""
        if not (self.every_save and self.repo):
            return []
        from imgcls.training import model_saving  # its imports are slow, and most trainings push at the end only

        return [PushEverySaveCallback(self.repo, lambda folder: model_saving.write_model(trainer, folder))]


def prepare_push(args: TrainingOptions, name: str) -> HubDestination | None:
    """Where --push_to_hub leads, with write access checked; None without it, and on ranks that do not write.

    name: of the repository when --hub_model_id gives none. Raises HubError on all ranks.
    """
    if not args.push_to_hub:
        return None
    destination = HubDestination(
        args.hub_model_id or name,
        bool(args.hub_private_repo),
        args.hub_token,
        every_save=args.hub_strategy == HubStrategy.EVERY_SAVE,
    )
    repository.check_name(destination.name)
    refusal: list[str | None] = [None]
    if args.should_save and args.hub_check == "on":
        try:
            destination.repo = destination.claim("the same command again, or with --hub_check off to train first")
            log.info("push: to %s at the end", destination.repo.url)
        except HubError as error:
            refusal = [str(error)]
    if args.world_size > 1:  # or the other ranks would wait for one that has ended
        broadcast_object_list(refusal)
    if refusal[0]:
        raise HubError(refusal[0])
    return destination if args.should_save else None


def push_finished_run(run: run_folder.RunFolder, destination: HubDestination) -> str:
    """Push a finished run; returns the address of its page. Raises HubError, which ends with the command to resume."""
    command = publish.push_command(run, destination.name, destination.private)
    return publish.push_run(run, destination.claim(command), command=command)


class PushEverySaveCallback(TrainerCallback):
    """--hub_strategy every_save: upload the current model after each checkpoint, in a thread next to training.

    A push that fails is logged at once and does not stop training; while one is running, the next is skipped.
    write_model: writes model and image processor into a folder.
    """

    def __init__(self, repo: repository.Repo, write_model: Callable[[Path], None]):
        self.repo, self.write_model = repo, write_model
        self._upload: threading.Thread | None = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Write the model to a temporary folder and start its upload."""
        if not args.should_save:
            return
        step = f"step {state.global_step} of {state.max_steps}"
        if self._upload and self._upload.is_alive():
            log.info("push: skipping %s, since the previous upload is still running", step)
            return
        folder = tempfile.TemporaryDirectory(prefix="imgcls-push-", ignore_cleanup_errors=True)
        try:
            self.write_model(Path(folder.name))
            card = f"# {self.repo.repo_id}\n\nThis model is still being trained: {step}.\n"
            Path(folder.name, run_folder.CARD).write_text(card)
        except Exception as error:  # a full disk has many names; training is worth more than this push
            folder.cleanup()
            log.warning("warning: push: skipping %s: %s. %s", step, one_line(error), CONTINUES)
            return
        self._upload = threading.Thread(target=self._send, args=(folder, f"In training: {step}"), daemon=True)
        self._upload.start()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Wait for the last upload, whose time is limited (`repository.upload_files`)."""
        if self._upload:
            self._upload.join()

    def _send(self, folder: tempfile.TemporaryDirectory[str], message: str) -> None:
        with folder as path:
            try:
                files = {file.name: file for file in Path(path).iterdir()}
                repository.upload_files(self.repo, files, message, "", publish.OWN_FILES)
            except (HubError, OSError) as error:
                log.warning("warning: push: %s %s", error, CONTINUES)
