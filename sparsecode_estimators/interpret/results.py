"""What was found for each latent: a sequence of rows, a frame, a file of JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from ..datasets.store_files import write_whole


class LatentRow(Protocol):
    """A dataclass with what is known of one latent."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def latent(self) -> int: ...

    @property
    def status(self) -> str: ...


Row = TypeVar("Row", bound=LatentRow)
Self = TypeVar("Self", bound="Results[Any]")
_VERSION = 1


class Results(Sequence[Row]):
    """Rows of one dataclass, one for each latent, and how they came about.

    Parameters
    ----------
    rows : iterable
        Each has ``latent`` and ``status``.
    metadata : mapping, default=None
        Of what JSON knows.

    Raises
    ------
    ValueError
        If two rows are of the same latent.
    """

    _row: ClassVar[type]

    def __init__(self, rows: Iterable[Row], metadata: Mapping[str, Any] | None = None) -> None:
        self.rows = tuple(rows)
        self.metadata = dict(metadata or {})
        self._places = {row.latent: i for i, row in enumerate(self.rows)}
        if len(self._places) < len(self.rows):
            raise ValueError("two rows are of the same latent: leave one out.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        counts = Counter(row.status for row in self.rows)
        parts = ", ".join(f"{n} {status}" for status, n in counts.items())
        return f"{type(self).__name__}({parts})"

    def of(self, latent: int) -> Row:
        """The row of one latent.

        Raises
        ------
        KeyError
            If there is none.
        """
        return self.rows[self._places[latent]]

    def to_dict(self) -> dict[str, Any]:
        """Metadata, and a dict for each latent, of what JSON knows."""
        return {"metadata": self.metadata, "rows": [asdict(row) for row in self.rows]}

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each latent."""
        import pandas as pd

        names = [field.name for field in fields(self._row)]
        table = [[getattr(row, name) for name in names] for row in self.rows]
        return pd.DataFrame(table, columns=names).set_index("latent")

    def save(self, path: str | Path) -> None:
        """Write a file of JSON: all of it, or nothing.

        Raises
        ------
        OSError
        """
        content = {"format": type(self).__name__, "version": _VERSION, **self.to_dict()}
        text = json.dumps(content, indent=1, allow_nan=False, default=_plain)
        write_whole(Path(path), iter([text.encode()]))

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
        ValueError
            If it is another file, or damaged.
        """
        text = Path(path).read_bytes()
        try:
            content = json.loads(text)
            if content["format"] != cls.__name__ or content["version"] != _VERSION:
                raise ValueError(f"it is {content['format']!r}, version {content['version']!r}")
            if not isinstance(content["metadata"], dict):
                raise ValueError("its metadata is no object")
            rows = [_checked(entries, cls._row) for entries in content["rows"]]
            return cls(rows, content["metadata"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{str(path)!r} is no file of {cls.__name__}, or it is damaged "
                f"({type(error).__name__}: {error})."
            ) from error


def _plain(value: Any) -> Any:
    """A number of NumPy as one that JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} is nothing that JSON knows.")


def _checked(entries: Any, row: type) -> Any:
    """A row of a file, with the type of every entry checked."""
    hints = get_type_hints(row)
    if set(entries) != {field.name for field in fields(row)}:
        raise ValueError(f"a row has the entries {sorted(entries)}")
    return row(**{name: _typed(value, hints[name], name) for name, value in entries.items()})


def _typed(value: Any, kind: Any, name: str) -> Any:
    """The value as its type says; JSON has lists where Python has tuples."""
    if isinstance(kind, UnionType):
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} is no list")
        inner = get_args(kind)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise ValueError(f"{name} has {len(value)} entries and not {len(kinds)}")
        return tuple(_typed(v, k, name) for v, k in zip(value, kinds, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r}")
    return value
