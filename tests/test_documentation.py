"""Every block of Python in README, docs and public docstrings runs; every public name explains itself.

A page's blocks share one namespace, a docstring's block has its own with the usual abbreviations given.
Above a block of a page may stand, with the reason after the colon,

- `<!-- no-run: ... -->`: this block cannot run here (it needs a cluster, another package);
- `<!-- slow: ... -->`: the page takes a minute or more, so that it runs under `-m slow` only.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(?P<indent>[ \t]*)```python[ \t]*$")
MARK = re.compile(r"^\s*<!--\s*(?P<word>no-run|slow)\s*:\s*(?P<reason>\S.*?)\s*-->\s*$")
GIVEN = {"bh": bh, "jax": jax, "jnp": jnp, "np": np, "numpyro": numpyro, "dist": dist}


class Block(NamedTuple):
    """One block: the file, the line of its first statement (counted from 1), its code and its mark."""

    path: Path
    line: int
    code: str
    mark: str | None = None

    def run(self, namespace: dict) -> None:
        """Execute it; empty lines before the code make a traceback name the file's own lines."""
        source = "\n" * (self.line - 1) + self.code
        try:
            exec(compile(source, str(self.path), "exec"), namespace)
        except BaseException as error:
            error.add_note(f"in the block at {self.path.relative_to(ROOT)}:{self.line}")
            raise


def blocks(text: str, path: Path, first: int = 1) -> Iterator[Block]:
    """The blocks of a text whose first line has the number `first` in its file."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opening = FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        start, fence = at, opening["indent"] + "```"
        while at < len(lines) and lines[at].rstrip() != fence:
            at += 1
        assert at < len(lines), f"{path}:{first + start - 1}: the block is never closed"
        mark = MARK.match(lines[start - 2]) if start >= 2 else None
        code = textwrap.dedent("\n".join(lines[start:at]))
        yield Block(path, first + start, code, mark and mark["word"])
        at += 1


def docstrings(path: Path) -> Iterator[tuple[str, ast.Constant]]:
    """Qualified names and docstrings of the public module, classes, methods and functions of a file."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, ast.Constant]]:
        body = getattr(node, "body", [])
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            yield name, body[0].value
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
                    yield from visit(child, f"{name}.{child.name}")

    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    yield from visit(ast.parse(path.read_text(encoding="utf-8")), module.removesuffix(".__init__"))


def pages() -> Iterator[pytest.ParameterSet]:
    """README and each page of docs, with its blocks."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        found = list(blocks(path.read_text(encoding="utf-8"), path))
        marks = [pytest.mark.slow] if any(block.mark == "slow" for block in found) else []
        if any(block.mark != "no-run" for block in found):
            yield pytest.param(found, id=str(path.relative_to(ROOT)), marks=marks)


def examples() -> Iterator[pytest.ParameterSet]:
    """Each block of each public docstring."""
    for path in sorted((ROOT / "bayeshybrid").rglob("*.py")):
        for name, node in docstrings(path):
            for number, block in enumerate(blocks(str(node.value), path, first=node.lineno)):
                yield pytest.param(block, id=f"{name}-{number}" if number else name)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a block writes goes to an empty folder that holds the case studies, as the project's root does."""
    (tmp_path / "case_studies").symlink_to(ROOT / "case_studies")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", list(pages()))
def test_page(page: list[Block]):
    """The blocks of a page run from top to bottom."""
    namespace: dict = {"__name__": "__main__"}
    for block in page:
        if block.mark != "no-run":
            block.run(namespace)


@pytest.mark.parametrize("block", list(examples()))
def test_docstring(block: Block):
    """The example of a docstring runs by itself."""
    block.run({"__name__": "__main__", **GIVEN})


def vocabulary() -> list[str]:
    """The functions and classes that a first script meets."""
    named = {name: getattr(bh, name) for name in bh.__all__}
    return [name for name, value in named.items() if callable(value) and not isinstance(value, ModuleType)]


@pytest.mark.parametrize("name", vocabulary())
def test_public_name_explains_itself(name: str):
    """Each has a docstring with an example that runs, and a type for every argument and its value."""
    value = getattr(bh, name)
    doc = inspect.getdoc(value) or ""
    assert "```python" in doc, f"bh.{name} has no example in its docstring"
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
        assert not bare, f"bh.{name}: no type for {', '.join(bare)}"
        assert signature.return_annotation is not signature.empty, f"bh.{name}: no type for what it returns"


def test_every_page_is_in_the_navigation():
    """The site's generator neither misses a page that is listed nor lists one that is there."""
    listed = re.findall(
        r"^  - .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_a_failing_block_names_its_file_and_line():
    """The line in the traceback is the line in the file."""
    text = "one\n\n```python\nfine = 1\nassert fine == 2\n```\n"
    (block,) = blocks(text, ROOT / "README.md")
    with pytest.raises(AssertionError) as caught:
        block.run({})
    assert caught.traceback[-1].lineno == 4  # counted from 0
    assert caught.value.__notes__ == ["in the block at README.md:4"]


def test_a_mark_needs_a_reason():
    """A block is left out only with a reason beside it."""
    fence = "```python\n1 / 0\n```\n"
    assert next(blocks(f"<!-- no-run: needs a cluster -->\n{fence}", ROOT)).mark == "no-run"
    assert next(blocks(f"<!-- no-run: -->\n{fence}", ROOT)).mark is None


def test_no_block_is_written_in_a_way_that_is_never_run():
    """A fence such as ```` ```py ```` or ```` ```python3 ```` would be shown and never checked."""
    odd = re.compile(r"^\s*```(?:py\b|python[^\s]|python[ \t]+\S|pycon)", re.MULTILINE)
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "bayeshybrid").rglob("*.py")]:
        assert not odd.search(path.read_text(encoding="utf-8")), f"{path}: write ```python"
