"""Networks and data sets are declared by name, and each declaration finds what builds or reads it."""

import inspect
from importlib import import_module

import pytest

from tdbench.config.data_sets import DATA_SETS
from tdbench.config.networks import NETWORKS
from tests.data import test_sources


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_s_factory_is_there_and_takes_what_is_declared(name):
    network = NETWORKS[name]
    module, _, function = network.factory.partition(":")
    factory = getattr(import_module(f"tdbench.models.{module}"), function)
    inspect.signature(factory).bind(*network.arguments, 10, 3)
    assert network.title


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_s_reader_is_there_and_takes_a_configuration(name):
    module, _, function = DATA_SETS[name].reader.partition(":")
    inspect.signature(getattr(import_module(f"tdbench.data.{module}"), function)).bind(None)


def test_every_data_set_is_read_by_a_test():
    assert set(DATA_SETS) == {"digits", "folder", *test_sources.PUBLISHED}
