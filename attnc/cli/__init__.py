"""The command line, one file a command; a command's imports are made when it runs."""

from __future__ import annotations

import importlib
import sys

import click

import attnc
from attnc.errors import AttncError, InternalError

COMMANDS = {
    "check": "report every mistake in .attn files",
    "compile": "write an operator as one self-contained Python module",
    "verify": "compare every backend with the oracle on hostile shapes",
    "show": "print any stage; draw the mask, its tiles, the graph",
    "bench": "time against PyTorch's attention, with the oracle checked first",
    "tune": "choose the fastest tiles for this device",
    "fmt": "format .attn files",
    "zoo": "list and show the gallery's operators; print them as a page",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: `attnc check` never waits for
    torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"attnc.cli.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from attnc.errors import closest

        name = args[0]
        if name == "explain":
            context.fail("no command `explain`. `attnc show FILE` prints what it says.")
        if name not in COMMANDS and closest(name, COMMANDS):
            context.fail(f"no command `{name}`. Did you mean `{closest(name, COMMANDS)}`?")
        return super().resolve_command(context, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all is well, 1 the spec or a check failed, 2 the command was wrong.",
)
@click.version_option(attnc.__version__, prog_name="attnc")
def commands() -> None:
    """attnc compiles attention operators: equations in, fast proved kernels out."""


def main() -> None:
    """The entry point: errors of attnc end with exit code 1 and no traceback."""
    try:
        commands.main(prog_name="attnc", standalone_mode=True)
    except InternalError:
        raise
    except AttncError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"{error.filename}: {error.strerror}", err=True)
        sys.exit(1)
