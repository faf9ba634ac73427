"""`LiteRTModel`: a `.tflite` file that can be run."""

from __future__ import annotations

import operator
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.litert import flatbuffer
from keras_prm.litert import runtime
from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import ArrayLike

    from keras_prm.reports.export import StoredWeight

    Arrays = ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike]


class LiteRTModel:
    """A `.tflite` file that is called like a Keras model.

    Inputs may have any number of rows: the file's are resized, or, where its
    batch size is fixed, the rows go through in portions. Data is quantized
    for int8 and uint8 inputs, and such outputs are dequantized. A file orders
    its inputs in its own way, so several inputs go by name: in a dict, or in
    a list whose order `input_names` tells. Of a file with several signatures
    the first subgraph runs, its inputs named as its tensors are.

    Args:
        source: Path of the file, or its content as bytes.
        num_threads: int, threads that the interpreter may use. Default 1.
        input_names: list of str, the names of the inputs in the order in
            which lists of arrays will be passed: those of the model's
            `keras.Input`s. Not needed for one input.

    Raises:
        ImportError: `ai-edge-litert` is not installed.
        FileNotFoundError: There is no such file.
        TypeError: `source` is neither a path nor bytes.
        ValueError: This is no LiteRT model, it has other inputs, or
            `num_threads` is no whole number above 0.

    Example:

    ```python
    model = LiteRTModel("small.tflite")
    probabilities = model.predict(images, batch_size=16)
    ```
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        num_threads: int = 1,
        input_names: Sequence[str] | None = None,
    ) -> None:
        _check_opening(source, num_threads)
        # The interpreter reads from this buffer as long as it lives.
        self._content = (
            source
            if isinstance(source, bytes)
            else pathlib.Path(source).read_bytes()
        )
        try:
            self._interpreter = runtime.interpreter_class()(
                model_content=self._content,
                num_threads=operator.index(num_threads),
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "Cannot open a LiteRT model. Expected a whole `.tflite` file. "
                f"Received: source={str(source)[:200]}; LiteRT says: {error}"
            ) from error
        self._inputs, self._outputs = runtime.signature(
            self._interpreter, self.metadata.get("output_names")
        )
        self.is_ordered = len(self._inputs) == 1 or input_names is not None
        self._shapes = None
        is_list = isinstance(input_names, (list, tuple))
        names: list[Any] = list(input_names) if is_list else [input_names]
        if input_names is None:
            names = list(self._inputs)
        if sorted(map(str, names)) != sorted(self._inputs):
            raise ValueError(
                "Cannot order the inputs of a LiteRT model. Expected each of: "
                f"{sorted(self._inputs)}. Received: input_names="
                f"{input_names!r}"
            )
        self._inputs = {name: self._inputs[name] for name in names}
        self._fixed_batch = self.input_shapes[names[0]][0]

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs."""
        return list(self._inputs)

    @property
    def input_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the inputs by name, None where any size will do."""
        return {
            name: tuple(None if n < 0 else int(n) for n in d["shape_signature"])
            for name, d in self._inputs.items()
        }

    @property
    def input_dtypes(self) -> dict[str, np.dtype]:
        """Types of the inputs by name, float32 where they are quantized."""
        return {
            name: np.dtype("float32" if d["quantization"][0] else d["dtype"])
            for name, d in self._inputs.items()
        }

    @property
    def content(self) -> bytes:
        """The file as bytes."""
        return self._content

    @property
    def num_bytes(self) -> int:
        """Size of the file in bytes."""
        return len(self._content)

    @property
    def operations(self) -> list[str]:
        """Names of the operations in the file, such as `"CONV_2D"`, sorted."""
        return flatbuffer.operation_list(self._content)[0]

    @property
    def metadata(self) -> dict[str, Any]:
        """What `export_litert` noted in the file: a dict.

        `"keras_prm"` and `"keras"` are versions, `"quantize"` is the mode,
        and `"kept_channels"`, where `export_litert` was given the report of
        `strip`, has for each layer path the numbers that the channels had
        before. `"output_names"` are the keys of a model whose outputs are a
        dict, in the order of `model.outputs`. `{}` for a file that
        `export_litert` did not write.
        """
        return flatbuffer.metadata(self._content)

    @property
    def precision(self) -> str:
        """How coarse its numbers are; a key of `tolerances.FILE_TOLERANCES`.

        `"int8"` where any weight or activation has a quantization scale, else
        `"float16"` where any is stored so, else `"float32"`. Integers without
        a scale, such as images in uint8, are exact and do not count. Single
        weights may be finer: `weight_dtypes` has each.
        """
        return flatbuffer.precision(self._content)

    @property
    def weight_dtypes(self) -> dict[str, str]:
        """Types that the weights are stored in: dict from name to str.

        Of constants with two or more axes, such as kernels; more of each is
        in `weights`. The names are those in the file.
        """
        found = {}
        for number, weight in enumerate(self.weights):
            taken = weight.name in found  # in another subgraph
            name = f"{weight.name}_{number}" if taken else weight.name
            found[name] = weight.dtype
        return found

    @property
    def weights(self) -> tuple[StoredWeight, ...]:
        """The constants of two or more axes, see `StoredWeight`."""
        return flatbuffer.weights(self._content)

    @property
    def float_operations(self) -> dict[str, int]:
        """Operations that compute in floating point: dict to their number.

        `{}` where all the file computes in integers; what quantizes its float
        inputs, or dequantizes its outputs, is not counted.
        """
        return flatbuffer.float_operations(self._content)

    def __call__(self, inputs: Arrays) -> np.ndarray | list[np.ndarray]:
        """Runs all rows in one go; see `predict`."""
        return self.predict(inputs, batch_size=None)

    def predict(
        self,
        inputs: Arrays,
        batch_size: int | None = 32,
    ) -> np.ndarray | list[np.ndarray]:
        """Runs the file.

        Args:
            inputs: Array `(rows, ...)`; with several inputs a dict from input
                name to array, or a list in the order of `input_names`.
            batch_size: int, rows per invocation, or None for all at once. A
                batch size fixed in the file overrides it.

        Returns:
            Array, or list of arrays in the order of the Keras model's
            `outputs` where there are several.

        Raises:
            ValueError: The inputs do not match those of the file, or the
                batch size is below 1.
        """
        if batch_size is not None and not validation.is_whole(batch_size):
            raise ValueError(
                "Cannot run a LiteRT model. Expected a batch size of at least "
                f"1, or None. Received: batch_size={batch_size!r}"
            )
        arrays, portions = self._as_arrays(inputs), []
        rows = len(arrays[0])
        size = self._fixed_batch or batch_size or rows
        for start in range(0, rows, size):
            self._load([array[start : start + size] for array in arrays])
            self.invoke()
            results = [self._result(detail) for detail in self._outputs]
            portions.append([x[: rows - start] for x in results])
        outputs = [np.concatenate(parts) for parts in zip(*portions)]
        return outputs[0] if len(outputs) == 1 else outputs

    def load(self, inputs: Arrays) -> dict[int, np.ndarray]:
        """Puts one batch into the inputs, for `invoke` to run.

        Args:
            inputs: As in `predict`; all rows are one batch. Rows are repeated
                or cut where the file fixes their number.

        Returns:
            dict from the number of each input tensor in the file to the array
            that it now holds, quantized where the file's input is.

        Raises:
            ValueError: The inputs do not match those of the file.

        Example:

        ```python
        model.load(images[:1])
        model.invoke()
        ```
        """
        return self._load(self._as_arrays(inputs))

    def invoke(self) -> None:
        """Runs the batch that was loaded last, and returns nothing.

        It does no more than that, so it is what `latency` times.
        """
        self._interpreter.invoke()

    def failure(self, inputs: Arrays) -> str:
        """What fails on a batch, for people; `""` if the file takes it.

        Args:
            inputs: As in `load`.
        """
        try:
            self._load(self._as_arrays(inputs))
            self._interpreter.invoke()
        except RuntimeError as error:
            return runtime.failure(error)
        return ""

    def _result(self, detail):
        array = self._interpreter.get_tensor(detail["index"])
        scale, zero_point = detail["quantization"]
        if scale:
            array = (array.astype(np.float32) - zero_point) * np.float32(scale)
        return array

    def _as_arrays(self, inputs):
        expected = self.input_shapes
        arrays = list(map(np.asarray, self._in_order(inputs)))
        shapes = [array.shape for array in arrays]
        fits = all(map(_shape_fits, shapes, expected.values()))
        if not fits or len({s[0] for s in shapes}) > 1 or not shapes[0][0]:
            raise ValueError(
                "Cannot run a LiteRT model on inputs of these shapes. "
                f"Expected: {expected}, with the same number of rows, at "
                f"least one, in each. Received: {dict(zip(expected, shapes))}"
            )
        dtypes = [
            str(x.dtype)
            for x, detail in zip(arrays, self._inputs.values())
            if x.dtype.kind in "OSUMmc"
            and np.dtype(detail["dtype"]).kind not in "OSU"  # takes words
        ]
        if dtypes:
            raise ValueError(
                "Cannot run a LiteRT model on what holds no real numbers. "
                f"Received: arrays of {dtypes}. Convert them, to float32 for "
                "instance."
            )
        return arrays

    def _in_order(self, inputs):
        single = not isinstance(inputs, (dict, list, tuple))
        inputs = [inputs] if single else inputs
        if isinstance(inputs, dict):
            if set(inputs) == set(self._inputs):
                return [inputs[name] for name in self._inputs]
        elif self.is_ordered and len(inputs) == len(self._inputs):
            return inputs
        raise ValueError(
            "Cannot tell which array belongs to which input of a LiteRT model."
            f" Expected: {self.input_names}. Received: "
            f"{type(inputs).__name__} of {len(inputs)}. Pass a dict, or a list "
            "after `LiteRTModel(..., input_names=input_names(model))`."
        )

    def _load(self, arrays):
        size = self._fixed_batch or len(arrays[0])
        rows = np.minimum(np.arange(size), len(arrays[0]) - 1)
        tensors = {
            detail["index"]: _quantized(array[rows], detail)
            for detail, array in zip(self._inputs.values(), arrays)
        }
        shapes = {index: array.shape for index, array in tensors.items()}
        if shapes != self._shapes:
            self._shapes = None
            for index, shape in shapes.items():
                self._interpreter.resize_tensor_input(index, shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for index, array in tensors.items():
            self._interpreter.set_tensor(index, array)
        return tensors


def _check_opening(source, num_threads):
    """Refuses what is no file, and no number of threads."""
    if not isinstance(source, (bytes, str, os.PathLike)):
        raise TypeError(
            "Cannot open a LiteRT model. Expected the path of a `.tflite` "
            "file, or its content as bytes. Received: source of type "
            f"{type(source).__name__}. `export_litert` makes a file of a "
            "Keras model."
        )
    if not validation.is_whole(num_threads):
        raise ValueError(
            "Cannot open a LiteRT model. Expected a whole number of threads, "
            f"at least 1. Received: num_threads={num_threads!r}"
        )


def _shape_fits(shape, expected):  # whatever the number of rows
    return len(shape) == len(expected) > 0 and all(
        wanted in (None, size) for size, wanted in zip(shape[1:], expected[1:])
    )


def _quantized(array, detail):
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    if not scale or array.dtype == dtype:
        return array.astype(dtype)
    levels, limits = np.round(array / scale) + zero_point, np.iinfo(dtype)
    return np.clip(levels, limits.min, limits.max).astype(dtype)
