"""`strip`: the same function from a physically smaller model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from typing import overload

from keras_prm.analysis.liveness import Liveness
from keras_prm.analysis.trace import trace
from keras_prm.analysis.trace import warn_of_quantized
from keras_prm.equivalence import model_state
from keras_prm.rebuild import attachments
from keras_prm.rebuild import lower_columns
from keras_prm.rebuild import model_classes
from keras_prm.rebuild import slim_model
from keras_prm.rebuild import strip_report
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Literal

    import keras

    from keras_prm.lowering.strategies import Lowerer
    from keras_prm.reports.strip import StripReport


@overload
def strip(
    model: keras.Model,
    lowering: str | Lowerer = "none",
    return_report: Literal[False] = False,
    *,
    quantize: str | None = None,
) -> keras.Model: ...


@overload
def strip(
    model: keras.Model,
    lowering: str | Lowerer = "none",
    return_report: Literal[True] = ...,
    *,
    quantize: str | None = None,
) -> tuple[keras.Model, StripReport]: ...


def strip(
    model: keras.Model,
    lowering: str | Lowerer = "none",
    return_report: bool = False,
    *,
    quantize: str | None = None,
) -> keras.Model | tuple[keras.Model, StripReport]:
    """Rebuilds a model without everything that does not reach its outputs.

    A channel goes where no reader multiplies it by a weight other than zero,
    or where it carries a constant that all its readers can take into their
    biases; what only fed such channels goes with them, back to the inputs.
    Empty rows and columns at the border of a Conv1D's or Conv2D's window go
    too, and of a depthwise one's where no layer for padding or cropping has
    to be added.
    This is the paper's *unused path removal*. The result equals the model at
    inference (`training=False`, finite activations) up to the rounding of
    sums, for any weights, whoever pruned them; a model without anything to
    remove comes back as a copy, with a warning.

    Empty filters of a convolution whose channels have to stay, as in a
    residual sum that others write to as well, go where this makes the model
    smaller and faster on LiteRT: a 1x1 convolution with a one-hot kernel,
    counted as stored, puts the other channels back in place. See
    `narrowing.NarrowingRule`.

    Zeros elsewhere in a kernel stay stored unless `lowering` says
    otherwise. The report counts them.

    Args:
        model: A built functional or Sequential `keras.Model`. It is not
            changed.
        lowering: What becomes of columns that are empty but whose channels
            live. `"none"`: they are stored as zeros; the result consists of
            stock layers and loads without keras_prm. The others leave them
            out where that pays, by putting a `GatherColumns` before the
            layer: `"auto"` where LiteRT is faster on this machine, measured
            layer by layer, and the whole model is too; `"model"` where a cost
            model of float32 files says so, which measures nothing;
            `"smallest"` wherever the `.tflite` file gets smaller;
            `"fewest_parameters"` wherever fewer numbers are stored, which is
            what papers count, though the file may be larger for it.
            `AutoLowering(...)` is `"auto"` with options. Where a layer is
            lowered, channels between layers may get another order; the
            report's `kept` has it.
        return_report: Whether to return a `StripReport` as well.
        quantize: How the file will be quantized, as `export_litert` will be
            told, for `lowering` to go by: None (float32), `"float16"`,
            `"dynamic_range"` or `"int8"`. `"model"` leaves the zeros where
            they are in the last two, of which it knows nothing. What is
            lowered remembers it, and `export_litert` warns of another mode.

    Returns:
        A new functional model, not compiled; its layers keep their names.
        It is of the model's class, where that is a subclass whose constructor
        takes `(inputs, outputs, name=None)`, or `(layers, name=None)` of a
        Sequential one. With `return_report=True`, `(model, report)`.

    Raises:
        TypeError: The model is subclassed.
        ValueError: It is not built, a weight is NaN or infinite, or
            `lowering` or `quantize` is unknown, or `"auto"` on a backend
            other than TensorFlow, whose converter it needs.
        ImportError: `"auto"` without `ai-edge-litert` installed.

    Warns:
        UserWarning: There was nothing to remove, since layers are quantized
            or no channel is dead; or a layer has to be copied
            apart from another one that holds it; or a regularizer or a
            constraint is made for a width that there is no more; or the class
            of a model that trains in its own way cannot be kept.

    Example:

    ```python
    keras_prm.hard_prune(model, plan)
    small, report = keras_prm.strip(model, return_report=True)
    print(report)
    ```

    Reference:
        - [Ma et al., 2019](https://arxiv.org/abs/1905.00136), P-RM.
    """
    lowerer = lower_columns.lowerer_of(lowering, quantize)
    if lowerer is not None:
        lowerer.check()
    view = keras_graph.functional(model)
    with model_state.random_numbers_kept():
        arrays = variable_keys.finite_arrays(view)
        rebuilder = slim_model.ModelRebuilder(Liveness(trace(view), arrays))
        small = rebuilder.model(view, is_root=True, origin=model)
        _warn_of_untied(view, rebuilder.untied())
        attachments.warn(model, rebuilder.slimmer.changes, stacklevel=2)
        for origin, reason in rebuilder.lost:
            model_classes.warn_of_lost("strip", origin, reason, stacklevel=2)
        report = None
        if return_report:
            report = strip_report.compare(rebuilder.slimmer, view, small)
        if lowerer is not None:
            small, choices, moved = lower_columns.lower(small, lowerer)
            if return_report:
                report = strip_report.with_lowerings(
                    report, choices, moved, small
                )
    if small.count_params() == view.count_params():
        _warn_of_nothing(view, arrays, rebuilder.live.graph)
    return (small, report) if return_report else small


def _warn_of_untied(view, pairs):
    if pairs:
        held = ", ".join(f"'{part}' in '{name}'" for name, part in pairs)
        warnings.warn(
            f"Layers of '{view.name}' that the model calls are inside of other "
            "layers as well, from whose config they cannot be told: "
            f"{held}. What strip returns computes the same, with two copies of "
            "their weights, which training would move apart. Put them into the "
            "config by `keras.saving.serialize_keras_object`.",
            stacklevel=3,
        )


def _warn_of_nothing(view, arrays, graph):
    what = f"strip found nothing to remove from '{view.name}'"
    if warn_of_quantized(graph, what, stacklevel=3):
        return
    zeros = sum(int((x == 0).sum()) for x in arrays.values())
    warnings.warn(
        f"strip found nothing to remove from '{view.name}': no channel of it "
        f"is dead, {zeros:,} of its {view.count_params():,} weights are zero. "
        "Prune it first, by `hard_prune`, and retrain with `StructuredMask`, "
        "or what was zero comes back.",
        stacklevel=3,
    )
