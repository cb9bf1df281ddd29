"""YAML as a person means it, and bounded before it is expanded."""

import time

import pytest
import yaml

from tdbench.cli import main
from tdbench.config.yaml_values import MOST_NODES, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-07", -7),
        ("1:3", "1:3"),
        ("1:30:00.5", "1:30:00.5"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("2026-01-01", "2026-01-01"),
        ("1e-1", 0.1),
        ("1.", 1.0),
        (".5", 0.5),
        ("+3", 3),
        ("-1.5E+3", -1500.0),
        (".inf", float("inf")),
        ("1.2.3", "1.2.3"),
        ("true", True),
        ("null", None),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("", None),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "1: a\n1: b", "{x: {y: 1, y: 2}}"])
def test_a_key_that_stands_twice_is_refused(text):
    with pytest.raises(yaml.YAMLError, match="stands there twice"):
        parse_yaml(text)


def test_aliases_are_bounded_before_they_are_expanded():
    nested = "- &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"- &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]\n" for depth in range(1, 40)
    )
    for text in (nested, "&a [*a]", "&a {b: *a}"):
        with pytest.raises(yaml.YAMLError, match=f"expands to more than {MOST_NODES:,} values"):
            parse_yaml(text)
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: *x") == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}


def test_many_keys_take_their_number_of_time_and_not_its_square():
    def seconds(number):
        text = "".join(f"k{index}: 1\n" for index in range(number))
        begun = time.process_time()
        parse_yaml(text)
        return time.process_time() - begun

    seconds(100)
    assert seconds(20_000) < 30 * seconds(2_000)  # the square would be a hundred times


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate", "--seeds", "3000000000"], "at most 100,000 seeds, got 3000000000"),
        (["ablate", "--param", "block_size=1:3"], "FIRST:LAST:STEP must be three finite numbers, got '1:3'"),
        (["ablate", "--param", "block_size=1:3:"], "must be three finite numbers"),
        (["ablate", "--param", "block_size=1:3:1:1"], "must be three finite numbers"),
        (["ablate", "--param", "block_size=0:1e999999:1"], "must be three finite numbers"),
        (["ablate", "--param", "block_size=0:1e99999999999:1"], "must be three finite numbers"),
        (["ablate", "--param", "block_size=0:1:1e-999999"], "must lead from FIRST to LAST"),
        (["ablate", "--param", f"block_size=9:1:1e-3{30 * '0'}"], "must lead from FIRST to LAST"),
        (["ablate", "--param", "block_size=0:1e300:1"], "would be about 1.00e+300 values"),
        (["train", "--set", "block_size=1:3"], "block_size must be a whole number, got '1:3'"),
        (["train", "--set", "lr=" + "9" * 5000], ""),
        (["train", "--set", "block_size=[" + "x, " * 100_000 + "]"], "block_size must be a whole number"),
    ],
    ids=lambda one: " ".join(one)[:50] if isinstance(one, list) else None,
)
def test_a_slip_of_the_pen_is_one_short_line(arguments, message, capsys):
    assert main([*arguments, *(["--dry-run"] if arguments[0] == "ablate" else [])]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told) < 1100
    assert "defect" not in told


@pytest.mark.parametrize(
    "text",
    ["!!set {a}", "!!binary YQ==", "!!omap [a: 1]", "!!pairs [a: 1]", "!!timestamp 2001-01-01", "!!python/name:os"],
)
def test_a_type_that_no_setting_has_is_refused(text):
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        parse_yaml(text)
