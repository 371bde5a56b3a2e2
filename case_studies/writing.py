"""Tables as text and JSON, pictures as PNG: what every case study leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write(folder: Path, tables: Mapping[str, tuple[str, Any]], pictures: Mapping[str, Any]) -> list[Path]:
    """Every table as text and as JSON, every picture as PNG; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (text, content) in tables.items():
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        (folder / f"{name}.json").write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")
        written += [folder / f"{name}.txt", folder / f"{name}.json"]
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
        written.append(folder / f"{name}.png")
    return written


def _plain(content: Any) -> Any:
    """What JSON can hold: NaN, which it cannot, becomes null."""
    if isinstance(content, dict):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple | np.ndarray):
        return [_plain(value) for value in content]
    if isinstance(content, float | np.floating):
        return float(content) if np.isfinite(content) else None
    return content.item() if isinstance(content, np.generic) else content
