"""Reads topologies from YAML or JSON files, several documents and standard input included, as `kubectl apply -f` does.

A document of another kind is refused with its kind's name; a repeated key is refused (YAML would silently take the
last); problems carry the line they were found at.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import yaml

from milliner.contract import errors, names, topology

STANDARD_INPUT = "-"
MAX_DOCUMENT_CHARACTERS = 4 * 1024 * 1024  # arbitrary: above what etcd stores of an object (1.5 MiB)


def load_topologies(path: str) -> list[topology.InferenceTopology]:
    """Every InferenceTopology of a file, in order; `-` is standard input.

    Raises `DocumentError` for what is no YAML or another kind, `SpecInvalid` with every problem of every document
    (both *expected*).
    """
    origin = "standard input" if path == STANDARD_INPUT else path
    return parse_topologies(_read(path), origin=origin)


def parse_topologies(text: str, *, origin: str) -> list[topology.InferenceTopology]:
    """As `load_topologies`, from text that is already there; `origin` names it in messages."""
    found: list[topology.InferenceTopology] = []
    problems: list[errors.Problem] = []
    for node in _objects(text, origin=origin):
        document = _plain(node, origin=origin)
        _check_kind(document, node, origin=origin)
        try:
            found.append(topology.parse(document))
        except errors.SpecInvalid as error:
            problems += [_located(problem, node) for problem in error.problems]
    if problems:
        raise errors.SpecInvalid(problems, origin=origin)
    if not found:
        raise errors.DocumentError(f"{origin}: holds no document: write one of kind {names.KIND}")
    _check_names(found, origin=origin)
    return found


def _read(path: str) -> str:
    if path == STANDARD_INPUT:
        try:
            return sys.stdin.read()
        except UnicodeDecodeError as error:
            raise errors.DocumentError(f"standard input: is no UTF-8 text: {error.reason}") from None
    file = pathlib.Path(path)
    if file.is_dir():
        raise errors.DocumentError(f"{path}: is a folder: name a file in it")
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise errors.DocumentError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise errors.DocumentError(f"{path}: cannot be read: {error}") from None


def _documents(text: str, *, origin: str) -> Iterator[yaml.Node]:
    if len(text) > MAX_DOCUMENT_CHARACTERS:
        raise errors.DocumentError(f"{origin}: has {len(text)} characters: a topology has a few thousand")
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if node is not None and not _is_empty(node):
                _refuse_repeated_keys(node, origin=origin, seen=set())
                yield node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise errors.DocumentError(f"{origin}: {where}not YAML: {reason}") from None


def _objects(text: str, *, origin: str) -> Iterator[yaml.Node]:
    """The documents, with the items of a Kubernetes `List` (`kubectl get -o yaml`) in its place."""
    for node in _documents(text, origin=origin):
        fields = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        items = fields.get("items")
        if getattr(fields.get("kind"), "value", None) == "List" and isinstance(items, yaml.SequenceNode):
            yield from items.value
        else:
            yield node


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _refuse_repeated_keys(node: yaml.Node, *, origin: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias: visited where its anchor stands
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, origin=origin, seen=seen)
    if not isinstance(node, yaml.MappingNode):
        return
    keys: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                line = key.start_mark.line + 1
                raise errors.DocumentError(f"{origin}: line {line}: the field {key.value} is written twice: keep one")
            keys.add(key.value)
        _refuse_repeated_keys(value, origin=origin, seen=seen)


def _plain(node: yaml.Node, *, origin: str) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise errors.DocumentError(f"{origin}: line {node.start_mark.line + 1}: not plain YAML: {error}") from None
    finally:
        loader.dispose()


def _check_kind(document: Any, node: yaml.Node, *, origin: str) -> None:
    line = node.start_mark.line + 1
    if not isinstance(document, dict):
        raise errors.DocumentError(
            f"{origin}: line {line}: found a {type(document).__name__}: start with apiVersion: {names.API_VERSION}"
        )
    kind, api_version = document.get("kind"), document.get("apiVersion")
    if kind != names.KIND:
        found = f"kind {kind}" if kind else "no kind"
        raise errors.DocumentError(f"{origin}: line {line}: found {found}: only kind {names.KIND} is taken here")
    if api_version != names.API_VERSION:
        found = f"apiVersion {api_version}" if api_version else "no apiVersion"
        raise errors.DocumentError(f"{origin}: line {line}: found {found}: write apiVersion: {names.API_VERSION}")


def _check_names(found: list[topology.InferenceTopology], *, origin: str) -> None:
    seen: set[tuple[str, str]] = set()
    for each in found:
        key = (each.metadata.namespace, each.metadata.name)
        if key in seen:
            raise errors.DocumentError(f"{origin}: the topology {each.name} stands here twice: give each its own name")
        seen.add(key)


def _located(problem: errors.Problem, node: yaml.Node) -> errors.Problem:
    """The problem with the line of the deepest part of its path that the document holds."""
    line = node.start_mark.line + 1
    for part in problem.path.replace("[", ".").replace("]", "").split("."):
        child = _child(node, part)
        if child is None:
            break
        line, node = child
    return errors.Problem(path=problem.path, message=problem.message, line=line)


def _child(node: yaml.Node, part: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line + 1, item
    return None
