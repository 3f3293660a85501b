"""Parsing: what was given, YAML defaults, mistakes in one line; exit codes."""

import errno

import pytest

from imgcls.config import parser
from imgcls.config.data_options import DataOptions
from imgcls.config.fields import RunOptions
from imgcls.config.model_options import ModelOptions
from imgcls.config.training_options import TrainingOptions
from imgcls.errors import FolderError, OptionError

KINDS = (DataOptions, ModelOptions, TrainingOptions, RunOptions)


@pytest.fixture
def parse():
    return lambda *argv: parser.parse(KINDS, [*map(str, argv)], description="", examples="")


@pytest.fixture
def refused(parse, capsys):
    """The one line that a wrong command line gets."""

    def of(*argv):
        with pytest.raises(SystemExit) as left:
            parse(*argv)
        assert left.value.code == parser.EXIT_USAGE
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    return of


def config(folder, text):
    file = folder / "defaults.yaml"
    file.write_text(text)
    return file


def test_only_what_is_given_counts(parse):
    given = parse("--epochs", 7, "--model", "vit-base")
    assert "num_train_epochs" in given
    assert "learning_rate" not in given
    assert given.make(ModelOptions).model == "vit-base"
    assert given.make(TrainingOptions, learning_rate=0.5, num_train_epochs=1).num_train_epochs == 7
    assert given.make(TrainingOptions, learning_rate=0.5).learning_rate == 0.5


def test_yaml_sets_defaults_and_the_command_line_wins(parse, tmp_path):
    file = config(tmp_path, "epochs: 7\nlr: 1e-3\nfrom_scratch: true\nimage_px: null\n")
    given = parse("--config", file, "--lr", "0.01")
    assert given.values["num_train_epochs"] == 7
    assert given.values["learning_rate"] == 0.01
    assert given.values["from_scratch"] is True
    assert "image_px" not in given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 7", ["'epoch'", "nearest", "epochs"]),
        ("learning_rte: 7", ["learning_rte", "learning_rate"]),
        ("- epochs", ["epochs: 5", "list"]),
        ("epochs: [", ["not YAML"]),
        ("epochs: many", ["many"]),
    ],
)
def test_mistakes_in_yaml_name_file_and_key(refused, tmp_path, text, words):
    line = refused("--config", config(tmp_path, text))
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--modell", "x"], ["--modell", "--model"]),
        (["--mod", "x"], ["--mod"]),
        (["photos"], ["stray word 'photos'"]),
        (["--bad_images", "maybe"], ["maybe", "skip"]),
        (["--epochs"], ["epochs"]),
    ],
)
def test_wrong_usage_is_one_line(refused, argv, words):
    line = refused(*argv)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (DataOptions, {"val_fraction": 0.0}),
        (DataOptions, {"val_fraction": 0.6, "test_fraction": 0.5}),
        (ModelOptions, {"image_px": 8}),
        (TrainingOptions, {"output_dir": "x", "learning_rate": -1.0}),
        (TrainingOptions, {"output_dir": "x", "eval_every_epochs": 0}),
        (TrainingOptions, {"output_dir": "x", "per_device_train_batch_size": 0}),
        (TrainingOptions, {"output_dir": "x", "lr_scheduler_type": "cosin"}),
    ],
)
def test_values_that_cannot_be_are_refused(options, values):
    with pytest.raises(OptionError):
        parser.ParsedOptions(values).make(options)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (FolderError("Expected this, got that. Do so."), parser.EXIT_ERROR, "error: Expected this, got that. Do so."),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.bin"),
            parser.EXIT_ERROR,
            "No space left on device: a.bin",
        ),
        (KeyboardInterrupt(), parser.EXIT_INTERRUPTED, "goes on where it was"),
    ],
)
def test_errors_that_can_be_mended_are_one_line(capsys, error, code, words):
    assert parser.run_main(raising(error)) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        parser.run_main(raising(ZeroDivisionError()))
