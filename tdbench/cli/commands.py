"""The commands as a group that knows a misspelt one."""

from typing import Any

from typer.core import TyperGroup

from tdbench.errors import ConfigError, nearest


class Commands(TyperGroup):
    """The commands; a misspelt one is told with the nearest."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments begin with.

        Raises:
            ConfigError: There is none.
        """
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise ConfigError(
                f"no such command {args[0]!r}{nearest(args[0], self.commands)} (tdbench --help lists what there is)"
            )
        return super().resolve_command(ctx, args)
