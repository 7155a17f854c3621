"""What the benchmark found, as rows, and as JSON. Files appear whole or not at all."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from askd.evaluation.verification import Verification

FULL_SIZE = 112  # pixels: "1x"
NATIVE = "native"  # in place of a size: images as they were stored, brought to 112 as in deployment
Size = int | str  # pixels, or NATIVE


@dataclass(frozen=True)
class Row:
    """Figures of one model on the pairs of one set at one size, None where the pairs give no figure.

    size: pixels, or NATIVE; accuracy .. eer: fractions in [0, 1];
    auc_interval: (low, high) at 95 %; interval_unit: what was resampled, "identity" or "pair". tar: {FAR: TAR}, None where there are
    fewer impostors than 1 / FAR. accuracy_interval, tar_intervals: as auc_interval, thresholds of the folds held fixed.
    degradation: what made the image small; probe_size: of each pair's right side, where it is not `size`.
    """

    model: str
    set: str
    size: Size
    protocol: str
    accuracy: float | None = None
    accuracy_std: float | None = None
    auc: float | None = None
    auc_interval: tuple[float, float] | None = None
    interval_unit: str = ""
    eer: float | None = None
    tar: dict[float, float | None] = field(default_factory=dict)
    pairs: int = 0
    genuine: int = 0
    impostors: int = 0
    note: str = ""
    degradation: str = ""
    probe_size: Size | None = None
    accuracy_interval: tuple[float, float] | None = None
    tar_intervals: dict[float, tuple[float, float] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, set: str, size: Size, result: Verification,
           auc_interval: tuple[float, float] | None = None, interval_unit: str = "", note: str = "", **more: object) -> Row:
        """The row of a `Verification`; note: what else to say of it; more: the last four fields."""
        return cls(model, set, size, result.protocol, result.accuracy, result.accuracy_std, result.auc, auc_interval,
                   interval_unit, result.eer, dict(result.tar_at_far), result.pairs, result.genuine, result.impostors,
                   "; ".join(filter(None, [result.note, note])), **more)


@dataclass(frozen=True)
class IdentificationRow:
    """Figures of one model's searches on one set at one size, None where the set gives no figure and `note` says why.

    figures: {"rank-1": .., "TPIR @ FPIR 0.01": ..}, fractions in [0, 1], means over the galleries; intervals: (low, high)
    at 95 % over the probes' people; cmc: {k: rank-k} at some k. mated, candidates, gallery: per gallery, the probes with
    a mate, the identities and distractors, the images.
    """

    model: str
    set: str
    size: Size
    figures: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None] = field(default_factory=dict)
    cmc: dict[int, float] = field(default_factory=dict)
    probes: int = 0
    mated: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    gallery: tuple[int, ...] = ()
    note: str = ""
    degradation: str = ""
    probe_size: Size | None = None


def write_json(path: str | os.PathLike, rows: Sequence[Row], context: dict, identification: Sequence[IdentificationRow] = (),
               **more: Sequence[Row | IdentificationRow | dict]) -> None:
    """{"context": ..., "rows": [...], "identification": [...]} with sorted keys; the same input gives the same bytes.

    context: JSON values; more: further lists, of rows of either kind or of JSON values. Raises ValueError for NaN or infinity anywhere, TypeError for what JSON does not know.
    """
    lists = {"rows": rows, "identification": identification, **more}
    document = {"context": context, **{name: [_plain(row) for row in found] for name, found in lists.items()}}
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def _plain(row: Row | IdentificationRow | dict) -> dict:
    if isinstance(row, dict):
        return row
    plain = asdict(row)
    return plain | {key: {f"{far:g}": value for far, value in plain[key].items()} for key in ("tar", "tar_intervals") if key in plain}


def scale_name(size: Size) -> str:
    """The downsample ratio as tables name it: 112 -> "1x", 28 -> "4x", 24 -> "4.7x"; NATIVE stays."""
    return NATIVE if size == NATIVE else f"{FULL_SIZE / size:.2g}x"


def size_name(size: Size) -> str:
    """28 -> "28 px"; NATIVE stays."""
    return NATIVE if size == NATIVE else f"{size} px"


def by_degradation(rows: Sequence[Row | IdentificationRow]) -> dict[str, list]:
    """degradation -> its rows, both in the order of first appearance."""
    found: dict[str, list] = {}
    for row in rows:
        found.setdefault(row.degradation, []).append(row)
    return found


def arranged(rows: Sequence[Row]) -> dict[tuple[str, str], dict[tuple[str, Size], Row]]:
    """(set, protocol) -> (model, size) -> row, of one degradation, in the order of first appearance."""
    found: dict[tuple[str, str], dict[tuple[str, Size], Row]] = {}
    for row in rows:
        cells = found.setdefault((row.set, row.protocol), {})
        if (row.model, row.size) in cells:
            raise ValueError(f"two rows for {row.model} on {row.set} at {size_name(row.size)} under {row.protocol}; "
                             "give each model its own name")
        cells[row.model, row.size] = row
    return found


def identified(rows: Sequence[IdentificationRow]) -> dict[str, list[IdentificationRow]]:
    """set -> its rows, both in the order of first appearance."""
    found: dict[str, list[IdentificationRow]] = {}
    for row in rows:
        found.setdefault(row.set, []).append(row)
    return found


def sizes_of(rows: Iterable[Row | IdentificationRow]) -> list[Size]:
    """Largest first."""
    return sorted({row.size for row in rows}, reverse=True)


def models_of(rows: Iterable[Row | IdentificationRow]) -> list[str]:
    """In the order of first appearance."""
    return list(dict.fromkeys(row.model for row in rows))


def has_accuracy(rows: Iterable[Row]) -> bool:
    """Whether any has."""
    return any(row.accuracy is not None for row in rows)


def write_whole(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """`write` a temporary file beside `path`, which then takes its name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
