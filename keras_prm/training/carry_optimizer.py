"""`carry_optimizer`: training on after `strip`, with the optimizer's state."""

from __future__ import annotations

import collections
import copy
import warnings

import keras
import numpy as np

from keras_prm.admm.attachment import find_wrapper
from keras_prm.admm.optimizer import ADMMWrapper
from keras_prm.reports.strip import StripReport
from keras_prm.training import optimizer_slots
from keras_prm.utils import variable_keys


def carry_optimizer(
    model: keras.Model,
    small: keras.Model,
    report: StripReport,
) -> keras.Model:
    """Compiles a stripped model as its origin was. Works in place on `small`.

    Loss, metrics and the rest are those of `model`, the optimizer is a new
    one of the same config. It takes over the old one's state: iterations,
    learning rate and other scalars as they are, and of each slot (momentum,
    velocity, average, accumulated gradient) what belongs to the weights that
    survive. Training goes on as if nothing had happened, up to rounding,
    wherever the weights that went had no gradient and no part in what the
    optimizer computes of whole gradients, such as global norms. Muon with an
    `rms_rate` takes smaller steps for smaller kernels, of which a warning
    reminds.

    ```python
    small, report = keras_prm.strip(model, return_report=True)
    keras_prm.carry_optimizer(model, small, report)
    small.fit(train, epochs=5)
    ```

    Call it before either model is trained on. Where `strip` put a constant
    into a bias, averages of the bias follow it. A bias that is new starts
    afresh, as do the metrics. If the optimizer has taken no step yet, there
    is nothing to carry over and `small` is just compiled. What Keras does not
    save with an optimizer is not carried over either. The slots of weights
    that `strip` multiplies by a factor (in attention) are not multiplied.
    `exclude_from_weight_decay` is in no config: call it on `small.optimizer`
    again.

    Of an `ADMMWrapper` the inner optimizer is carried over, without the
    wrapper: its plan was made for the larger model. For a
    `LossScaleOptimizer` around it the same holds. The zeros that `strip`
    left inside of kernels train again; hold them by `StructuredMask` with
    `masks_of(small)`.

    Args:
        model: The compiled model that `strip` was given.
        small: The model that it returned.
        report: The `StripReport` that it returned.

    Returns:
        `small`.

    Raises:
        TypeError: `report` is no `StripReport`.
        ValueError: Columns of `small` are lowered, `model` is not compiled,
            what it was compiled with cannot be serialized, the report is not
            of these models, or the optimizer keeps state of other shapes than
            its weights' (Adafactor).
    """
    if not isinstance(report, StripReport):
        raise TypeError(
            "Expected the report of `strip(model, return_report=True)`. "
            f"Received: report={report!r} (of type {type(report).__name__})"
        )
    _check_not_lowered(report)
    config = compile_config_of(model)
    fresh = optimizer(config)
    if not model.optimizer.built:
        return compile_by(small, config)
    pieces = _pieces(model, small, report)
    old, new = model.trainable_variables, small.trainable_variables
    before = optimizer_slots.layout(fresh, old)
    after = optimizer_slots.layout(optimizer(config), new)
    variables = _carried(model.optimizer)
    optimizer_slots.check_layout(before, variables, old, model.optimizer.name)
    sources = _by_key(before, variables, _keys(model))
    _check_slots(sources, _by_key(after, after, _keys(small)), model.optimizer)
    compile_by(small, config)
    if _scales_by_size(small.optimizer):
        warnings.warn(
            "Muon scales its updates by the root of a kernel's longer axis: "
            "steps for kernels that got smaller are smaller than they were. "
            "To go on as before, train the larger model with "
            "`rms_rate=None`, or raise the learning rate. Received: "
            f"optimizer '{small.optimizer.name}' with an `rms_rate`.",
            stacklevel=2,
        )
    targets = _by_key(after, small.optimizer.variables, _keys(small))
    for key, pairs in targets.items():
        _fill(pairs, sources.get(key), pieces.get(key))
    return small


def _check_not_lowered(report):
    """The columns of a lowered kernel are laid out in an order of their own."""
    lowered = [row.key for row in report.lowered if row.name != "dense"]
    if lowered:
        raise ValueError(
            "Cannot carry an optimizer over to kernels whose columns are "
            "lowered. Train on with what `strip(model, lowering='none', "
            "return_report=True)` returns, and lower it afterwards: "
            "`strip(small, lowering='auto')`. "
            f"Received: lowered kernels {lowered}"
        )


def _scales_by_size(optimizer):
    inside = [optimizer, *getattr(optimizer, "optimizers", ())]
    inside.append(getattr(optimizer, "inner_optimizer", None))
    muon = keras.optimizers.Muon
    return any(isinstance(x, muon) and x.rms_rate for x in inside)


def _carried(optimizer):
    """The optimizer's variables, less those of an `ADMMWrapper`."""
    wrapper = find_wrapper(optimizer)
    if wrapper is None:
        return optimizer.variables
    inner = {id(v) for v in wrapper.inner_optimizer.variables}
    left = {id(v) for v in wrapper.variables} - inner
    return [v for v in optimizer.variables if id(v) not in left]


def _keys(model):
    """The keys of the weights that a model trains, in their order."""
    found = variable_keys.variables_by_key(model).items()
    keys = {id(v): key for key, v in found}
    return [keys[id(v)] for v in model.trainable_variables]


def _by_key(layout, items, keys):
    """dict from key, or `None`, to pairs of `Slot` and item."""
    found = collections.defaultdict(list)
    for slot, item in zip(layout, items, strict=True):
        key = None if slot.owner is None else keys[slot.owner]
        found[key].append((slot, item))
    return dict(found)


