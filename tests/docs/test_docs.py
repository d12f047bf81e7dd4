"""Runs the pages: what README.md and docs/*.md show has to work, and to print what they say.

The fenced blocks of one page are run in order, in one namespace and one empty folder:

- ```` ```python ```` is executed; ```` ```python no-run ```` and every other language is not.
- ```` ```output ```` holds what the Python block above it prints.
- ```` ```console ```` whose first line starts with `$ perdure` is run command by command, each with `python -m
  perdure`. A command has to succeed, unless `$ echo $?` after it shows another exit code.

Expected lines have to be printed in the order shown; `...` on a line of its own stands for any number of lines, inside
a line for any text.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    page: str
    line: int  # of the first line inside the fence, counted from one
    info: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    line: int
    arguments: list[str]
    expected: list[str]


class DocumentationError(AssertionError):
    """A page shows what does not happen."""


def blocks_of(text: str, page: str) -> list[Block]:
    """The fenced blocks of a page, in order; a fence is closed by one at least as long."""
    blocks, fence, info, first, lines = [], None, "", 0, []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"(`{3,}|~{3,})\s*(.*?)\s*$", line)
        if fence is None:
            if match:
                fence, info, first, lines = match[1], match[2], number + 1, []
        elif match and not match[2] and match[1].startswith(fence):
            blocks.append(Block(page, first, info, "\n".join(lines) + "\n"))
            fence = None
        else:
            lines.append(line)
    if fence is not None:
        raise DocumentationError(f"{page}:{first - 1}: this fence is never closed")
    return blocks


def commands_of(block: Block) -> list[Command]:
    commands: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            commands.append(Command(number, shlex.split(line[2:]), []))
        elif commands:
            commands[-1].expected.append(line)
    return commands


def require_lines(expected: list[str], printed: str, place: str) -> None:
    remaining = iter(printed.splitlines())
    for line in expected:
        if line.strip() in ("", "...", "…"):
            continue
        pattern = r".*".join(re.escape(part) for part in line.rstrip().split("..."))
        if not any(re.fullmatch(pattern, candidate.rstrip()) for candidate in remaining):
            raise DocumentationError(
                f"{place}: expected this line, at this place of the output:\n{line}\nprinted:\n{printed}"
            )


def run_python(block: Block, namespace: dict[str, object]) -> str:
    # The empty lines in front make the line numbers of the traceback those of the page.
    source = "\n" * (block.line - 1) + block.text
    printed = io.StringIO()
    try:
        code = compile(source, str(ROOT / block.page), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
    except Exception as error:
        numbers = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(block.page)]
        line = numbers[-1] if numbers else getattr(error, "lineno", None) or block.line
        trace = "".join(traceback.format_exception(error))
        raise DocumentationError(f"{block.page}:{line}: this Python code fails\n{trace}") from None
    return printed.getvalue()


def run_console(block: Block) -> None:
    commands = commands_of(block)
    # A width that does not depend on the terminal, and no colours.
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    exit_code = 0
    for number, command in enumerate(commands):
        place = f"{block.page}:{command.line}"
        shown = shlex.join(command.arguments)
        if command.arguments == ["echo", "$?"]:
            if command.expected[:1] != [str(exit_code)]:
                raise DocumentationError(f"{place}: the exit code is {exit_code}, the page says {command.expected}")
            continue
        if command.arguments[0] != "perdure":
            raise DocumentationError(f"{place}: only `perdure` can be run in this block, not `{shown}`")
        done = subprocess.run(
            [sys.executable, "-m", *command.arguments], capture_output=True, encoding="utf-8", env=environment
        )
        exit_code = done.returncode
        printed = done.stdout + done.stderr
        followed_by_echo = number + 1 < len(commands) and commands[number + 1].arguments == ["echo", "$?"]
        if exit_code != 0 and not followed_by_echo:
            raise DocumentationError(f"{place}: `{shown}` ended with exit code {exit_code} and printed:\n{printed}")
        require_lines(command.expected, printed, place)


def run_page(text: str, page: str, module: types.ModuleType) -> int:
    """Run every block of a page; the number of those that were run."""
    n_run, printed = 0, None
    for block in blocks_of(text, page):
        language, *options = block.info.split() or [""]
        if language == "output":
            if printed is None:
                raise DocumentationError(f"{block.place}: no Python block that was run stands above this output")
            require_lines(block.text.splitlines(), printed, block.place)
            continue
        printed = None
        if language == "python" and "no-run" not in options:
            printed = run_python(block, module.__dict__)
        elif language == "console" and block.text.startswith("$ perdure"):
            run_console(block)
        else:
            continue
        n_run += 1
    return n_run


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module for the page's code, so that its classes have a home as in a script."""
    page = types.ModuleType("page_of_the_documentation")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    return page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page: Path, module: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fault = ""
    try:
        run_page(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix(), module)
    except DocumentationError as error:
        fault = str(error)
    if fault:
        pytest.fail(fault, pytrace=False)


def test_links_lead_somewhere() -> None:
    links = [
        (page, target)
        for page in [*PAGES, *sorted((ROOT / "docs").glob("*/*.md"))]
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []


def fenced(info: str, *lines: str) -> str:
    return "\n".join([f"```{info}", *lines, "```", ""])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "one\n\n" + fenced("python", "x = 1", "y = x / 0"),
            r"^page\.md:5: this Python code fails(.|\n)*ZeroDivision",
        ),
        (fenced("python", "x = = 1"), r"^page\.md:2: this Python code fails"),
        (fenced("python", "x = 1") + fenced("python", "", "assert x == 2"), r"^page\.md:6: "),
        (
            fenced("python", "print('a')") + fenced("output", "b"),
            r"^page\.md:5: expected this line(.|\n)*printed:\na",
        ),
        (
            fenced("python", "print('a'); print('b')") + fenced("output", "b", "a"),
            r"expected this line.*\na\n",
        ),
        (fenced("output", "a"), "no Python block"),
        (fenced("console", "$ perdure no-such-command"), r"^page\.md:2: .*ended with exit code 64"),
        (fenced("console", "$ perdure no-such-command", "$ echo $?", "0"), "the exit code is 64"),
        (fenced("console", "$ perdure --help", "no such line"), "expected this line"),
        ("```python\nx = 1\n", r"^page\.md:1: this fence is never closed"),
    ],
    ids=[
        "failing line",
        "syntax",
        "shared names",
        "output",
        "order of output",
        "output of nothing",
        "exit code",
        "stated exit code",
        "console output",
        "open fence",
    ],
)
def test_runner_notices(text: str, message: str, module: types.ModuleType) -> None:
    with pytest.raises(DocumentationError, match=message):
        run_page(text, "page.md", module)


def test_runner_passes_over(module: types.ModuleType) -> None:
    text = (
        fenced("python no-run", "1 / 0")
        + fenced("text", "1 / 0")
        + fenced("console", "$ no-such-program")
        + fenced("python", "print('tensor([1., 2.])'); print('and'); print('more')")
        + fenced("output", "tensor(...)", "...", "more")
        + fenced("console", "$ perdure no-such-command", "...", "$ echo $?", "64")
    )
    assert run_page(text, "page.md", module) == 2
