"""The installed LiteRT, and what its interpreter says of a file."""

from __future__ import annotations

import importlib.metadata
import re


def version():
    """The version of LiteRT that is installed, `""` without one."""
    try:
        return importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError:
        return ""


def interpreter_class():
    """LiteRT's interpreter.

    Raises:
        ImportError: `ai-edge-litert` is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "Cannot run a LiteRT file: its interpreter is not installed. "
            "First `pip install ai-edge-litert`."
        ) from error
    return Interpreter


def signature(interpreter, output_names=None):
    """Details of the inputs by name, of the outputs in Keras' order.

    Args:
        interpreter: LiteRT's.
        output_names: The outputs in their order, where the file says so.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        inputs = interpreter.get_input_details()
        return {d["name"]: d for d in inputs}, interpreter.get_output_details()
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    outputs = runner.get_output_details()
    # Lists are named by position (output_10 follows output_9), dicts by key.
    names = output_names or [f"output_{i}" for i in range(len(outputs))]
    if set(names) != set(outputs):
        names = sorted(outputs)
    return runner.get_input_details(), [outputs[name] for name in names]


def failure(error):
    """What failed in a file, from what its interpreter raised, for people."""
    text = str(error)
    found = re.search(r"Node number (\d+) \((\w+)\)", text)
    if not found:
        return f"LiteRT says: {text[:300]}"
    if "Delegate" in found[2]:  # which stands for many operations
        return "operations that run together on XNNPACK do not run"
    return f"its operation {found[2]} (node {found[1]}) does not run"
