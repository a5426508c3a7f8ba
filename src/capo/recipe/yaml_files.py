"""Read YAML of unknown origin: plain values only, no repeated keys, and bounded in size."""

from typing import Any

import yaml

MOST_VALUES = 100_000
"""Limit on the values of a file. A recipe has a few hundred; aliases can turn a few lines into billions."""

LONGEST_FILE = 1_000_000
"""Limit on the characters of a file. A recipe has thousands; the parser takes minutes for ten millions."""


class _Loader(yaml.SafeLoader):
    """Raises an error for a repeated key, where YAML would silently drop the first one."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # From Python's own functions, as for the date 2001-02-30 or `!!bool maybe`.
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"not a valid {kind}: {error}", problem_mark=node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is repeated", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Parse YAML into plain values.

    Raises `yaml.YAMLError` for invalid YAML, a repeated key, a value that does not fit its tag or form, text
    longer than `LONGEST_FILE`, aliases that expand to more than `MOST_VALUES` values, and values nested too
    deeply.
    """
    if len(text) > LONGEST_FILE:
        raise yaml.YAMLError(f"{len(text):,} characters, more than {LONGEST_FILE:,}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("the values are nested too deeply") from None
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the values of a node with every alias expanded, without expanding any."""
    key = id(node)
    if key in sizes:
        if sizes[key] == 0:
            raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
        return sizes[key]
    sizes[key] = 0  # marks a node whose children are being counted
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    size = 1 + sum(_expanded_size(child, sizes) for child in children)
    if size > MOST_VALUES:
        problem = f"its aliases expand to more than {MOST_VALUES:,} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    sizes[key] = size
    return size
