"""What a trial's process would import one by one, seconds of it; the forkserver imports it once for all of them."""

import sklearn.datasets
import sklearn.model_selection
import torch._dynamo  # the first optimizer imports it

import tdbench.sweep.worker

__all__ = ["sklearn", "tdbench", "torch"]
