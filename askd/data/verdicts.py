"""What is wrong with a set, and what is as it should be, in plain sentences."""
from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass, field

import numpy as np

from askd.data.decode import SIZE, decode_rgb
from askd.data.detector import Detector
from askd.data.faces import FaceSet
from askd.data.gallery import Images
from askd.data.inspect import BinImages, Seen
from askd.data.landmarks import template_distance
from askd.data.looks import COLOURED
from askd.data.pairs import PairSet

OK, WRONG, NOTE = "ok", "wrong", "note"
FEWEST = 20  # faces from which a share says something
# Shares of faces. Aligned LFW has 100 % red over blue, swapped 0 %; 82 % eyes in place, and under 30 % once misplaced by 8
# pixels, 15 degrees or a quarter.
RED_OVER_BLUE, EYES_IN_PLACE = 0.75, 0.55
FARTHEST = 6.0  # pixels, mean distance of detected landmarks to the template


@dataclass(frozen=True)
class Finding:
    """One verdict, OK, WRONG or NOTE, in a sentence, and the names that belong to it."""

    verdict: str
    text: str
    names: list[str] = field(default_factory=list)


def judge(images: FaceSet | BinImages, seen: Seen, detector: Detector | None = None) -> list[Finding]:
    """All findings: broken images, sizes, duplicates or pairs, colour order, alignment (measured, with a detector)."""
    findings = [_broken(seen), _sizes(images, seen)]
    findings += list(_pairs(images.pairs)) if isinstance(images, BinImages) else list(_duplicates(images, seen))
    if seen.faces:
        findings += [_colour(seen), _place(seen) if detector is None else _measured(images, seen, detector)]
    return [finding for finding in findings if finding is not None]


def compare_with_card(images: FaceSet | BinImages, title: str, identities: int | None, count: int | None) -> Finding | None:
    """Whether a training set has the identities and images that its card states, as far as it states them; None for a .bin."""
    if isinstance(images, BinImages) or identities is count is None:
        return None
    stated = [(number, word, here) for number, word, here in (
        (identities, "identities", len(images.class_names)), (count, "images", len(images))) if number is not None]
    differing = [f"{here:,} {word}, the card says {number:,}" for number, word, here in stated if here != number]
    if differing:
        return Finding(WRONG, f"not the whole of {title}, or not it: {'; '.join(differing)}")
    return Finding(OK, f"as many as the card of {title} says: {', '.join(f'{number:,} {word}' for number, word, _ in stated)}")


def _broken(seen: Seen) -> Finding:
    if seen.broken:
        return Finding(WRONG, f"{_count(seen.broken, 'image')} cannot be decoded", [fault for _, fault in seen.broken])
    return Finding(OK, "every image decodes")


def _sizes(images: Images, seen: Seen) -> Finding:
    other = sum(seen.sizes.values()) - len(seen.faces)
    if other:
        said = f"{_count(range(other), 'image')} not of {SIZE}x{SIZE} pixels"
        return Finding(WRONG, f"{said}: not aligned, and not to be trained on; align first")
    return Finding(OK, f"every {'whole ' if seen.broken else ''}image is {SIZE}x{SIZE}")


def _duplicates(faces: FaceSet, seen: Seen) -> Iterator[Finding]:
    groups = list(_equal(seen))
    across = [group for group in groups if len(set(faces.labels[group].tolist())) > 1]
    within = [group for group in groups if len(set(faces.labels[group].tolist())) < len(group)]
    if across:
        names = [" = ".join(faces.name(index) for index in group) for group in across]
        yield Finding(WRONG, f"{_count(across, 'image')} under several identities, byte for byte: a wrong label at least", names)
    if within:
        names = [" = ".join(faces.name(index) for index in group) for group in within]
        yield Finding(NOTE, f"{_count(within, 'image')} more than once under one identity, byte for byte", names)
    if not groups:
        yield Finding(OK, "no two images are the same byte for byte")


def _equal(seen: Seen) -> Iterator[np.ndarray]:
    """Indices of images of equal bytes, group after group; broken ones are in none."""
    digests = seen.digests
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    order = order[digests[order].any(1)]
    edges = np.flatnonzero((digests[order[1:]] != digests[order[:-1]]).any(1)) + 1
    return (np.sort(group) for group in np.split(order, edges) if len(group) > 1)


def _pairs(pairs: PairSet) -> Iterator[Finding]:
    itself = np.flatnonzero(pairs.left == pairs.right)
    if len(itself):
        names = [f"pair {row}: {pairs.image_names[pairs.left[row]]} twice, said to be {'one person' if pairs.same[row] else 'two people'}"
                 for row in itself]
        yield Finding(WRONG, f"{_count(itself, 'pair')} of an image with itself", names)
    else:
        yield Finding(OK, "no pair is an image with itself")
    genuine = int(pairs.same.sum())
    if not 0 < genuine < len(pairs):
        kind = "genuine" if genuine else "an impostor"
        yield Finding(NOTE, f"every pair is {kind} one: no accuracy can be read from this set")


def _colour(seen: Seen) -> Finding:
    red = np.array(seen.red)
    coloured = np.abs(red) >= COLOURED
    number = int(coloured.sum())
    if number < FEWEST:
        return Finding(NOTE, f"RGB order cannot be told: {number} faces have colour, it takes {FEWEST}")
    share = float((red[coloured] > 0).mean())
    said = f"{_percent(share)} of {number:,} coloured faces are redder than blue"
    if share >= RED_OVER_BLUE:
        return Finding(OK, f"RGB order: {said}, as skin is")
    if share <= 1 - RED_OVER_BLUE:
        return Finding(WRONG, f"red and blue are swapped (BGR): {said}, skin is the other way round")
    return Finding(WRONG, f"red and blue may be swapped in a part: {said} (RGB: {_percent(RED_OVER_BLUE)} or more); see the contact sheet")


def _place(seen: Seen) -> Finding:
    if len(seen.eyes) < FEWEST:
        return Finding(NOTE, f"alignment cannot be told from {len(seen.eyes)} faces, it takes {FEWEST}, or detector=FILE")
    share = float(np.mean(seen.eyes))
    if share >= EYES_IN_PLACE:
        return Finding(OK, f"aligned: eyes stand out at the template's place in {_percent(share)} of the faces (LFW: 82 %)")
    return Finding(WRONG, f"not aligned to the ArcFace template: eyes stand out at its place in {_percent(share)} of the faces "
                          f"(aligned: {_percent(EYES_IN_PLACE)} or more); for a set of profiles say detector=FILE")


def _measured(images: Images, seen: Seen, detector: Detector, most: int = 300) -> Finding:
    chosen = np.random.default_rng(0).permutation(seen.faces)[:most]
    distances = []
    for index in np.sort(chosen).tolist():
        found = detector.find(decode_rgb(images.encoded(index), images.name(index)))
        if len(found.score):
            distances.append(min(template_distance(landmarks) for landmarks in found.landmarks))
    rate = len(distances) / len(chosen)
    mean = float(np.mean(distances)) if distances else np.inf
    said = f"a face found in {_percent(rate)} of {len(chosen)}, landmarks {mean:.1f} pixels from the template on average"
    if rate >= 0.5 and mean <= FARTHEST:
        return Finding(OK, f"aligned: {said}")
    return Finding(WRONG, f"not aligned to the ArcFace template: {said}")


def _count(things: Sized, word: str) -> str:
    return f"{len(things):,} {word}{'s' * (len(things) != 1)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"
