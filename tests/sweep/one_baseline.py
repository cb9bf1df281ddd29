"""Summaries where all values are compared with the same one."""

from tdbench.sweep import inference as statistics


def summarise(errors, baseline):
    return statistics.summarise(
        errors, {} if baseline is None else {key: baseline for key in errors if key != baseline}
    )
