"""The command line of every script: parsing, YAML defaults, short help, exit codes, one-line errors, logging."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from imgcls.errors import ImgclsError, OptionError, nearest, one_line

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_PROBLEMS, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
# The operating system's refusals that a user can mend: shown as one line, like errors of our own.
_MENDABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip

log = logging.getLogger("imgcls")


def rank() -> int:
    """This process's number among all of the launch; 0 when alone."""
    return int(os.environ.get("RANK", 0))


class _HelpFormatter(argparse.HelpFormatter):
    """One line of spellings an option: `--val_fraction`, not also `--val-fraction` (both are accepted)."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=30, width=110)

    def _format_action_invocation(self, action):
        spellings = [s for s in action.option_strings if s.startswith("--no_") or "-" not in s.lstrip("-")]
        spellings = [s for s in spellings if len(spellings) == 1 or s in ("-h", "--help") or s.startswith("--")]
        if action.nargs == 0 or (action.nargs == "?" and action.const is True):
            return ", ".join(spellings)
        value = self._format_args(action, action.metavar or action.dest.split("_")[-1].upper())
        return f"{', '.join(spellings)} {value}"


class _Parser(HfArgumentParser):
    """HfArgumentParser that leaves out what was not given and answers mistakes with one line."""

    def error(self, message: str):
        self.exit(EXIT_USAGE, f"error: {message}. See --help.\n")


@dataclasses.dataclass(frozen=True)
class ParsedOptions:
    """Options that the user gave, on the command line or in the YAML file; all others are ours to choose."""

    values: dict

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def make(self, options: type, **unset):
        """An instance of the dataclass `data_options`; `unset` holds values for options that were not given."""
        names = {f.name for f in dataclasses.fields(options) if f.init}
        values = {k: v for k, v in {**unset, **self.values}.items() if k in names}
        try:
            return options(**values)
        except (ValueError, TypeError, ImportError) as error:  # TrainingArguments checks itself with these
            raise OptionError(one_line(error, limit=None)) from error


def parse(
    options: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    examples: str,
    shown: Mapping[str, str] | None = None,
    rare: Container[str] = (),
    words: tuple[str, str] | None = None,
) -> ParsedOptions:
    """Parse `argv` (default: sys.argv) against several option dataclasses.

    shown: options that the short `--help` lists of a dataclass that inherits from another, with their text ("": its
    own); of the others it lists all but the `rare` ones. words: name and help of what is given without an option, any
    number of words. Prints help or one line and exits (0 or 2) as argparse does.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        options,
        description=description,
        epilog=examples,
        formatter_class=type("Formatter", (argparse.RawDescriptionHelpFormatter, _HelpFormatter), {}),
        usage=f"%(prog)s [options]{f' {words[0].upper()}...' if words else ''}",
        allow_abbrev=False,
    )
    if words:
        parser.add_argument(words[0], nargs="*", help=words[1])
    parser.add_argument("--help_all", action="help", help="show all options: rare ones, and all of TrainingArguments")
    _shorten_help(parser, options, shown or {}, rare, everything="--help_all" in argv)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    known, unknown = parser.parse_known_args(_yaml_arguments(parser, argv) + argv)
    if unknown:
        name = unknown[0].split("=")[0]
        close = ", ".join(nearest(name, [s for s in parser._option_string_actions if "_" in s or "-" not in s[2:]]))
        parser.error(f"unknown option {name}; nearest: {close}" if name.startswith("-") else f"stray word {name!r}")
    return ParsedOptions(vars(known))


def _shorten_help(
    parser: _Parser, options: Sequence[type], shown: Mapping[str, str], rare: Container[str], everything: bool
) -> None:
    """Give inherited options the texts of `shown`, and hide those without one, and the rare, unless `everything`."""
    listed = {"help", "help_all", *shown} | {action.dest for action in parser._actions if not action.option_strings}
    for option_class in options:
        if not getattr(option_class, "lists_named_only", False):  # of TrainingArguments' many only what is named
            listed |= {f.name for f in dataclasses.fields(option_class) if f.name not in rare}
    for action in parser._actions:
        action.help = shown.get(action.dest) or action.help
        if not everything and action.dest not in listed:
            action.help = argparse.SUPPRESS


def _yaml_arguments(parser: _Parser, argv: list[str]) -> list[str]:
    """The `--config` file's entries as arguments, so that argparse checks and converts them like any other."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return []
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        parser.error(f"--config {path}: {error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"--config {path} is not YAML: {one_line(error, limit=None)}")
    if not isinstance(entries, dict):
        parser.error(f"--config {path}: expected lines like `epochs: 5`, got {type(entries).__name__}")
    arguments = []
    for key, value in entries.items():
        if f"--{key}" not in parser._option_string_actions:
            close = nearest(str(key), [a.dest for a in parser._actions])
            parser.error(f"--config {path}: unknown key {key!r}; nearest: {', '.join(close)}")
        if value is None or value == []:
            continue
        if isinstance(value, list) and parser._option_string_actions[f"--{key}"].nargs is None and len(value) == 1:
            value = value[0]
        if isinstance(value, list):
            arguments += [f"--{key}", *map(str, value)]
        else:
            text = json.dumps(value) if isinstance(value, (dict, bool)) else str(value)
            arguments.append(f"--{key}={text}")
    return arguments


def configure_logging() -> None:
    """Our messages, plain, to stderr, from rank 0 only; of the libraries only errors."""
    from transformers.utils import logging as transformers_logging

    for stream in (sys.stdout, sys.stderr):  # names on disk may hold what a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # datasets takes half a second to import, and not every script does
    os.environ |= {"DATASETS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    if "datasets" in sys.modules:
        datasets_logging = sys.modules["datasets"].utils.logging
        datasets_logging.set_verbosity_error()
        datasets_logging.disable_progress_bar()


def run_main(main: Callable[[], int]) -> int:
    """Run a script's main; an error that the user can mend becomes one line on stderr and exit code 1."""
    if "--traceback" in sys.argv:
        return main()
    where = f"rank {rank()}: " if rank() else ""
    try:
        return main()
    except ImgclsError as error:
        print(f"{where}error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{where}stopped; the same command goes on where it was", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would say it again
        return EXIT_OK
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        print(f"{where}error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
    return EXIT_ERROR
