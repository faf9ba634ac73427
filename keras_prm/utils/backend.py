"""Differences between backends."""

from __future__ import annotations

import contextlib
import os
import sys

import keras
from keras import ops


def num_replicas():
    """How many replicas train under the current TensorFlow strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def outside_of_graphs():
    """A context where values are concrete, though a graph is being traced."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def after(tensors):
    """A context in which nothing happens unless tensors have been computed.

    Where TensorFlow's data run out in the middle of a compiled step, what
    does not need them happens all the same: a step that was none counts.

    Args:
        tensors: list of tensors, with `None` among them.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    found = [getattr(x, "values", x) for x in tensors if x is not None]
    if tf.executing_eagerly() or not found:
        return contextlib.nullcontext()
    return tf.control_dependencies(found[:1])


def without_gradients():
    """A context in which PyTorch records nothing for differentiation."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def repeat(num, body, state, tensors):
    """A state after so many calls of a function: `ops.fori_loop`.

    Outside of a compiled step JAX would compile each such loop anew; there
    it is one of Python's.

    Args:
        num: int.
        body: `body(i, state)` returns the next state.
        state: A structure of tensors.
        tensors: list of what `body` computes with besides: they tell whether
            a step is being compiled.
    """
    if keras.backend.backend() == "jax":
        import jax

        if not any(isinstance(x, jax.core.Tracer) for x in tensors):
            for i in range(num):
                state = body(i, state)
            return state
    return ops.fori_loop(0, num, body, state)


@contextlib.contextmanager
def full_precision():
    """A context in which float32 is float32.

    GPUs may compute products of float32 in TF32, with 10 bits of mantissa, or
    less: enough to train with, not to tell by whether two models are one.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        config = tf.config.experimental
        before = config.tensor_float_32_execution_enabled()
        config.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            config.enable_tensor_float_32_execution(before)
    elif backend == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
    else:
        import torch

        places = torch.backends.cuda.matmul, torch.backends.cudnn
        before = [place.allow_tf32 for place in places]
        try:
            for place in places:
                place.allow_tf32 = False
            yield
        finally:
            for place, allowed in zip(places, before, strict=True):
                place.allow_tf32 = allowed


def add_pull(gradient, weight, w, t):
    """`gradient + weight * (w - t)`.

    Compilers fuse it. PyTorch would take new memory for each operation, and
    on a CPU its pages cost more than the arithmetic. So what stands in
    `w.grad` is changed in place: it is this variable's alone, and the next
    step clears it.

    Args:
        gradient: Tensor.
        weight: Scalar tensor.
        w: Variable of the gradient's shape.
        t: Variable of the gradient's shape.
    """
    if keras.backend.backend() == "torch" and gradient is w.value.grad:
        if gradient.is_cpu:
            alpha = float(weight)
            gradient.add_(w.value, alpha=alpha)
            return gradient.sub_(t.value, alpha=alpha)
    return ops.add(gradient, ops.cast(weight, w.dtype) * ops.subtract(w, t))


def pull(weight, w, t):
    """Moves `w` by `weight` of its way to `t`, in place.

    Args:
        weight: Scalar tensor in [0, 1].
        w: Variable.
        t: Variable of its shape.
    """
    if keras.backend.backend() == "torch":
        # Without memory for what stands between, as in `add_pull`.
        w.value.lerp_(t.value.to(w.value.dtype), weight.to(w.value.dtype))
        return
    w.assign_sub(ops.cast(weight, w.dtype) * ops.subtract(w, t))


def compiled(function):
    """`function`, of tensors, in one piece where pieces are compiled singly.

    Without it JAX compiles each operation that it has not met yet.
    """
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def known(flag):
    """The value of a boolean tensor, or `None` while it is being traced.

    With a value at hand, `keras.ops.cond` is more than is needed: JAX would
    compile both branches at every call, and PyTorch copy what stays.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(flag) if tf.executing_eagerly() else None
    if backend == "jax":
        import jax

        return None if isinstance(flag, jax.core.Tracer) else bool(flag)
    return bool(flag)


def process_environment(backend=None):
    """The environment of a process that imports what this one does, on a CPU.

    Args:
        backend: Name of the backend that Keras is to run on there; `None`
            for the one it runs on here.

    Returns:
        dict of strings, for `subprocess.run(env=...)`.
    """
    return os.environ | {
        "KERAS_BACKEND": backend or keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
    }


def process_settings():
    """What such a process has to set by `keras.config.set_...`, a dict."""
    return {
        "image_data_format": keras.config.image_data_format(),
        "epsilon": float(keras.config.epsilon()),  # NumPy's, say
        "floatx": keras.config.floatx(),
    }
