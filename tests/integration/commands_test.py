"""Commands that are printed somewhere can be run: what they name is there.

Each command of README, docs and the other pages, and of the docstrings of what
is run, names a module or a file, and flags that it defines, itself or by what
it imports from this repository. That of the quick start runs in CI.
"""

import ast
import functools
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized

ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/results/*/README.md")),
]
SCRIPTS = [
    path
    for folder in ("benchmarks", "examples", "tests")
    for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
]
COMMAND = re.compile(
    r"(?:^|[ `/=])python3? (?:-m ([a-z_0-9.]+)|([a-z_0-9/]+\.py))([^`|\n]*)",
    re.M,
)
OTHERS = ("pytest", "venv", "pip")


def commands(text):
    """`(module, arguments)` of each command; lines that go on are joined."""
    text = re.sub(r"\\\n\s*", "", text)
    for match in COMMAND.finditer(text):
        module = match[1] or match[2].removesuffix(".py").replace("/", ".")
        if module not in OTHERS:
            yield module, match[3].partition("#")[0]


def printed():
    """dict from each command to where it stands."""
    found = {}
    for path in PAGES:
        if path.name != "CHANGELOG.md":
            for command in commands(path.read_text()):
                found.setdefault(command, path.name)
    for path in SCRIPTS:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        for command in commands(text):
            found.setdefault(command, path.name)
    return found


def file_of(module):
    path = ROOT.joinpath(*module.split("."))
    return next(
        (
            p
            for p in (path.with_suffix(".py"), path / "__main__.py")
            if p.exists()
        ),
        None,
    )


@functools.cache
def text_of(module):
    """The source of a module, and of all that it imports from here."""
    seen, left, texts = set(), [module], []
    while left:
        name = left.pop()
        path = file_of(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        texts.append(path.read_text())
        for node in ast.walk(ast.parse(texts[-1])):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{a.name}" for a in node.names]
                left += [node.module, *names]
    return "\n".join(texts)


class CommandsTest(parameterized.TestCase):
    def test_there_are_many(self):
        self.assertGreater(len(printed()), 40)

    def test_of_a_text(self):
        text = (
            "Run `python -m a.b --c=1 \\\n   --d`, then\n    python e/f.py # g"
        )
        self.assertEqual(
            list(commands(text)), [("a.b", " --c=1 --d"), ("e.f", " ")]
        )

    def test_what_is_run_is_there(self):
        missing = {
            module: place
            for (module, _), place in printed().items()
            if file_of(module) is None
        }
        self.assertEmpty(missing)

    def test_flags_are_defined(self):
        missing = {}
        for (module, arguments), place in printed().items():
            for flag in re.findall(r"--(?:no)?(\w+)", arguments):
                names = {flag, f"no{flag}"}
                text = text_of(module)
                if not any(
                    f'"{n}"' in text or f'"--{n}"' in text for n in names
                ):
                    missing[module, flag] = place
        self.assertEmpty(missing)


if __name__ == "__main__":
    absltest.main()
