"""Finds every sentence the product says, by kind of place, and the retired words in them."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Globs below the root. Tests speak for themselves; what a provider answered is the provider's.
PLACES = (
    "bridge/**/*",
    "clients/**/*",
    "deploy/**/*",
    "docs/**/*",
    "grafana/**/*",
    "bench/**/*.py",
    "*.md",
    "*.toml",
    "llms.txt",
    "Makefile",
    "Dockerfile",
    ".ci/run",
)
NOT_OURS = (
    "bridge/simulator/recordings/*",
    "bridge/web/static/inspector/uPlot*",
    "bridge/web/static/docs/swagger-ui*",
    "bridge/web/static/api/openapi.json",
    "deploy/image/*.txt",
    "deploy/helm/files/*",  # copies
    "docs/performance.svg",
    "docs/growth.svg",
    "*/node_modules/*",
    "*/__pycache__/*",
)
TEXT = {".md", ".html", ".svg", ".txt", ".vue"}
SCRIPT = {".js", ".mjs", ".ts", ".jsx", ".go", ".css"}
DATA = {".json"}
YAML = {".yaml", ".yml"}
CALLS = {
    r"\blog(?:ger)?\.\w+$": "log event",
    r"(?:Metric|MetricFamily|Gauge|Counter|Histogram)$": "metric help",
}
KEYWORDS = {"help": "command help", "epilog": "command help", "description": "setting"}
_SPACE = re.compile(r"(?<!there)(?:\\)? ")  # a sentence may go over several lines; a lookbehind may not
TITLES = {"title", "description", "text", "content", "displayName", "legendFormat", "label", "summary"}
EDGE = r"\b"
SENTENCE = re.compile(r"\w\W*\s+\W*\w|^[A-Z]\w+[.…?!]?$")
SCRIPT_TEXT = re.compile(
    r"/\*(?P<block>.*?)\*/|(?<![:\\])//(?P<line>[^\n]*)"
    r"|\"(?P<double>(?:[^\"\\\n]|\\.)*)\"|'(?P<single>(?:[^'\\\n]|\\.)*)'|`(?P<tick>(?:[^`\\]|\\.)*)`"
    r"|>(?P<markup>[^<>{}=;()]*[a-z][^<>{}=;()]*)<",
    re.DOTALL,
)


# The comments of a Python file, without reading all its tokens: strings are there to be skipped.
STRING_OR_COMMENT = re.compile(
    r"\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}"
    r"|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|(?P<comment>#[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """Something the product says, or a name it has."""

    path: str
    line: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Retired:
    """A word that is no longer used, and what is said instead."""

    word: str
    find: re.Pattern[str]
    plain: str
    seen: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """An exception."""

    path: str
    word: str
    reason: str
    text: str = ""

    def covers(self, hit: Hit) -> bool:
        """Whether it is about this word in this place."""
        return (
            self.word in {"*", hit.retired.word}
            and fnmatch(hit.sentence.path, self.path)
            and self.text.lower() in hit.around(80).lower()
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A retired word in a sentence, from `start` to `end`."""

    sentence: Sentence
    retired: Retired
    start: int
    end: int

    def around(self, characters: int) -> str:
        """The word, and so much on both sides."""
        return " ".join(self.sentence.text[max(0, self.start - characters) : self.end + characters].split())

    def __str__(self) -> str:
        line = self.sentence.line + self.sentence.text.count("\n", 0, self.start)
        found = self.sentence.text[self.start : self.end]
        return f"  {line}: {self.sentence.kind}: {found!r} -> {self.retired.plain}: ...{self.around(50)}..."


def retired(table: str) -> list[Retired]:
    """The entries of one table of retired_words.toml: `words` or `names`."""
    entries = tomllib.loads((HERE / "retired_words.toml").read_text("utf-8"))[table]
    flags = re.IGNORECASE if table == "words" else 0
    whole = r"\b{}\b" if table == "words" else "{}"
    return [
        Retired(
            one["word"],
            re.compile(_SPACE.sub(r"\\s+", one.get("find", whole.format(re.escape(one["word"])))), flags),
            one["plain"],
            one["seen"],
        )
        for one in entries
    ]


