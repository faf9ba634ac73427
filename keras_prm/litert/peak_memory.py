"""Peak memory of a `.tflite` file, in a process of its own.

This file is also the program of that process. It is run by its path, not as
a module of the package, and imports neither Keras nor the package: their
memory, of which Keras takes hundreds of megabytes on its way in, would hide
what the file takes.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

_NUM_INVOCATIONS = 3


def peak_memory(path, tensors, num_threads=1):
    """Measures by how much a file raises the peak memory of a process.

    A new Python process imports LiteRT and NumPy and reads the inputs; then
    it opens the file, as a phone does, by mapping it into memory, and
    invokes it three times. The result is

        peak resident set at the end - peak resident set before opening,

    which holds: the pages of the file that were read, the weights that
    kernels pack anew for themselves, the activations, the interpreter, and
    LiteRT's own code as far as it was run for the first time, about 3 MB
    whatever the file. Linux counts it in pages; to some 100 kB the result
    differs from run to run.

    Args:
        path: Path of a `.tflite` file.
        tensors: dict from the number of each input tensor in the file to an
            array, as `LiteRTModel.load` returns it.
        num_threads: int, threads of the interpreter. Default 1.

    Returns:
        int, bytes; `None` where the operating system does not tell a process
        its peak (all but Linux and macOS).

    Raises:
        ValueError: The process failed.

    Example:

    ```python
    tensors = LiteRTModel("small.tflite").load(images[:1])
    num_bytes = peak_memory("small.tflite", tensors)
    ```
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = pathlib.Path(folder) / "inputs.npz"
        np.savez(inputs, **{str(i): array for i, array in tensors.items()})
        # -P: the folder of this file must not be searched for modules.
        command = [sys.executable, "-P", __file__, path, inputs, num_threads]
        found = subprocess.run(
            list(map(str, command)), capture_output=True, text=True
        )
    if found.returncode:
        raise ValueError(
            f"Cannot measure the memory of '{path}': the process that ran it "
            f"ended with code {found.returncode}. Expected a LiteRT file that "
            f"takes these inputs. Received: {found.stderr.strip()[-500:]}. "
            "Mend the file, or pass memory=False."
        )
    return json.loads(found.stdout)


def main(path, inputs, num_threads):
    """Prints the bytes as JSON; the program of the process."""
    from ai_edge_litert.interpreter import Interpreter

    with np.load(inputs) as arrays:
        tensors = {int(index): arrays[index] for index in arrays}
    before = _peak()
    interpreter = Interpreter(model_path=path, num_threads=int(num_threads))
    for index, array in tensors.items():
        interpreter.resize_tensor_input(index, array.shape)
    interpreter.allocate_tensors()
    for index, array in tensors.items():
        interpreter.set_tensor(index, array)
    for _ in range(_NUM_INVOCATIONS):
        interpreter.invoke()
    after = _peak()
    added = None if before is None or after is None else after - before
    print(json.dumps(added))


def _peak():
    """This process' largest resident set so far in bytes, or None."""
    if sys.platform == "linux":
        # ru_maxrss would include that of the process that started this one.
        status = pathlib.Path("/proc/self/status").read_text()
        found = [x for x in status.splitlines() if x.startswith("VmHWM:")]
        return 1024 * int(found[0].split()[1]) if found else None
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