def _check_slots(old, new, optimizer):
    """An optimizer may choose by path, and `strip` does not keep paths."""
    bad = [
        (key, len(old[key]), len(new[key]))
        for key in new
        if key in old and len(old[key]) != len(new[key])
    ]
    if bad:
        raise ValueError(
            f"The optimizer '{optimizer.name}' (of type "
            f"{type(optimizer).__name__}) treats weights of the smaller model "
            "otherwise than before. Let it choose by names of layers, not by "
            "whole paths, or compile the smaller model yourself: "
            "`small.compile(...)`. Received, with the number of slots before "
            f"and after: {bad}"
        )


class _Piece:
    """What has become of one weight.

    Args:
        old: The weight, or `None` if the smaller model's is new.
        new: The weight in the smaller model.
        positions: Per axis, the positions that stay, or `None` for all.
    """

    def __init__(self, old, new, positions):
        self.old = old
        self.new = new
        self.positions = positions

    def of(self, variable):
        """The part that stays of a variable of the old weight's shape."""
        array = keras.ops.convert_to_numpy(variable)
        for axis, at in enumerate(self.positions):
            if at is not None:
                array = np.take(array, at, axis)
        return array

    def fits(self):
        """Whether the old weight's part is the new weight, up to a factor.

        A vector may differ: it may be a bias that took up constants. What
        is new is a bias.
        """
        if self.old is None:
            return self.new.name == "bias"
        try:
            part = self.of(self.old)
        except IndexError:
            return False
        new = keras.ops.convert_to_numpy(self.new)
        if part.shape != new.shape or part.ndim < 2:
            return part.shape == new.shape
        part, new = part.astype("float64"), new.astype("float64")
        factor = np.vdot(part, new) / (np.vdot(part, part) or 1.0)
        room = 1e-2 * np.abs(new).max(initial=0.0)
        return bool((np.abs(factor * part - new) <= room).all())

    def change(self):
        """What `strip` added to the old weight's part."""
        return keras.ops.convert_to_numpy(self.new) - self.of(self.old)


def _pieces(model, small, report):
    """dict from key to `_Piece`, of all weights that the small model trains."""
    old = variable_keys.variables_by_key(model)
    new = variable_keys.variables_by_key(small)
    pieces = {
        key: _Piece(
            old.get(key),
            new[key],
            report.kept.get(key, (None,) * len(new[key].shape)),
        )
        for key in _keys(small)
    }
    bad = [key for key in report.kept if key not in old or key not in new]
    bad += [key for key, piece in pieces.items() if not piece.fits()]
    if bad:
        raise ValueError(
            "The report does not say how this small model came from this "
            "model, as they are now. Pass what one call gave: `small, report "
            "= keras_prm.strip(model, return_report=True)`, before training "
            "either of them, and give the weights of layers of your own a "
            f"name. Received: weights that do not fit: {bad}"
        )
    return pieces


def _fill(targets, sources, piece):
    """Sets the slots of one weight, or the optimizer's own variables."""
    if sources is None:
        for slot, variable in targets:
            if slot.like_weight:
                variable.assign(piece.new)
        return
    for (slot, target), (_, source) in zip(targets, sources, strict=True):
        value = (
            keras.ops.convert_to_numpy(source)
            if piece is None
            else piece.of(source)
        )
        if slot.like_weight:
            value = value + piece.change()
        target.assign(value)


def compile_config_of(model):
    """What a model is compiled with, serialized; the optimizer without ADMM.

    Raises:
        ValueError: It is not compiled, or something cannot be serialized.
    """
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"The model '{model.name}' is not compiled, so there is no "
            "optimizer to carry over. Call `model.compile(...)` and train "
            "it, or compile the smaller model alone: `small.compile(...)`."
        )
    try:
        config = model.get_compile_config()
        bare = _serialized(model.optimizer)
    except Exception as error:
        raise _not_serializable(error) from error
    if not config:
        raise _not_serializable("`get_compile_config` returns nothing")
    # The optimizer is wrapped for mixed precision by now, or shall not be.
    return {**config, "optimizer": bare, "auto_scale_loss": False}


def _serialized(optimizer):
    serialize = keras.saving.serialize_keras_object
    if isinstance(optimizer, ADMMWrapper):
        return serialize(optimizer.inner_optimizer)
    config = serialize(optimizer)
    inner = getattr(optimizer, "inner_optimizer", None)
    if isinstance(inner, ADMMWrapper):
        config["config"]["inner_optimizer"] = serialize(inner.inner_optimizer)
    return config


def optimizer(config):
    """A fresh optimizer of a config that `compile_config_of` returned."""
    try:
        # A copy: Keras takes the config of an inner optimizer out of it.
        return keras.saving.deserialize_keras_object(
            copy.deepcopy(config["optimizer"])
        )
    except Exception as error:
        raise _not_serializable(error) from error


def compile_by(small, config):
    """Compiles a model by a config, in place, and returns it."""
    try:
        small.compile_from_config(config)
    except Exception as error:
        raise _not_serializable(error) from error
    return small


def _not_serializable(reason):
    return ValueError(
        "Cannot compile the smaller model as the larger one is: its "
        "optimizer, loss or metrics cannot be made anew from their config. "
        "Register your own functions and classes by "
        "`@keras.saving.register_keras_serializable()`, write a lambda as a "
        "function, or compile the smaller model yourself: "
        f"`small.compile(...)`. Received: {reason}"
    )
