"""What counts in the hash of a source: everything but prose, and under each Python the same."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from textwrap import dedent

import pytest

from pipeline.engine.sources import PACKAGE
from pipeline.engine.syntax import parse_source, write_canonical_text

MODULES = sorted(PACKAGE.rglob("*.py"))


def digest(text: str) -> str:
    return parse_source(dedent(text).encode()).digest


TERMINAL = "from pipeline.engine import terminal\n"
LOGGER = "import logging\nlog = logging.getLogger(__name__)\n"

PROSE = {
    "comment": ("x = 1\n", "# why\nx = 1  # because\n"),
    "formatting": ("f(1,2)\n", "f(\n    1,\n    2,\n)\n"),
    "quotes": ("x = 'a'\n", 'x = u"a"\n'),
    "module docstring": ('"""A."""\nx = 1\n', '"""B."""\nx = 1\n'),
    "no module docstring": ('"""A."""\nx = 1\n', "x = 1\n"),
    "function docstring": ('def f():\n    "a"\n    return 1\n', "def f():\n    return 1\n"),
    "async docstring": ('async def f():\n    "a"\n', 'async def f():\n    "b"\n'),
    "class docstring": ('class A:\n    "a"\n', "class A:\n    pass\n"),
    "attribute docstring": ('A = 1\n"""Of A."""\n', "A = 1\n"),
    "field docstring": ('class A:\n    a: int\n    "of a"\n', "class A:\n    a: int\n"),
    "raise": ("raise ValueError('a')\n", "raise ValueError('b')\n"),
    "raise from": ("raise E('a') from None\n", "raise E('b') from None\n"),
    "raise f-string": ("raise E(f'a {x} b')\n", "raise E(f'{x}: c')\n"),
    "raise joined": ("raise E(f'a {x}' + 'b' + c)\n", "raise E(f'd {x}' + 'e' + c)\n"),
    "raise either": ("raise E('a' if x else 'b')\n", "raise E('c' if x else 'd')\n"),
    "raise format": ("raise E('a {}'.format(x))\n", "raise E('b {}'.format(x))\n"),
    "raise percent": ("raise E('a %s' % x)\n", "raise E('b %s' % x)\n"),
    "print_line": (TERMINAL + "terminal.print_line('a')\n",
                   TERMINAL + "terminal.print_line('b')\n"),
    "print_error": (
        "from pipeline.engine.terminal import print_error as say\nsay(f'a {x}')\n",
        "from pipeline.engine.terminal import print_error as say\nsay(f'b {x}')\n",
    ),
    "whole path": (
        "import pipeline.engine.terminal\npipeline.engine.terminal.print_line('a')\n",
        "import pipeline.engine.terminal\npipeline.engine.terminal.print_line('b')\n",
    ),
    "logger": (f"{LOGGER}log.info('a %s', x)\n", f"{LOGGER}log.info('b %s', x)\n"),
    "logging": ("import logging\nlogging.error('a')\n", "import logging\nlogging.error('b')\n"),
    "getLogger": (
        "from logging import getLogger\ngetLogger('n').debug('a')\n",
        "from logging import getLogger\ngetLogger('n').debug('b')\n",
    ),
    "warnings": ("import warnings\nwarnings.warn('a')\n", "import warnings\nwarnings.warn('b')\n"),
}  # fmt: skip

CODE = {
    "constant": ("x = 1\n", "x = 2\n"),
    "type of a constant": ("x = 1\n", "x = 1.0\n"),
    "truth": ("x = 1\n", "x = True\n"),
    "bytes": ("x = 'a'\n", "x = b'a'\n"),
    "sign": ("x = 1\n", "x = -1\n"),
    "default": ("def f(a=1): ...\n", "def f(a=2): ...\n"),
    "keyword default": ("def f(*, a, b=1): ...\n", "def f(*, a=1, b): ...\n"),
    "kind of argument": ("def f(a): ...\n", "def f(*, a): ...\n"),
    "operator": ("x = a + b\n", "x = a - b\n"),
    "comparison": ("x = a < b\n", "x = a <= b\n"),
    "order": ("a()\nb()\n", "b()\na()\n"),
    "indentation": ("if a:\n    b()\nc()\n", "if a:\n    b()\n    c()\n"),
    "name": ("x = a\n", "x = b\n"),
    "annotation": ("x: int\n", "x: float\n"),
    "literal annotation": ("x: L['a']\n", "x: L['b']\n"),
    "decorator": ("@a\ndef f(): ...\n", "def f(): ...\n"),
    "asynchronous": ("def f(): ...\n", "async def f(): ...\n"),
    "starred": ("f(a)\n", "f(*a)\n"),
    "unpacked keys": ("x = {'a': b, **c}\n", "x = {**c, 'a': b}\n"),
    "import": ("import a\n", "import b\n"),
    "alias": ("import a as c\n", "import b as c\n"),
    "relative import": ("from . import a\n", "from .. import a\n"),
    "string": ("x = 'a'\n", "x = 'b'\n"),
    "dictionary key": ("x = {'a': 1}\n", "x = {'b': 1}\n"),
    "looked up": ("x = y['a']\n", "x = y['b']\n"),
    "compared": ("x = y == 'a'\n", "x = y == 'b'\n"),
    "returned": ("def f():\n    return 'a'\n", "def f():\n    return 'b'\n"),
    "f-string": ("x = f'a{y}'\n", "x = f'b{y}'\n"),
    "place in an f-string": ("x = f'a{y}'\n", "x = f'{y}a'\n"),
    "conversion": ("x = f'{y}'\n", "x = f'{y!r}'\n"),
    "printed value": (TERMINAL + "terminal.print_line(f'a {x}')\n",
                      TERMINAL + "terminal.print_line(f'a {y}')\n"),
    "raised type": ("raise A('a')\n", "raise B('a')\n"),
    "raised value": ("raise E(f'a {x}')\n", "raise E(f'a {x + 1}')\n"),
    "looked up in a raise": ("raise E(f'{x[\"a\"]}')\n", "raise E(f'{x[\"b\"]}')\n"),
    "argument within a raise": ("raise E(f('a'))\n", "raise E(f('b'))\n"),
    "keyword in a raise": ("raise E(kind='a')\n", "raise E(kind='b')\n"),
    "raised constant": ("raise E['a']\n", "raise E['b']\n"),
    "percent's values": ("raise E('a %s' % x['a'])\n", "raise E('a %s' % x['b'])\n"),
    "which logger": ("import logging\nlogging.getLogger('a').info('')\n",
                     "import logging\nlogging.getLogger('b').info('')\n"),
    "level": ("import logging\nlogging.getLogger('a').setLevel('INFO')\n",
              "import logging\nlogging.getLogger('a').setLevel('DEBUG')\n"),
    "another print_line": ("terminal.print_line('a')\n", "terminal.print_line('b')\n"),
    "print into a file": ("print('a', file=f)\n", "print('b', file=f)\n"),
    "name set again": (f"{TERMINAL}def f(terminal):\n    terminal.print_line('a')\n",
                       f"{TERMINAL}def f(terminal):\n    terminal.print_line('b')\n"),
    "logger set again": (f"{LOGGER}log = f()\nlog.info('a')\n",
                         f"{LOGGER}log = f()\nlog.info('b')\n"),
    "star import": (f"{TERMINAL}from a import *\nterminal.print_line('a')\n",
                    f"{TERMINAL}from a import *\nterminal.print_line('b')\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROSE)
def test_prose_keeps_the_hash(name: str) -> None:
    before, after = PROSE[name]
    assert digest(before) == digest(after)


@pytest.mark.parametrize("name", CODE)
def test_code_changes_the_hash(name: str) -> None:
    before, after = CODE[name]
    assert digest(before) != digest(after)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_real_module_written_anew_without_docstrings_keeps_its_hash(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            if isinstance(statements := getattr(node, name, None), list):
                kept = [statement for statement in statements if not _is_docstring(statement)]
                setattr(node, name, kept or statements)
    again = ast.unparse(tree)
    assert digest(again) == parse_source(path.read_bytes()).digest


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


# -- the same under each Python ------------------------------------------------------------------

SAMPLE = '''
"""Of each kind of node some."""
from __future__ import annotations
import logging as log
from .. import a as b

@decorated(1, *args, key="ä\U0001fae8", **more)
class A(Base, metaclass=Meta):
    x: int = -1
    y: list[str] | None

    async def f(self, a, /, b: float = 1e-3, *rest, c, d=None, **others) -> bytes:
        async with self.open(a) as file, b:
            return await file.read(b"\\0", 2j, ..., True)

def g(values):
    global counted
    try:
        for n, (first, *others) in enumerate(values):
            if not first or n >= 3 and first is not None:
                continue
            elif n in (1, 2):
                break
        else:
            del values[0], values[1:n:2]
    except (ValueError, OSError) as error:
        log.warning(f"text {error!r:>{n}} {n=}", stacklevel=2)
        raise E(f"text {n:03d}" "more") from error
    finally:
        pass
    while (m := next(values)): values[m] += ~m ** 2 // 3 @ m
    match values:
        case {"key": 1 | None, **others} if others: yield
        case [A(1, x=2), *_] | "text" as last: yield from last
    assert m, f"{m}" f"}}" "text"
    return lambda *a: {n: {m} for n, m in a}, [n for n in a if n], {*a}, {"k": a, **values}
'''


def test_the_hash_of_a_sample_is_the_same_under_each_python() -> None:
    """Recorded under 3.11, 3.12 and 3.13; where it changes, all results are made again."""
    assert digest(SAMPLE) == "b1fa2b35b1894bb5"


def test_fields_of_other_versions_change_nothing() -> None:
    """Newer versions have type_params, older ones none; what is not set may be absent or None."""

    def function(**fields: object) -> str:
        body = [ast.Return(value=ast.Constant(value=1))]
        node = ast.FunctionDef(name="f", body=body, decorator_list=[], **fields)  # type: ignore[arg-type]
        node.args = ast.arguments(
            posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]
        )
        return write_canonical_text(ast.Module(body=[node], type_ignores=[]))

    assert function() == function(type_params=[]) == function(returns=None, type_comment=None)
    parameter = ast.Name(id="T", ctx=ast.Load())
    assert function() != function(returns=parameter)


def test_fields_of_other_versions_count_where_they_are_set() -> None:
    class Later(ast.AST):
        _fields = ("values", "type_params")
        values: list[ast.AST]
        type_params: list[ast.AST]

    plain, empty, filled = Later(), Later(), Later()
    plain.values = empty.values = filled.values = [ast.Name(id="a", ctx=ast.Load())]
    empty.type_params, filled.type_params = [], [ast.Name(id="T", ctx=ast.Load())]
    assert write_canonical_text(plain) == write_canonical_text(empty)
    assert write_canonical_text(plain) != write_canonical_text(filled)


def test_texts_in_pieces_are_a_single_text() -> None:
    """Versions differ in the pieces that they make of the text between an f-string's values."""

    def text(*pieces: str) -> str:
        value = ast.FormattedValue(value=ast.Name(id="x", ctx=ast.Load()), conversion=-1)
        parts: list[ast.expr] = [ast.Constant(value=piece) for piece in pieces]
        return write_canonical_text(ast.JoinedStr(values=[*parts, value]))

    assert text("ab") == text("a", "b") == text("a", "", "b")
    assert text("ab") != text("a")


