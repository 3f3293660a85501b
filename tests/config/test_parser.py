"""Parsing: what was given, YAML defaults, mistakes in one line; exit codes."""

import errno

import pytest

from imgcls.config import parser
from imgcls.config.data_options import DataOptions
from imgcls.config.fields import CommandOptions
from imgcls.config.model_options import ModelOptions, TuneOptions
from imgcls.config.training_options import TrainingOptions
from imgcls.errors import FolderError, OptionError

KINDS = (DataOptions, ModelOptions, TrainingOptions, CommandOptions)


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


def test_parse_keeps_only_what_is_given(parse):
    given = parse("--epochs", 7, "--model", "vit-base")
    assert "num_train_epochs" in given
    assert "learning_rate" not in given
    assert given.make(ModelOptions).model == "vit-base"
    assert given.make(TrainingOptions, learning_rate=0.5, num_train_epochs=1).num_train_epochs == 7
    assert given.make(TrainingOptions, learning_rate=0.5).learning_rate == 0.5


def test_parse_takes_defaults_from_yaml_below_the_command_line(parse, tmp_path):
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
def test_parse_names_file_and_key_of_a_mistake_in_yaml(refused, tmp_path, text, words):
    line = refused("--config", config(tmp_path, text))
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--modell", "x"], ["--modell", "--model"]),
        (["--mod", "x"], ["--mod"]),
        (["photos"], ["unexpected argument 'photos'"]),
        (["--bad_images", "maybe"], ["maybe", "skip"]),
        (["--epochs"], ["epochs"]),
    ],
)
def test_parse_reports_wrong_usage_in_one_line(refused, argv, words):
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
def test_make_refuses_impossible_values(options, values):
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
        (KeyboardInterrupt(), parser.EXIT_INTERRUPTED, "same command again to resume"),
    ],
)
def test_run_main_prints_fixable_errors_in_one_line(capsys, error, code, words):
    assert parser.run_main(raising(error)) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_run_main_lets_bugs_raise():
    with pytest.raises(ZeroDivisionError):
        parser.run_main(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [("keep", "keep_weights", "probe"), ("views", "feature_crops", 4), ("head_factor", "head_lr_multiplier", 10.0)],
)
def test_parse_accepts_names_of_earlier_versions(tmp_path, capsys, old, new, value):
    kinds = (TuneOptions,)
    on_the_command_line = parser.parse(kinds, [f"--{old}", str(value)], description="", examples="")
    assert on_the_command_line.values == {new: value}
    assert parser.parse_keywords(kinds, {old: value}).values == {new: value}
    with pytest.raises(SystemExit):
        parser.parse(kinds, ["--help_all"], description="", examples="")
    listed = capsys.readouterr().out
    assert f"--{new}" in listed
    assert f"--{old} " not in listed


def test_parse_keywords_takes_python_values(tmp_path):
    parsed = parser.parse_keywords(KINDS, {"data": tmp_path, "epochs": 2, "from_scratch": True, "image_px": None})
    assert parsed.values == {"data": str(tmp_path), "num_train_epochs": 2.0, "from_scratch": True}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rte": 2}, "Unknown key 'learning_rte'; nearest: learning_rate"),
        ({"epochs": "many"}, "many"),
        ({"bad_images": "x"}, "skip"),
    ],
)
def test_parse_keywords_raises_for_wrong_names_and_values(options, words):
    with pytest.raises(OptionError, match=words):
        parser.parse_keywords(KINDS, options)
