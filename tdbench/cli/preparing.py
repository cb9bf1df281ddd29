"""What has to be made ready before the work itself, such as images to be decoded, and how far that is."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tdbench.store.progress import TellProgress, telling


@contextmanager
def preparation_shown(silent: bool) -> Iterator[None]:
    """Show, for as long as this lasts, what is told of preparations; nothing where silence is asked."""
    if silent:
        yield
        return
    with ExitStack() as shown, telling(_Preparation(shown)):
        yield


class _Preparation:
    """Begins to show at the first word it hears, and ends when all is done."""

    def __init__(self, shown: ExitStack) -> None:
        self._shown = shown
        self._report: TellProgress | None = None

    def __call__(self, share: float, what: str) -> None:
        if self._report is None:
            from tdbench.cli.progress import progress  # which imports Rich

            self._report = self._shown.enter_context(progress(silent=False))
        self._report(share, what)
        if share >= 1:
            self._shown.close()
            self._report = None