def test_written_in_ascii_whatever_the_letters() -> None:
    """Which letters repr escapes depends on the version's Unicode tables."""
    assert write_canonical_text(ast.parse("ä = '\U0001fae8'")).isascii()


# -- what cannot be parsed -----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"x = (", b"x = 1\0", b"x = '\xff'", b"\x7fELF\x02\x01\0\0"])
def test_what_is_no_source_is_hashed_by_its_bytes(content: bytes) -> None:
    source = parse_source(content)
    assert source.digest == hashlib.sha256(content).hexdigest()[:16]
    assert source.imports == ()
    assert parse_source(content + b" ").digest != source.digest


def test_the_declared_encoding_is_heard() -> None:
    latin = "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1")
    assert parse_source(latin).digest == digest("x = 'é'\n")
    assert parse_source(b"\xef\xbb\xbfx = 1\r\n").digest == digest("x = 1\n")


def test_a_deep_tree_is_hashed_whoever_asks() -> None:
    """A long sum is as deep as it is long."""
    deep = " + ".join(["a"] * 900)
    assert digest(f"x = {deep}\n") == digest(f"x = ({deep})  # a comment\n")


def test_imports_are_named_as_they_are_written() -> None:
    source = "import a.b, c as d\nfrom e.f import g as h\ndef f():\n    from . import i\n"
    source += "    from ..j import k\n"
    assert parse_source(source.encode()).imports == (
        ".", "..j", "..j.k", ".i", "a.b", "c", "e.f", "e.f.g",
    )  # fmt: skip


def test_old_escapes_in_a_source_warn_nobody(recwarn: pytest.WarningsRecorder) -> None:
    parse_source(b"x = '\\d'\n")
    assert not recwarn.list
