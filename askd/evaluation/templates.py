"""Templates: several images of a subject pooled into one vector, compared 1:1 and searched for 1:N (IJB-B, IJB-C).

Pooling as the benchmark's published results have it: embeddings are averaged per medium (the
frames of one video are one medium), summed over the media of the template, and normalised. The embeddings' own lengths
count, so that clear images, which tend to be long, weigh more.
1:1 is the cosine of two templates. 1:N searches the same probes in each gallery and gives the mean over the galleries,
where the probes of the other gallery's subjects have no mate. (Scripts that join the galleries into one leave no probe
without mate; their "TPIR" is another figure.)
"""
from __future__ import annotations

import numpy as np

from askd.errors import DataError
from askd.evaluation.cosine import pair_dots, unit
from askd.evaluation.identification import Search, search
from askd.evaluation.roc import figures
from askd.evaluation.verification import Verification

IMAGES = 16384  # whose float64 embeddings are held at a time


def pool(embeddings: np.ndarray, template: np.ndarray, media: np.ndarray, templates: int) -> np.ndarray:
    """Unit vectors (T, D) float32 of T templates.

    embeddings (N, D), not normalised; template (N,) 0..T-1; media (N,), any numbers.
    Raises DataError for a template without images, or whose images cancel out or are not finite.
    """
    template, media = np.asarray(template), np.asarray(media)
    if not len(embeddings) == len(template) == len(media):
        raise ValueError(f"template and media must be given for each of {len(embeddings)} embeddings")
    without = np.flatnonzero(np.bincount(template, minlength=templates) == 0)
    if len(without):
        raise DataError(f"{len(without)} of {templates} templates have no image (first: template {without[0]}); check the lists")
    order = np.lexsort((media, template))
    edges = np.append(np.flatnonzero(np.append(True, np.diff(template[order]) != 0)), len(order))  # (T + 1,) in that order
    pooled = np.empty((templates, embeddings.shape[1]), np.float32)
    first = 0
    while first < templates:
        after = max(first + 1, int(np.searchsorted(edges, edges[first] + IMAGES, side="right")) - 1)
        chosen = order[edges[first]:edges[after]]
        rows = np.asarray(embeddings[chosen], np.float64)
        medium = np.flatnonzero(np.append(True, (np.diff(template[chosen]) != 0) | (np.diff(media[chosen]) != 0)))
        means = np.add.reduceat(rows, medium) / np.diff(np.append(medium, len(chosen)))[:, None]
        sums = np.add.reduceat(means, np.searchsorted(medium, edges[first:after] - edges[first]))
        length = np.sqrt(np.sum(sums * sums, 1))
        bad = ~np.isfinite(length) | (length == 0)
        if bad.any():
            raise DataError(f"template {first + int(np.argmax(bad))} has no direction: its images' embeddings cancel out or are not "
                            "finite; check the model's weights and its input")
        pooled[first:after] = sums / length[:, None]
        first = after
    return pooled


def compare(pooled: np.ndarray, left: np.ndarray, right: np.ndarray, same: np.ndarray) -> Verification:
    """1:1: EER, AUC and TAR at FAR of P pairs of templates; protocol `templates`, without folds and so without accuracy."""
    scores = pair_dots(lambda images: unit(pooled[images].astype(np.float64)), left, right)
    auc, equal, tars = figures(scores, same)
    genuine = int(np.count_nonzero(same))
    note = f"all {len(same)} pairs are {'genuine' if genuine else 'impostors'}: no ROC" if auc is None else ""
    return Verification("templates", None, None, (), (), scores, None, auc, equal, tars, len(same), genuine, len(same) - genuine, note)


def identify(pooled: np.ndarray, probe: np.ndarray, galleries: list[np.ndarray], subject: np.ndarray,
             enrolled: np.ndarray | None = None) -> list[Search]:
    """1:N: the probes searched for in each gallery, whose templates are `enrolled` if given; `identification.metrics` averages over them."""
    return [search(pooled, probe, gallery, subject, enrolled=enrolled) for gallery in galleries]
