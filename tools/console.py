"""What the command-line tools share: the console, and errors shown as a person can use them."""

import sys
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from llm_engineering.domain.errors import TwinError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def run(main: Callable[[], int | None]) -> None:
    """Run a tool's main function and exit with its code.

    An error raised on purpose is shown as its message alone (exit code 1); Ctrl-C exits with 130. Anything else is a
    defect and keeps its traceback.
    """
    try:
        code = main()
    except TwinError as error:
        errors.print(f"[bold red]✗[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print(
            "[yellow]Interrupted. What was finished is kept; run the same command again to go on.[/]"
        )
        sys.exit(130)
    sys.exit(code or 0)
