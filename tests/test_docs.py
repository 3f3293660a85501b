"""The README says what is true: its flags, its models, its tree, its two commands."""

import os
import re
import shlex
import subprocess

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from commands import TESTS

from imgcls.config import parser
from imgcls.config.data_options import DataOptions, SourceOptions
from imgcls.config.fields import CommandOptions
from imgcls.config.inference_options import (
    CheckOptions,
    CompareOptions,
    DemoOptions,
    ExportOptions,
    PredictOptions,
    PushOptions,
    RecommendOptions,
    ValidateOptions,
)
from imgcls.config.model_options import AugmentOptions, ModelOptions, TuneOptions
from imgcls.config.performance_options import PerformanceOptions
from imgcls.config.training_options import TrainingOptions
from imgcls.models.registry import CHECKPOINTS

ALONE = (PredictOptions, CompareOptions, PushOptions, DemoOptions, ExportOptions)
ROOT = TESTS.parent
README = (ROOT / "README.md").read_text()


def test_every_flag_named_exists(capsys):
    kinds = (
        DataOptions,
        ModelOptions,
        TuneOptions,
        AugmentOptions,
        PerformanceOptions,
        TrainingOptions,
        CommandOptions,
    )
    others = ((DataOptions, RecommendOptions), (SourceOptions, CheckOptions), (SourceOptions, ValidateOptions))
    for options in (kinds, *others, *((kind,) for kind in ALONE)):
        with pytest.raises(SystemExit):
            parser.parse(options, ["--help_all"], description="", examples="")
    known = set(re.findall(r"--\w+", capsys.readouterr().out)) | {"--help", "--help_all"}
    of_others = {
        "--tables", "--pairs", "--dist",
        "--config_file", "--nproc_per_node", "--num_processes", "--machine_rank", "--main_process_ip", "--seeds",
        "--arm", "--only_folds", "--flavor", "--timeout", "--secrets", "--depth", "--dry", "--nodes", "--gpus",
    }  # fmt: skip
    assert set(re.findall(r"(?<![\w-])--\w+", README)) - known - of_others == set()


def test_the_table_of_models_is_the_code_s():
    for name, checkpoint in CHECKPOINTS.items():
        (row,) = [line.split("|")[1:-1] for line in README.splitlines() if line.startswith(f"| {name} ")]
        _, hub_id, parameters, megabytes, px, when = (cell.strip() for cell in row)
        assert hub_id == checkpoint.hub_id
        assert float(parameters.removesuffix(" M")) == pytest.approx(checkpoint.parameters / 1e6, abs=0.05)
        assert (float(megabytes), int(px)) == (pytest.approx(checkpoint.megabytes, abs=0.05), checkpoint.image_px)
        assert when == checkpoint.recommended_for


def test_the_tree_names_every_package():
    start = README.index("imgcls/  ")
    lines = README[start : README.index("benchmarks/  ", start)].splitlines()[1:]
    named = {name for line in lines for name in re.findall(r"^ {6}(\w+)/? ", line)}
    packages = {path.stem for path in (ROOT / "imgcls").iterdir() if (path / "__init__.py").exists()}
    assert named >= packages
    assert all((ROOT / path).exists() for path in re.findall(r"^    (\S+\.py|\S+/) ", README, re.MULTILINE))


def test_ci_runs_the_test_command_of_the_readme():
    (command,) = re.findall(r"^    (python3 -m venv .*pytest tests -n 2 --dist worksteal)$", README, re.MULTILINE)
    ci = (ROOT / ".ci/run").read_text()
    _, _, install, tests = command.split(" && ")
    assert install.replace("pip install", "pip install -q") in ci
    assert tests in ci


def test_accelerate_configs_are_short_and_leave_precision_alone():
    for file in (ROOT / "accelerate_configs").glob("*.yaml"):
        text = file.read_text()
        assert len(text.splitlines()) < 12
        assert "mixed_precision" not in text


@pytest.mark.parametrize("name", [file.name for file in (ROOT / "accelerate_configs").glob("*.yaml")])
def test_accelerate_takes_its_configs(name):
    of_several = ["--machine_rank", "1", "--main_process_ip", "10.0.0.1"] if name == "multi_node.yaml" else []
    line = ["--config_file", str(ROOT / "accelerate_configs" / name), *of_several, "scripts/train.py"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(line))
    assert args.num_processes == {"multi_gpu.yaml": 2, "multi_node.yaml": 8, "fsdp.yaml": 2}.get(name, 1)
    assert bool(args.use_fsdp) == (name == "fsdp.yaml")


def test_hugging_face_jobs_take_the_readme_s_command(tmp_path):
    (line,) = re.findall(r"^    (hf jobs run .*)$", README, re.MULTILINE)
    command = line.replace("hf jobs run", "hf jobs run --dry-run")
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(shlex.split(command), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python scripts/train.py --data you/photos --push_to_hub" in done.stdout
