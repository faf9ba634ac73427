"""The public interface: its signatures, its docstrings, its names.

`public_api.txt` holds the signatures. A change of it is a change for users:
if it is meant, `python -m tests.integration.api_test --renew` writes the file
anew, and the change belongs into CHANGELOG.md.
"""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import sys
from typing import Protocol

from absl.testing import absltest
from absl.testing import parameterized

import keras_prm

PACKAGE = pathlib.Path(keras_prm.__file__).absolute().parent
SNAPSHOT = pathlib.Path(__file__).absolute().parent / "public_api.txt"
RENEW = "python -m tests.integration.api_test --renew"
# Modules with what one writes rules, scores and lowerings of one's own with.
EXTENSIONS = {
    "dependency.graph_builder": "keras_prm.dependency.graph_builder",
    "lowering.methods": "keras_prm.lowering.methods",
    "lowering.strategies": "keras_prm.lowering.strategies",
    "rules.base": "keras_prm.rules.base",
    "scores": "keras_prm.pruning.scores",
}
# What subclasses of Keras' classes override; Keras says what they do.
KERAS_METHODS = (
    "apply_gradients",
    "build",
    "call",
    "compute_output_shape",
    "exclude_from_weight_decay",
    "finalize_variable_values",
    "from_config",
    "get_config",
    "load_own_variables",
    "loss_scale_factor",
    "save_own_variables",
    "scale_loss",
)


class _Text(str):
    """A default value as it is to be shown."""

    def __repr__(self):
        return str(self)


def signature_of(function, is_bound=False):
    """A signature as it is written, in one line.

    Args:
        function: The function, or a class for that of its constructor.
        is_bound: Whether to leave out the first parameter, `self`.
    """
    signature = inspect.signature(function)
    parameters = [
        p.replace(default=_shown(p.default))
        for p in list(signature.parameters.values())[is_bound:]
    ]
    text = str(signature.replace(parameters=parameters))
    return text.replace("'", "").replace('"', "'")  # annotations are strings


def _shown(default):
    if default is inspect.Parameter.empty:
        return default
    name = getattr(default, "__qualname__", None)
    text = f"<{name}>" if name else repr(default)
    return _Text(text.replace("'", '"'))


def members(cls):
    """What classes of this package define of a class; no private names."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("keras_prm."):
            found.update(vars(base))
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("_") or name == "__call__"
    }


def callables(path, value):
    """`(path, function, is_bound)` of what is called by a public name.

    A class is one for its constructor; properties are not among them.
    """
    if inspect.isfunction(value):
        yield path, value, False
    if not inspect.isclass(value):
        return
    is_made = dataclasses.is_dataclass(value) or "__init__" in vars(value)
    if is_made and Protocol not in value.__bases__:
        yield path, value, False
    for name, member in members(value).items():
        if name in getattr(value, "__dataclass_fields__", ()):
            continue  # a default, which stands in the constructor
        is_bound = inspect.isfunction(member) or isinstance(member, classmethod)
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function):
            yield f"{path}.{name}", function, is_bound


def properties(path, value):
    """`(path, function)` of a class' properties."""
    if inspect.isclass(value):
        for name, member in members(value).items():
            if isinstance(member, property):
                yield f"{path}.{name}", member.fget


def public_objects():
    """`(path, object)` of the public names and of what extensions need."""
    found = {name: getattr(keras_prm, name) for name in keras_prm.__all__}
    for short, name in EXTENSIONS.items():
        module = importlib.import_module(name)
        for member, value in vars(module).items():
            own = getattr(value, "__module__", None) == name
            is_public = not member.startswith("_")
            if own and is_public and member not in keras_prm.__all__:
                found[f"{short}.{member}"] = value
    return list(found.items())


def public_api():
    """The signatures of all public functions, classes and methods, sorted."""
    found = []
    for path, value in public_objects():
        for name, function, is_bound in callables(path, value):
            found.append(name + signature_of(function, is_bound))
        for name, function in properties(path, value):
            found.append(f"{name}: {function.__annotations__.get('return')}")
    return sorted(found)


def untyped():
    """Public callables and properties with a part that has no type."""
    found = []
    for path, value in public_objects():
        for name, function, is_bound in callables(path, value):
            signature = inspect.signature(function)
            types = [p.annotation for p in signature.parameters.values()]
            types = [*types[is_bound:], signature.return_annotation]
            if inspect.Parameter.empty in types:
                found.append(name)
        for name, function in properties(path, value):
            if "return" not in function.__annotations__:
                found.append(name)
    return found


def undocumented(text):
    """Public names of a source that have no docstring."""

    def names(nodes, prefix, overrides):
        for node in nodes:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            name = node.name
            if name.startswith("_") or name in overrides or _is_part(node):
                continue
            if not ast.get_docstring(node):
                yield prefix + name
            if isinstance(node, ast.ClassDef):
                inherited = _inherited(node) if node.bases else ()
                yield from names(node.body, f"{prefix}{name}.", inherited)

    return list(names(ast.parse(text).body, "", ()))


def _is_part(node):
    """Whether it is a setter or an overload; what it is of has a docstring."""
    marks = [ast.unparse(mark) for mark in node.decorator_list]
    return any(m == "overload" or m.endswith(".setter") for m in marks)


def _inherited(node):
    """The methods of a class that Keras has told what they do."""
    methods = [x.name for x in node.body if isinstance(x, ast.FunctionDef)]
    return [m for m in methods if m in KERAS_METHODS or m.startswith("on_")]


class ApiTest(parameterized.TestCase):
    def test_signatures_are_those_of_the_file(self):
        expected = SNAPSHOT.read_text().splitlines()
        found = public_api()
        gone = [line for line in expected if line not in found]
        new = [line for line in found if line not in expected]
        self.assertEqual(
            found,
            expected,
            "The public interface has changed. If that is meant, run "
            f"`{RENEW}` and say so in CHANGELOG.md.\nNo longer there:\n  "
            + "\n  ".join(gone)
            + "\nNew:\n  "
            + "\n  ".join(new),
        )

    def test_all_of_it_is_typed(self):
        self.assertEqual(untyped(), [])

    @parameterized.parameters(
        *(str(p.relative_to(PACKAGE)) for p in sorted(PACKAGE.rglob("*.py")))
    )
    def test_public_names_have_docstrings(self, path):
        self.assertEqual(undocumented((PACKAGE / path).read_text()), [])

    def test_what_counts_as_undocumented(self):
        text = '''
def public(): pass
def _private(): pass
def told():
    """It is."""
class Layer(Base):
    """One."""
    def call(self, x): pass
    def own(self): pass
    @property
    def rho(self):
        """It is."""
    @rho.setter
    def rho(self, value): pass
'''
        self.assertEqual(undocumented(text), ["public", "Layer.own"])

    def test_the_package_shows_public_names_and_folders_only(self):
        there = {p.stem for p in PACKAGE.iterdir() if p.is_dir()}
        there |= {p.stem for p in PACKAGE.glob("*.py")}
        others = {
            name
            for name in set(dir(keras_prm)) - {*keras_prm.__all__}
            if not (name.startswith("__") and name.endswith("__"))
        }
        self.assertLessEqual(others, there)


if __name__ == "__main__":
    if "--renew" in sys.argv:
        SNAPSHOT.write_text("\n".join(public_api()) + "\n")
    else:
        absltest.main()
