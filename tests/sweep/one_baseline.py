"""Summaries where all values are compared with the same one."""

from tdbench.sweep import inference


def summarise(errors, baseline):
    return inference.summarise(errors, {} if baseline is None else {key: baseline for key in errors if key != baseline})
