"""The one console: what is drawn on a terminal is taken as it is, whatever brackets and control characters it has."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tdbench.cli.output import stdout
from tdbench.errors import plain

WIDE = 160  # characters, where there is no terminal that says how wide it is


class PlainConsole(Console):
    """Rich's console without markup and emoji codes; a text reaches the terminal without what that would obey."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=plain(segment.text))


def console() -> PlainConsole:
    """Return a console as wide as the terminal, or wide where there is none."""
    return PlainConsole(file=stdout(), markup=False, emoji=False, width=None if stdout().isatty() else WIDE)
