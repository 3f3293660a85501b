"""Where the scripts are, their main functions, and the launcher of two processes."""

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).parent
TRAIN = TESTS.parent / "scripts" / "train.py"
TWO_PROCESSES = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")


def main_of(script):
    """The `main` of a script, which is a file and no module of a package."""
    spec = importlib.util.spec_from_file_location(f"script_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main
