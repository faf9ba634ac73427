"""Lines printed where Keras prints its own."""

from __future__ import annotations

import keras
from absl import logging


def print_message(line):
    """Prints a line where Keras prints its own."""
    if keras.config.is_interactive_logging_enabled():
        print(line, flush=True)
    else:
        logging.info(line)
