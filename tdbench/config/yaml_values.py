"""YAML as a person means it: decimal numbers, no dates, no key that stands twice, and no more than can be looked at."""

import re
from typing import Any

import yaml

MOST_NODES = 500_000  # keys and values of a document, aliases expanded


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without what YAML 1.1 makes of `010` (8), `1:30` (90), `1_000` and dates.

    Where it takes the last of two equal keys, this one refuses them.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen: set[Any] = set()
        for key in keys:
            hashable = key if isinstance(key, (str, int, float, bool, type(None))) else repr(key)
            if hashable in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands there twice", node.start_mark)
            seen.add(hashable)
        return super().construct_mapping(node, deep)


# Types that no setting has, and that code might hide in.
_STRANGE = {f"tag:yaml.org,2002:{name}" for name in ("binary", "set", "omap", "pairs", "timestamp")}
_PlainLoader.yaml_constructors = {
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag not in _STRANGE
}
_NUMBER_TAGS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBER_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?\d+$", re.ASCII), list("-+0123456789"))
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$", re.ASCII
    ),
    list("-+.0123456789"),
)
_PlainLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        yaml.YAMLError: It is none, a key stands twice, or its aliases expand to more than MOST_NODES values.
        ValueError: A number has thousands of digits.
        RecursionError: It is nested too deeply.
    """
    loader = _PlainLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _num_nodes(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _num_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many keys and values a node has, aliases expanded; `known` holds those of the nodes that were met."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES  # of a node that holds itself
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    number = 1
    for part in parts:
        number += sum(_num_nodes(one, known) for one in (part if isinstance(part, tuple) else (part,)))
        if number > MOST_NODES:
            problem = f"it expands to more than {MOST_NODES:,} values"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    known[id(node)] = number
    return number
