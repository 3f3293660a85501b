"""A training and a repository of the Hub: rights looked at before, pushes while it trains and at the end."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from imgcls.config.training_options import TrainingOptions
from imgcls.errors import HubError, one_line
from imgcls.hub import publish, repository
from imgcls.storage import run_folder
from imgcls.training.trainer import ImageTrainer

log = logging.getLogger(__name__)

GOES_ON = "Training goes on; the whole run is pushed at its end."


@dataclass
class HubDestination:
    """Where a training goes once it is done. repo: None as long as the Hub has not been asked (--hub_check off)."""

    name: str
    private: bool = False
    token: str | None = field(default=None, repr=False)
    repo: repository.Repo | None = None
    every_save: bool = False

    def claimed(self, again: str) -> repository.Repo:
        """The repository, asked for anew: hours may lie between the start of a training and its end."""
        return repository.claim_repository(self.name, token=self.token, private=self.private, again=again)

    def callbacks(self, trainer: ImageTrainer) -> list[TrainerCallback]:
        """What takes part in a training for this destination."""
        from imgcls.training import model_saving  # with what only its pages need: not for those who do not push

        return (
            [PushEverySave(self.repo, lambda folder: model_saving.write_model(trainer, folder))]
            if self.every_save
            else []
        )


def prepare_push(args: TrainingOptions, name: str) -> HubDestination | None:
    """Where --push_to_hub leads, the right to write there made sure; None without it, and on ranks that do not write.

    name: of the repository when --hub_model_id gives none. Raises HubError.
    """
    if not args.push_to_hub:
        return None
    wanted = HubDestination(
        args.hub_model_id or name,
        bool(args.hub_private_repo),
        args.hub_token,
        every_save=args.hub_strategy == HubStrategy.EVERY_SAVE,
    )
    repository.check_name(wanted.name)
    refused: list[str | None] = [None]
    if args.should_save and args.hub_check == "on":
        try:
            wanted.repo = wanted.claimed("the same command again, or with --hub_check off to train first")
            log.info("push: to %s at the end", wanted.repo.url)
        except HubError as error:
            refused = [str(error)]
    if args.world_size > 1:  # or the others would wait for one that has gone
        broadcast_object_list(refused)
    if refused[0]:
        raise HubError(refused[0])
    return wanted if args.should_save else None


def push_finished_run(run: run_folder.RunFolder, to: HubDestination) -> str:
    """Push a finished run; returns the address of its page. Raises HubError, whose line ends with how to go on."""
    again = publish.push_command(run, to.name, to.private)
    return publish.push_run(run, to.claimed(again), again=again)


class PushEverySave(TrainerCallback):
    """--hub_strategy every_save: after each checkpoint the model as it then is goes to the Hub, beside training.

    A push that fails is told at once, and leaves training alone; while one is under way, the next is left out.
    write_model: fills a folder with model and image processor.
    """

    def __init__(self, repo: repository.Repo, write_model: Callable[[Path], None]):
        self.repo, self.write_model = repo, write_model
        self._under_way: threading.Thread | None = None

    def on_save(self, args, state, control, **kwargs):
        if not args.should_save:
            return
        step = f"step {state.global_step} of {state.max_steps}"
        if self._under_way and self._under_way.is_alive():
            log.info("push: %s is left out, since an earlier one is still on its way", step)
            return
        folder = tempfile.TemporaryDirectory(prefix="imgcls-push-", ignore_cleanup_errors=True)
        try:
            self.write_model(Path(folder.name))
            card = f"# {self.repo.repo_id}\n\nThis model is still being trained: {step}.\n"
            Path(folder.name, run_folder.CARD).write_text(card)
        except Exception as error:  # a full disk has many names; training is worth more than this push
            folder.cleanup()
            log.warning("warning: push: %s is left out: %s. %s", step, one_line(error), GOES_ON)
            return
        self._under_way = threading.Thread(target=self._send, args=(folder, f"In training: {step}"), daemon=True)
        self._under_way.start()

    def on_train_end(self, args, state, control, **kwargs):
        if self._under_way:
            self._under_way.join()  # it ends by itself: hub.send gives up when nothing moves

    def _send(self, folder: tempfile.TemporaryDirectory, message: str) -> None:
        with folder as path:
            try:
                files = {file.name: file for file in Path(path).iterdir()}
                repository.upload_files(self.repo, files, message, "", publish.OWN_FILES)
            except (HubError, OSError) as error:
                log.warning("warning: push: %s %s", error, GOES_ON)
