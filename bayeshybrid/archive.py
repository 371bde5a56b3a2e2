"""Folders of arrays that can be read without trust.

An archive is a folder: one npy file for each array, and `manifest.json`, which says what each of them is, how
long it is and its checksum. Nothing in it is code. It appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayeshybrid.faults import DataError

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 64 * 2**20
LARGEST_HEADER = 4096
FILE_NAME = re.compile(r"[0-9]{5}\.npy")

__all__ = ["plain", "read_archive", "restored", "write_archive"]


def write_archive(
    path: Path, title: str, schema: int, describe: Callable[[Callable[[str, Any], str]], dict[str, Any]]
) -> None:
    """Write the new folder `path`: first under another name beside it, then renamed.

    **Arguments:**

    - `title`, `schema`: what kind of archive it is, and the version of its form.
    - `describe`: gets a function that takes what an array is, in words, and the array, writes it and gives back
      its file's name; returns the rest of the content, ready for JSON.

    **Raises:** `FileExistsError` where `path` exists; whatever `describe` raises, and then nothing is left.

    ```python
    import pathlib, tempfile
    from bayeshybrid.archive import read_archive, write_archive
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "mine")
        write_archive(path, "numbers", 1, lambda keep: {"x": keep("the numbers", np.arange(3))})
        content, arrays = read_archive(path, "numbers", 1)
    assert arrays[content["x"]].tolist() == [0, 1, 2]
    ```
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already: name a new folder, nothing is ever overwritten")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save {path.name!r} in: make it first")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    try:
        keep = _Keeper(part)
        content = describe(keep)
        whole = {"arrays": keep.entries, "content": content}
        whole = {"format": title, "schema": schema, "checksum": _checksum(whole), **whole}
        _write(part / MANIFEST, json.dumps(whole, indent=1, allow_nan=False).encode())
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_archive(path: Path, title: str, schema: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of a folder that `write_archive` wrote, and its arrays by file name.

    **Raises:** `DataError` where a part is missing, damaged, of a newer schema or of another form: each damaged
    part is named; `FileNotFoundError` where there is no folder.
    """
    whole = _manifest(path, title, schema)
    try:
        return whole["content"], _arrays(path, whole["arrays"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path / MANIFEST} is not what this version writes ({error!r})") from error


class _Keeper:
    """Arrays go to numbered files, because names of sites may hold anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, dict[str, Any]] = {}

    def __call__(self, part: str, array: Any) -> str:
        array = np.asarray(array)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
        name = f"{len(self.entries):05d}.npy"
        _write(self.folder / name, buffer.getvalue())
        self.entries[name] = {
            "part": part,
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "bytes": len(buffer.getvalue()),
            "shape": list(array.shape),
            "dtype": array.dtype.str,
        }
        return name


def _write(path, data):
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def plain(value: Any, place: str) -> Any:
    """Numbers, words, lists and mappings as strict JSON, which has no word for NaN and infinity.

    **Raises:** `DataError` for anything else, naming its `place`.

    ```python
    from bayeshybrid.archive import plain, restored
    assert restored(plain({"limit": np.inf, "names": ("a", "b")}, "here")) == {"limit": np.inf, "names": ["a", "b"]}
    ```
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part, f"{place}[{key!r}]") for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part, f"{place}[{i}]") for i, part in enumerate(value)]
    raise DataError(f"{place} is a {type(value).__name__}, which cannot be saved: write numbers and words")


def restored(value: Any) -> Any:
    """What `plain` was given, tuples as lists."""
    if isinstance(value, dict):
        if set(value) == {"$float"}:
            return float(value["$float"])
        return {key: restored(part) for key, part in value.items()}
    return [restored(part) for part in value] if isinstance(value, list) else value


def _manifest(path, title, newest):
    """The manifest, once its format, schema and checksum are right."""
    file = path / MANIFEST
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}: give the one that was saved")
    if not file.is_file() or file.is_symlink():
        raise DataError(f"{path} has no {MANIFEST}: nothing was saved there, or its writing was cut short")
    if not 0 < file.stat().st_size <= LARGEST_MANIFEST:
        raise DataError(
            f"{file} has {file.stat().st_size} bytes: it is damaged, or no manifest of this package"
        )
    try:
        whole = json.loads(file.read_bytes())
        written, schema, checksum = whole.pop("format"), whole.pop("schema"), whole.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is damaged, or no manifest of this package: {error!r}") from None
    if written != title:
        raise DataError(f"{file} has the format {written!r}, not {title!r}")
    if not isinstance(schema, int) or schema > newest:
        raise DataError(
            f"{file} was written with schema {schema!r}, this version of bayeshybrid reads up to {newest}: "
            "read it with the version that wrote it, or a newer one"
        )
    if checksum != _checksum(whole):
        raise DataError(f"{file} was changed or damaged after it was written: its checksum does not agree")
    return whole


def _arrays(path, entries):
    """All arrays by file name, every damaged one named in one error."""
    found, damaged = {}, []
    for name, entry in entries.items():
        try:
            found[name] = _array(path, name, entry)
        except DataError as error:
            damaged.append(f"{entry['part']} ({name}): {error}")
    if damaged:
        raise DataError(
            f"{path}: {len(damaged)} of {len(entries)} parts cannot be used, the others are sound. "
            + "; ".join(damaged)
        )
    return found


def _array(path, name, entry):
    """One array; no size that a file claims is believed before the file is seen to have it."""
    if not FILE_NAME.fullmatch(name) or (path / name).is_symlink():
        raise DataError("its name points outside the folder")
    if not (path / name).is_file():
        raise DataError("the file is missing")
    size = (path / name).stat().st_size
    if size != entry["bytes"]:
        raise DataError(f"the file has {size} bytes, it was written with {entry['bytes']}")
    data = (path / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise DataError("the checksum does not agree: it was changed or damaged after it was written")
    shape, dtype, start = _header(data)
    if list(shape) != entry["shape"] or dtype.str != entry["dtype"]:
        raise DataError(
            f"it holds {dtype} of shape {shape}, the manifest says {entry['dtype']} of {entry['shape']}"
        )
    if min(shape, default=0) < 0 or len(data) - start != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise DataError(f"its header claims the shape {shape}, for which the file has not the size")
    return np.load(io.BytesIO(data), allow_pickle=False, max_header_size=LARGEST_HEADER)


def _header(data):
    """Shape, type and length of the header of an npy file; a pickle or an array of objects is refused."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=LARGEST_HEADER)
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"it is no npy file of the kind that is written here ({error})") from None
    if dtype.kind not in "fiub" or dtype.fields is not None:
        raise DataError(f"it holds entries of type {dtype}: only plain numbers are read, never objects")
    return shape, dtype, stream.tell()
