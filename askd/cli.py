"""What every verb does alike: --help, one-line errors with exit status 2, and the shell's status for a signal."""
from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from torch.distributed import is_torchelastic_launched
from torch.distributed.elastic.multiprocessing.errors import record

from askd.engine.loop import Interrupted
from askd.errors import AskdError
from askd.recipe import help_text


def run(
    verb: str, what: str, main: Callable[[list[str]], None], usage: str = "recipe=NAME [key=value ...]",
    help: Callable[[list[str]], str] | None = None,
) -> None:
    """Run `main(arguments)`; exits 0, 2 for what the user can mend, 130 or 143 for an interrupt or a termination.

    `help(arguments)`: what --help prints, for a verb whose keys are not a recipe's.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(help(arguments) if help else help_text(verb, what, usage))
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if is_torchelastic_launched():  # so that torchrun's own summary names the error of the rank that failed first
        main = record(main)
    try:
        main(arguments)
    except AskdError as error:
        print(f"askd.{verb}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        print(f"askd.{verb}: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print(f"askd.{verb}: interrupted", file=sys.stderr)
        sys.exit(130)
