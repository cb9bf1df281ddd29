"""What a trial's process would import one by one; the forkserver imports it once for all of them."""

import sklearn.datasets
import sklearn.model_selection

import tdbench.sweep.worker

__all__ = ["sklearn", "tdbench"]
