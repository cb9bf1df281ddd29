"""Summaries where all values are compared with the same one."""

from tdbench.sweep import judging, verdicts


def summarise(errors, baseline):
    compared = {} if baseline is None else {key: baseline for key in errors if key != baseline}
    return verdicts.summarise(judging.Evidence(errors, compared))
