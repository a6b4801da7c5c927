"""The hash of a Python source by its syntax tree, without its prose.

Comments, formatting, docstrings and the texts of errors and log lines may be reworded without
changing the hash; everything else changes it. `ast.dump` differs between versions of Python, so the
tree is written here, with only the fields that are set: then all versions give the same hash.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

PRINT_FUNCTIONS = {
    "pipeline.engine.terminal.print_line",
    "pipeline.engine.terminal.print_error",
    "warnings.warn",
}
GET_LOGGER = "logging.getLogger"
LOGGERS = {"logging", f"{GET_LOGGER}()"}  # the module, and the object that getLogger returns
LOG_METHODS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log"}
IGNORED_FIELDS = {
    "ctx",  # the field that holds a name says whether it is read or set
    "kind",  # u"..." is "..."
}


BINDING_NODES = frozenset(
    {ast.Name, ast.arg, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler,
     ast.MatchAs, ast.MatchStar, ast.MatchMapping}
)  # fmt: skip
"""The nodes that set names, besides imports: few of all nodes."""


@dataclass(frozen=True)
class Source:
    """The hash and the imports of a source file.

    Attributes:
        digest: the hash, 16 hex digits.
        imports: what it imports, as written: "a.b" for `import a.b`; "..a" and "..a.b" for
            `from ..a import b`, where b may be a module or not.
    """

    digest: str
    imports: tuple[str, ...]


def parse_source(content: bytes) -> Source:
    """Hash the syntax tree of a source file, or its bytes if they are no Python source.

    Args:
        content: the file's bytes, in the encoding that the source declares.
    """
    try:
        with warnings.catch_warnings():  # about invalid escapes in users' sources
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Source(hashlib.sha256(content).hexdigest()[:16], ())
    nodes = list(ast.walk(tree))
    imported = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    imports = tuple(sorted({name for node in imported for name in _list_imports(node)}))
    text = write_canonical_text(tree, nodes)
    return Source(hashlib.sha256(text.encode()).hexdigest()[:16], imports)


def _list_imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield the names that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        prefix = "." * node.level + (node.module or "")
        yield prefix
        separator = "" if prefix.endswith(".") else "."
        yield from (f"{prefix}{separator}{alias.name}" for alias in node.names)


def write_canonical_text(tree: ast.AST, nodes: Sequence[ast.AST] | None = None) -> str:
    """Write a syntax tree in ASCII, without positions, prose and fields that are not set.

    It uses a stack instead of recursion, so that the depth of the call does not limit that of the
    tree.

    Args:
        tree: the tree.
        nodes: all of its nodes, where they are known.
    """
    messages = {id(constant) for constant in _find_message_constants(nodes or [*ast.walk(tree)])}
    written: list[str] = []
    todo: list[str | ast.AST] = [tree]
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            written.append(part)
        else:
            todo.extend(reversed(_split_node(part, messages)))
    return "".join(written)


@cache
def _list_fields(kind: type[ast.AST]) -> list[str]:
    """Return the names of the fields of a kind of node, sorted, without those to ignore."""
    return sorted(field for field in kind._fields if field not in IGNORED_FIELDS)


def _split_node(node: ast.AST, messages: set[int]) -> list[str | ast.AST]:
    """Return the text of a node, in which the nodes below it are still to be written."""
    if isinstance(node, ast.Constant):
        return [f"Constant({'' if id(node) in messages else ascii(node.value)})"]
    parts: list[str | ast.AST] = []
    text = f"{type(node).__name__}("
    for field in _list_fields(type(node)):  # type: ignore[arg-type]  # classes are hashable
        value = getattr(node, field, None)
        if value is None or value == []:
            continue
        text += f"{field}="
        if isinstance(node, ast.JoinedStr):
            value = _merge_constants(node.values, messages)
        is_list = isinstance(value, list)
        items = [item for item in value if not _has_no_effect(item)] if is_list else [value]
        text += "[" if is_list else ""
        for item in items:
            if isinstance(item, ast.AST):
                parts += [text, item]
                text = ""
            else:  # not repr: which letters it escapes depends on the version's Unicode tables
                text += ascii(item)
            text += "," if is_list else ""
        text += "]," if is_list else ","
    return [*parts, f"{text})"]


def _has_no_effect(node: object) -> bool:
    """Return whether a statement is a string alone, as a docstring is, or `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def _merge_constants(values: Sequence[ast.expr], messages: set[int]) -> list[ast.expr]:
    """Return the parts of an f-string without texts of messages; join neighbouring texts."""
    parts: list[ast.expr] = []
    text = ""
    for value in values:
        if not isinstance(value, ast.Constant):
            parts += [ast.Constant(text)] if text else []
            parts.append(value)
            text = ""
        elif id(value) not in messages:
            text += str(value.value)
    return parts + ([ast.Constant(text)] if text else [])


# -- the texts of errors and log lines -----------------------------------------------------------


def _find_message_constants(nodes: Sequence[ast.AST]) -> Iterator[ast.Constant]:
    """Yield the string constants that are the text of a raised error or of a printed line."""
    names = _resolve_names(nodes)
    for node in nodes:
        call = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(call, ast.Call) and (call is not node or _is_print_call(call, names)):
            for argument in call.args:
                yield from _find_text_constants(argument)


def _find_text_constants(node: ast.expr) -> Iterator[ast.Constant]:
    """Yield the string constants that a text is composed of.

    The strings in its expressions are not yielded: keys, operands of comparisons, arguments.
    """
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield node
        elif isinstance(node, ast.JoinedStr):
            todo += [part for part in node.values if isinstance(part, ast.Constant)]
        elif isinstance(node, ast.IfExp):
            todo += [node.body, node.orelse]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            todo += [node.left, node.right]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("format", "join")
        ):
            todo.append(node.func.value)


def _is_print_call(call: ast.Call, names: Mapping[str, str]) -> bool:
    """Return whether a call prints or logs its arguments."""
    function = _resolve_expression(call.func, names)
    logger, _, method = function.rpartition(".")
    return function in PRINT_FUNCTIONS or (logger in LOGGERS and method in LOG_METHODS)


def _resolve_expression(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return the dotted name that an expression refers to, with `()` for a call.

    Args:
        node: the expression.
        names: the dotted name that each name of its module refers to.

    Returns:
        "logging.getLogger().info" for `log.info`, for instance; "" if it is unknown.
    """
    suffix = ""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            suffix = f".{node.attr}{suffix}"
            node = node.value
        elif isinstance(node, ast.Call):
            suffix = f"(){suffix}"
            node = node.func
        else:
            return ""
    return f"{names[node.id]}{suffix}" if node.id in names else ""


def _resolve_names(nodes: Sequence[ast.AST]) -> dict[str, str]:
    """Return the dotted names that the imports and loggers of a module refer to.

    A name that the module also sets elsewhere is left out, and after a star import all names are:
    then it is unknown what they refer to.
    """
    binding = (node for node in nodes if type(node) in BINDING_NODES)
    bound = Counter(name for node in binding for name in _list_bound_names(node))
    imported: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name, origin = _resolve_alias(node, alias)
                imported.setdefault(name, set()).add(origin)
    if "*" in imported:
        return {}
    names = {
        name: next(iter(origins))
        for name, origins in imported.items()
        if len(origins) == 1 and not bound[name]
    }
    loggers = [name for name in _list_loggers(nodes, names) if bound[name] == 1]
    return {**dict.fromkeys(loggers, f"{GET_LOGGER}()"), **names}


def _list_loggers(nodes: Iterable[ast.AST], names: Mapping[str, str]) -> Iterator[str]:
    """Yield the names that are set to a logger."""
    for node in nodes:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Call)
            and _resolve_expression(node.value.func, names) == GET_LOGGER
        ):
            yield node.targets[0].id


def _resolve_alias(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> tuple[str, str]:
    """Return the name that an import sets, and the dotted name that it refers to."""
    if isinstance(node, ast.ImportFrom):
        return alias.asname or alias.name, f"{'.' * node.level}{node.module or ''}.{alias.name}"
    if alias.asname:
        return alias.asname, alias.name
    top = alias.name.partition(".")[0]
    return top, top


def _list_bound_names(node: ast.AST) -> list[str]:
    """Return the names that a node sets, without those of imports."""
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store) else []
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(
        node,
        ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler
        | ast.MatchAs | ast.MatchStar,
    ):  # fmt: skip
        return [node.name] if node.name else []
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    return []