def exceptions() -> list[Allowed]:
    """The entries of words_allowed.toml."""
    entries: list[dict[str, str]] = tomllib.loads((HERE / "words_allowed.toml").read_text("utf-8")).get(
        "allowed", []
    )
    return [Allowed(**entry) for entry in entries]


WORDS, NAMES = retired("words"), retired("names")


def hits(root: Path, allowed: Sequence[Allowed] = ()) -> tuple[list[Hit], set[Allowed]]:
    """Retired words in the product at `root`, and the exceptions that were needed."""
    found: list[Hit] = []
    needed: set[Allowed] = set()
    any_word, any_name = _any_of(WORDS), _any_of(NAMES)
    for sentence in sentences(root):
        if sentence.kind == "name":
            if any_name.fullmatch(sentence.text):
                whole = len(sentence.text)
                found += [Hit(sentence, one, 0, whole) for one in NAMES if one.find.fullmatch(sentence.text)]
        elif any_word.search(sentence.text):
            for one in WORDS:
                found += [Hit(sentence, one, *match.span()) for match in one.find.finditer(sentence.text)]
    left = []
    for hit in found:
        excused = [entry for entry in allowed if entry.covers(hit)]
        needed.update(excused)
        if not excused:
            left.append(hit)
    return left, needed


def _any_of(entries: Sequence[Retired]) -> re.Pattern[str]:
    """One search for all of them: most sentences have none.

    Where all begin at the edge of a word, only such places are tried: a third of the time.
    """
    patterns = [one.find.pattern for one in entries]
    at_edges = [one for one in patterns if one.startswith(EDGE) and _begins_at_edges(one)]
    others = [f"(?:{one})" for one in patterns if one not in at_edges]
    together = [EDGE + f"(?:{'|'.join(one.removeprefix(EDGE) for one in at_edges)})"] if at_edges else []
    return re.compile("|".join(together + others), entries[0].find.flags)


def _begins_at_edges(pattern: str) -> bool:
    outside_groups = re.sub(r"\((?:[^()]|\([^()]*\))*\)", "", pattern)
    return all(one.startswith(EDGE) for one in outside_groups.split("|"))


def report(found: Sequence[Hit]) -> str:
    """All hits, file by file."""
    files: dict[str, list[Hit]] = {}
    for hit in found:
        files.setdefault(hit.sentence.path, []).append(hit)
    return "\n".join(
        f"{path}: {len(inside)}\n" + "\n".join(map(str, inside)) for path, inside in sorted(files.items())
    )


def sentences(root: Path) -> Iterator[Sentence]:
    """Everything the product at `root` says."""
    seen: set[Path] = set()
    for pattern in PLACES:
        for file in sorted(root.glob(pattern)):
            name = file.relative_to(root).as_posix()
            if file in seen or not file.is_file() or any(fnmatch(name, one) for one in NOT_OURS):
                continue
            seen.add(file)
            try:
                text = file.read_text("utf-8")
            except UnicodeDecodeError:
                continue  # a picture
            for line, kind, said in _read(file, text):
                yield Sentence(name, line, kind, said)


def _read(file: Path, text: str) -> Iterator[tuple[int, str, str]]:
    if file.suffix == ".py":
        yield from _python(text)
    elif file.suffix in SCRIPT:
        yield from _script(text)
    elif file.suffix in DATA:
        yield from _titles(json.loads(text))
    elif file.suffix in TEXT or file.suffix in YAML:
        for paragraph in re.finditer(r"(?:[^\n]*\S[^\n]*(?:\n|$))+", text):
            yield text.count("\n", 0, paragraph.start()) + 1, "text", paragraph[0]
    else:
        yield from _comments(text)


