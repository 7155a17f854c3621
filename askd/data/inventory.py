"""What a set holds and what was found, as the lines that are printed."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from askd.data.faces import FaceSet
from askd.data.inspect import BinImages, Seen
from askd.data.verdicts import Finding

_NAMED = 20  # lines of names under a finding


def table(path: Path, images: FaceSet | BinImages, seen: Seen) -> list[str]:
    """Counts as lines of at most 100 characters (if `path` is short): images, identities or pairs, sizes, formats."""
    lines = [str(path), f"  images       {len(images):>12,}" + ("  distinct" if isinstance(images, BinImages) else "")]
    if isinstance(images, BinImages):
        genuine = int(images.pairs.same.sum())
        lines.append(f"  pairs        {len(images.pairs):>12,}  {genuine:,} genuine, {len(images.pairs) - genuine:,} impostor")
    else:
        each = np.bincount(images.labels)
        spread = f"least {each.min():,}, median {np.median(each):g}, most {each.max():,}"
        lines.append(f"  identities   {len(each):>12,}  images of each: {spread}")
        lines += _histogram(each)
    for word, counter in (("pixels", Counter({f"{w}x{h}": n for (w, h), n in seen.sizes.items()})), ("format", seen.formats)):
        lines += [f"  {word:<12} {count:>12,}  {name}" for name, count in counter.most_common(5)]
        others = counter.most_common()[5:]
        lines += [f"  {'':<12} {sum(count for _, count in others):>12,}  of {len(others)} other sizes"] * bool(others)
    return lines


def _histogram(each: np.ndarray) -> Iterator[str]:
    bins = np.bincount(np.floor(np.log2(each)).astype(int))  # 1, 2-3, 4-7, ...
    for power, count in enumerate(bins.tolist()):
        low, high = 2**power, 2 ** (power + 1) - 1
        bar = "#" * max(round(40 * count / bins.max()), count > 0)
        yield f"    {f'{low:,}' if low == high else f'{low:,}-{high:,}':>15} {count:>10,}  {bar}".rstrip()


def lines_of(finding: Finding) -> list[str]:
    """A verdict as it is printed: `wrong  ...`, then the names, the first _NAMED of them."""
    more = len(finding.names) - _NAMED
    named = [f"         {name}" for name in finding.names[:_NAMED]]
    return [f"{finding.verdict:<6} {finding.text}", *named, *[f"         ... and {more:,} more"] * (more > 0)]
