"""The command line of every script: parsing, YAML defaults, short help, exit codes, one-line errors, logging."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import yaml
from transformers import HfArgumentParser

from imgcls.config.fields import RENAMED_OPTIONS
from imgcls.errors import ImgclsError, OptionError, nearest, one_line

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_PROBLEMS, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
# Errors of the operating system that a user can fix: shown as one line, like our own errors.
_FIXABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip

T = TypeVar("T")

log = logging.getLogger("imgcls")


def rank() -> int:
    """Return the rank of this process in the launch; 0 without a launcher."""
    return int(os.environ.get("RANK", 0))


class _HelpFormatter(argparse.HelpFormatter):
    """One spelling of each name: `--val_fraction`, not also `--val-fraction`, and no name of an earlier version."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = [s for s in action.option_strings if s.startswith("--no_") or "-" not in s.lstrip("-")]
        spellings = [s for s in spellings if len(spellings) == 1 or s in ("-h", "--help") or s.startswith("--")]
        spellings = [s for s in spellings if s.removeprefix("--") not in RENAMED_OPTIONS]
        if action.nargs == 0 or (action.nargs == "?" and action.const is True):
            return ", ".join(spellings)
        value = self._format_args(action, str(action.metavar or action.dest.split("_")[-1].upper()))
        return f"{', '.join(spellings)} {value}"


class _Parser(HfArgumentParser):
    """HfArgumentParser that omits options that were not given and reports mistakes in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"error: {message}. See --help.\n")


@dataclasses.dataclass(frozen=True)
class ParsedOptions:
    """The options that the user set, on the command line or in the YAML file, by name."""

    values: dict[str, Any]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def make(self, option_class: type[T], **defaults: Any) -> T:
        """Return an instance of an option dataclass. defaults: values of options that the user did not set.

        Raises OptionError for values that the dataclass refuses.
        """
        names = {f.name for f in dataclasses.fields(cast(Any, option_class)) if f.init}
        values = {k: v for k, v in {**defaults, **self.values}.items() if k in names}
        try:
            return option_class(**values)
        except (ValueError, TypeError, ImportError) as error:  # as TrainingArguments raises them
            raise OptionError(one_line(error, limit=None)) from error


def parse(
    options: Sequence[Any],
    argv: Sequence[str] | None = None,
    *,
    description: str | None,
    examples: str,
    short_help: Mapping[str, str] | None = None,
    rare: Container[str] = (),
    positional: tuple[str, str] | None = None,
) -> ParsedOptions:
    """Parse `argv` (default: sys.argv) with several option dataclasses.

    short_help: the options of TrainingArguments that `--help` lists, with a text that replaces their own unless it is
    ""; it can also replace the text of others. Of the other dataclasses `--help` lists all but the `rare` options.
    positional: name and help of the positional arguments, any number. Prints help or a one-line error and exits with 0
    or 2, as argparse does.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        options,
        description=description,
        epilog=examples,
        formatter_class=type("Formatter", (argparse.RawDescriptionHelpFormatter, _HelpFormatter), {}),
        usage=f"%(prog)s [options]{f' {positional[0].upper()}...' if positional else ''}",
        allow_abbrev=False,
    )
    if positional:
        parser.add_argument(positional[0], nargs="*", help=positional[1])
    parser.add_argument(
        "--help_all", action="help", help="show all options, including rare ones and all of TrainingArguments"
    )
    _shorten_help(parser, options, short_help or {}, rare, everything="--help_all" in argv)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    known, unknown = parser.parse_known_args(_yaml_arguments(parser, argv) + argv)
    if unknown:
        name = unknown[0].split("=")[0]
        close = ", ".join(nearest(name, [s for s in parser._option_string_actions if "_" in s or "-" not in s[2:]]))
        parser.error(
            f"unknown option {name}; nearest: {close}" if name.startswith("-") else f"unexpected argument {name!r}"
        )
    return ParsedOptions(vars(known))


def _shorten_help(
    parser: _Parser, options: Sequence[Any], short_help: Mapping[str, str], rare: Container[str], everything: bool
) -> None:
    """Set the texts of `short_help`; unless `everything`, hide rare options and other TrainingArguments."""
    listed = {"help", "help_all", *short_help} | {
        action.dest for action in parser._actions if not action.option_strings
    }
    for option_class in options:
        if not getattr(option_class, "lists_named_only", False):
            listed |= {f.name for f in dataclasses.fields(option_class) if f.name not in rare}
    for action in parser._actions:
        action.help = short_help.get(action.dest) or action.help
        if not everything and action.dest not in listed:
            action.help = argparse.SUPPRESS


def _yaml_arguments(parser: _Parser, argv: list[str]) -> list[str]:
    """Return the entries of the `--config` file as arguments, so that argparse checks and converts them."""
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
    return _as_arguments(parser, entries, f"--config {path}: ")


def _as_arguments(parser: _Parser, entries: Mapping[str, Any], where: str) -> list[str]:
    """Return named values as command-line arguments; None and empty lists count as not given."""
    arguments = []
    for key, value in entries.items():
        if f"--{key}" not in parser._option_string_actions:
            close = nearest(str(key), [action.dest for action in parser._actions])
            parser.error(f"{where}unknown key {key!r}; nearest: {', '.join(close)}")
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


class _KeywordParser(_Parser):
    """A parser whose errors are exceptions, for options given as keyword arguments."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message[:1].upper()}{message[1:]}. python scripts/train.py --help_all lists all options.")


def parse_keywords(options: Sequence[Any], entries: Mapping[str, Any]) -> ParsedOptions:
    """Return options given as keyword arguments, under the names and aliases of the command line.

    None counts as not given. Raises OptionError for an unknown name or a value of the wrong type.
    """
    parser = _KeywordParser(options, allow_abbrev=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return ParsedOptions(vars(parser.parse_args(_as_arguments(parser, entries, ""))))


def configure_logging() -> None:
    """Send our messages, without prefix, to stderr, from rank 0 only; of the libraries only errors."""
    from transformers.utils import logging as transformers_logging

    for stream in (sys.stdout, sys.stderr):  # file names may hold characters that a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # datasets takes half a second to import, and not every script needs it
    os.environ |= {"DATASETS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    if "datasets" in sys.modules:
        datasets_logging = sys.modules["datasets"].utils.logging
        datasets_logging.set_verbosity_error()
        datasets_logging.disable_progress_bar()


def run_main(main: Callable[[], int]) -> int:
    """Run a script's main; an error that the user can fix becomes one line on stderr and exit code 1."""
    if "--traceback" in sys.argv:
        return main()
    where = f"rank {rank()}: " if rank() else ""
    try:
        return main()
    except ImgclsError as error:
        print(f"{where}error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{where}stopped; give the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush would raise again
        return EXIT_OK
    except OSError as error:
        if error.errno not in _FIXABLE:
            raise
        print(f"{where}error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
    return EXIT_ERROR
