"""The running Python's own standard library as documents: real code and English on every machine, no download."""

import ast
import os
import platform
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from trainer_small.data.documents import Document

NAME = "python:stdlib"
CODE, ENGLISH = "code", "english"
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}
_TOPICS = "pydoc_data/topics.py"


def version() -> str:
    return f"Python {platform.python_version()}"


def module_files() -> tuple[Path, tuple[Path, ...]]:
    """The library's folder and its source files in sorted order, without tests and installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        # _sysconfigdata holds the paths and flags of the machine that built this Python, not text.
        wanted = (name for name in sorted(names) if name.endswith(".py") and not name.startswith("_sysconfigdata"))
        files += [Path(folder, name) for name in wanted]
    return root, tuple(files)


def read_module(file: Path, root: Path) -> Iterator[tuple[Document, str]]:
    """One module: its source as written (group ``code``), then all its docstrings as one English document.

    The reference topics behind ``help()`` are English: each topic is a document, and their file is no code.
    With each document comes the key that decides its split: a module's source and docstrings stay together.
    Files without text, and those whose text is not in the encoding they declare, give nothing.
    """
    name = file.relative_to(root).as_posix()
    try:
        with tokenize.open(file) as handle:
            text = handle.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old modules hold escapes that newer Pythons warn of
            tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        return
    if name == _TOPICS:
        yield from _topics(name, tree)
        return
    if text.strip():
        yield Document(name, CODE, text), name
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
    english = "\n\n".join(docstring for docstring in docstrings if docstring)
    if english:
        yield Document(f"{name}:docstrings", ENGLISH, english + "\n"), name


def _topics(name: str, tree: ast.Module) -> Iterator[tuple[Document, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            for topic, text in ast.literal_eval(node.value).items():
                yield Document(f"{name}:{topic}", ENGLISH, text), f"{name}:{topic}"
