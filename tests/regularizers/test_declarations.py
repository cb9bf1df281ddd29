"""A declaration and its layer say the same: defaults, ranges, choices; what users read is what the layer does."""

import ast
import inspect
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

import tdbench.regularizers
from tdbench.config.loading import own_knobs
from tdbench.knobs import bounds
from tdbench.regularizers.base import Regularizer
from tdbench.regularizers.registry import find_method, method_names

FOLDER = Path(tdbench.regularizers.__file__).parent
# What else must be given for a knob to stand at its bound, where one knob bounds another.
COMPANIONS = {("focused_dropout", "low"): {"high": 1.0}, ("focused_dropout", "high"): {"low": 0.0}}
KNOBS = [(method, knob) for method in method_names() for knob in own_knobs(method)]


def layer_class(method):
    return getattr(import_module(f"tdbench.regularizers.{method}.layer"), find_method(method).layer_class)


def build_both(method, **knobs):
    """Build the layer by its own constructor and the configuration; return the layer, or raise what either raises."""
    find_method(method)(**knobs)
    parameters = inspect.signature(layer_class(method)).parameters
    return layer_class(method)(**({"channels": 16} if "channels" in parameters else {}), **knobs)


def refused_by(method, **knobs):
    """Return which of the two refuse a value."""
    found = []
    with pytest.raises(ValidationError):
        find_method(method)(**knobs)
    found.append("declaration")
    parameters = inspect.signature(layer_class(method)).parameters
    with pytest.raises(ValueError, match=next(iter(knobs))):
        layer_class(method)(**({"channels": 16} if "channels" in parameters else {}), **knobs)
    return [*found, "layer"]


@pytest.mark.parametrize("method", method_names())
def test_a_folder_declares_one_method_by_its_own_name_with_its_source_and_its_layer(method):
    declaration = find_method(method)
    assert declaration.__module__ == f"tdbench.regularizers.{method}"
    assert get_args(declaration.model_fields["name"].annotation) == (method,)
    assert declaration.model_fields["name"].default == method
    assert issubclass(layer_class(method), Regularizer)
    source = ast.get_docstring(ast.parse((FOLDER / method / "__init__.py").read_text(encoding="utf-8")))
    assert method == "none" or re.search(r"arXiv \d{4}\.\d{4,5}|\b(19|20)\d\d\b", source), "names no source"
    assert all(field.description for field in own_knobs(method).values())
    assert method == "none" or layer_class(method).traits is not None, "claims nothing that an audit could hold it to"
    assert method == "none" or declaration.strength_knob in own_knobs(method), "has no knob that --match solves"


@pytest.mark.parametrize(("method", "knob"), KNOBS)
def test_the_constructor_has_the_declared_default(method, knob):
    parameter = inspect.signature(layer_class(method)).parameters[knob]
    assert parameter.default == own_knobs(method)[knob].default


@pytest.mark.parametrize(("method", "knob"), KNOBS)
def test_the_constructor_takes_the_declared_range_and_refuses_what_lies_beyond(method, knob):
    field = own_knobs(method)[knob]
    more = COMPANIONS.get((method, knob), {})
    is_whole = field.annotation is int
    for name, limit in bounds(field).items():
        beyond = limit + {"ge": -1, "gt": -1, "le": 1, "lt": 1}[name] * (1 if is_whole else 0.1)
        assert refused_by(method, **{knob: beyond}) == ["declaration", "layer"]
        if name in ("ge", "le"):
            build_both(method, **{knob: type(field.default or 0.0)(limit)}, **more)
        else:
            assert refused_by(method, **{knob: limit}) == ["declaration", "layer"]
    if field.annotation is float:
        assert refused_by(method, **{knob: math.nan}) == ["declaration", "layer"]
    if get_origin(field.annotation) is Literal:
        for choice in get_args(field.annotation):
            build_both(method, **{knob: choice})
        assert refused_by(method, **{knob: "nothing"}) == ["declaration", "layer"]


@pytest.mark.parametrize(
    ("method", "knob"), [(method, knob) for method, knob in KNOBS if knob in ("block_size", "size", "reduction")]
)
def test_a_side_is_a_whole_number_of_at_least_one(method, knob):
    assert refused_by(method, **{knob: 0}) == ["declaration", "layer"]
    build_both(method, **{knob: 1})


@pytest.mark.parametrize("method", method_names())
def test_every_value_that_a_sweep_takes_by_itself_can_be_built(method):
    for knob, field in own_knobs(method).items():
        for value in (field.json_schema_extra or {}).get("sweep", ()):
            build_both(method, **{knob: value})
