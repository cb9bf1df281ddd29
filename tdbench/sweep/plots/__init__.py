"""Pictures of a sweep: what goes where (`arrangement`), and how it looks (`drawing`)."""

from tdbench.sweep.plots.drawing import plot_sweep

__all__ = ["plot_sweep"]