def _python(text: str) -> Iterator[tuple[int, str, str]]:
    nodes = list(ast.walk(ast.parse(text)))
    kinds = _kinds(nodes)
    inside_f_strings = {
        part
        for node in nodes
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in nodes:
        yield from ((line, "name", name) for line, name in _defined(node))
        if node in inside_f_strings:
            continue
        said = _said(node)
        kind = kinds.get(node, "string")
        if said is not None and (kind == "log event" or SENTENCE.search(said)):
            yield node.lineno, kind, said  # type: ignore[attr-defined]
    for match in STRING_OR_COMMENT.finditer(text):
        comment = match["comment"]
        if comment and not comment.startswith(("# noqa", "# type:", "# fmt:")):
            yield text.count("\n", 0, match.start()) + 1, "comment", comment


def _said(node: ast.AST) -> str | None:
    """The text of a literal; what an f-string puts in is left out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def _kinds(nodes: Sequence[ast.AST]) -> dict[ast.AST, str]:
    """What a literal is for, as far as its surroundings show."""
    kinds: dict[ast.AST, str] = {}

    def mark(inside: ast.AST | None, kind: str | None) -> None:
        for part in ast.walk(inside) if inside is not None else ():
            kinds.setdefault(part, kind)

    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = " ".join(ast.unparse(one) for one in getattr(node, "decorator_list", ()))
            is_command = re.search(r"\b(?:command|group)\b", decorators)
            kind = "command help" if is_command else "docstring"
            mark(node.body[0] if ast.get_docstring(node) else None, kind)
        elif isinstance(node, ast.Call):
            called = _dotted(node.func)
            kind = next((kind for pattern, kind in CALLS.items() if re.search(pattern, called)), None)
            for argument in node.args if kind is not None else ():
                mark(argument, kind)
            for keyword in node.keywords:
                mark(keyword.value if keyword.arg in KEYWORDS else None, KEYWORDS.get(keyword.arg, ""))
        elif isinstance(node, ast.Raise):
            mark(node.exc, "error")
    return kinds


def _dotted(called: ast.expr) -> str:
    """As `ast.unparse`, which takes long, for the names of nearly all calls."""
    if isinstance(called, ast.Name):
        return called.id
    if isinstance(called, ast.Attribute):
        return f"{_dotted(called.value)}.{called.attr}"
    return ast.unparse(called)


def _defined(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.lineno, node.name
    elif isinstance(node, ast.arg):
        yield node.lineno, node.arg
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.lineno, node.attr
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.lineno, node.target.id
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                yield node.lineno, target.id


def _script(text: str) -> Iterator[tuple[int, str, str]]:
    for match in SCRIPT_TEXT.finditer(text):
        kind, said = next((name, part) for name, part in match.groupdict().items() if part is not None)
        is_comment = kind in {"block", "line"}
        if is_comment or SENTENCE.search(said):
            yield text.count("\n", 0, match.start()) + 1, "comment" if is_comment else "string", said


def _titles(node: Any, key: str = "") -> Iterator[tuple[int, str, str]]:
    """The sentences of a dashboard or a schema: its line numbers would not help."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _titles(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _titles(value, key)
    elif isinstance(node, str) and key in TITLES:
        yield 0, key, node


def _comments(text: str) -> Iterator[tuple[int, str, str]]:
    """Comments that begin with `#`, the help of a Makefile included, and what `echo` and `printf` say."""
    for number, line in enumerate(text.splitlines(), 1):
        outside = re.sub(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'", '""', line)
        if "#" in outside:
            at = len(line) - len(outside[outside.index("#") :])
            yield number, "comment", line[at:] if line[at : at + 1] == "#" else line[line.rindex("#") :]
        if re.search(r"\b(?:echo|printf)\b|^\s*Description=|^description\s*=", line):
            yield number, "string", line
