"""Base class of reports: plain data for JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np


class Report:
    """A frozen record that `print` shows and `json` can write."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts and lists of plain values, ready for JSON.

        `None` stands for NaN and infinity, which JSON has no words for.
        """
        return _json_ready(self)


def _json_ready(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {f.name: _json_ready(getattr(value, f.name)) for f in fields}
    if isinstance(value, dict):
        return {str(key): _json_ready(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(x) for x in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _json_ready(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "to_json"):  # masks
        return json.loads(value.to_json())
    return value
