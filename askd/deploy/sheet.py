"""One PNG that shows a comparison: the faces as the model saw them, where it looked, and what it said."""
from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from askd.deploy.sight import Seen
from askd.errors import DataError
from askd.evaluation.overlay import overlay


def draw(faces: Sequence[Seen], captions: Sequence[str], heat: np.ndarray | None, headline: str, path: Path) -> None:
    """A column per face with its caption; heat: (N, 112, 112) in [0, 1] for a second row, or None. DataError where `path` refuses."""
    rows = 1 if heat is None else 2
    figure = Figure(figsize=(max(2.1 * len(faces), 6.4), 2.3 * rows + 1.1), layout="constrained")
    grid = figure.subplots(rows, len(faces), squeeze=False)
    for column, (face, caption) in enumerate(zip(faces, captions, strict=True)):
        title = "\n".join([*textwrap.wrap(caption, 30)[:2], f"{face.own} px in the file, shown at {face.size} px"])
        grid[0][column].imshow(face.image)
        grid[0][column].set_title(title, fontsize=8)
        if heat is not None:
            grid[1][column].imshow(overlay(face.image, heat[column]))
            grid[1][column].set_title("where it looked", fontsize=8)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(headline, fontsize=11)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, format="png", dpi=130, facecolor="white")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}); choose another out=") from None
    finally:
        partial.unlink(missing_ok=True)
