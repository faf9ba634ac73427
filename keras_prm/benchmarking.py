r"""Compares `.tflite` files from the command line.

    python -m keras_prm.benchmarking dense.tflite small.tflite \
        --num_threads=1,2 --runs=100

Prints the table of `keras_prm.benchmark`; the first file is what the others
are compared with. `--help` lists the flags. `keras_prm` itself does not import
this module, because Python warns if what `-m` names is imported already.
"""

import sys

from absl import app
from absl import flags

from keras_prm.litert.benchmark import benchmark


def define_flags(flag_values=flags.FLAGS):
    """Defines the flags; on import there are none.

    Args:
        flag_values: `flags.FlagValues`. Default: those of the process.
    """
    keywords = {"flag_values": flag_values}
    flags.DEFINE_list("num_threads", "1", "Numbers of threads.", **keywords)
    flags.DEFINE_integer("runs", 50, "Rounds that are timed.", 1, **keywords)
    flags.DEFINE_integer("warmup", 5, "Rounds before them.", 0, **keywords)
    flags.DEFINE_integer("batch_size", 1, "Rows per run.", 1, **keywords)
    flags.DEFINE_bool("memory", True, "Also peak memory.", **keywords)


def main(argv, flag_values=flags.FLAGS):
    """Prints the table of the files in `argv`, after the program's name."""
    if not argv[1:]:
        sys.exit("Pass the paths of one or more `.tflite` files; see --help.")
    threads = flag_values.num_threads
    try:
        report = benchmark(
            argv[1:],
            num_threads=[int(x) if x.isdecimal() else x for x in threads],
            runs=flag_values.runs,
            warmup=flag_values.warmup,
            batch_size=flag_values.batch_size,
            memory=flag_values.memory,
        )
    except (ImportError, ValueError) as error:
        sys.exit(str(error))
    print(report)


if __name__ == "__main__":
    define_flags()
    app.run(main)
