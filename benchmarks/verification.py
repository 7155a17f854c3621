"""Scoring 6,000 pairs against the protocols written down naively, a curve of a million impostors, and embedding; ratios of one run.

    python benchmarks/verification.py [scoring] [curve] [embedding] [sizes]

"grid" is the choice of thresholds from given scores, "all" is everything from 512-d embeddings to the result. Thresholds and fold
accuracies are asserted equal to the last bit. "embedding": faces and their mirror images through `embed_stored`, from encoded bytes, with
PyTorch and with ONNX Runtime; "sizes": images decoded once for four sizes, or once for each, without a network. Seconds are processor
time of all threads, the best of several rounds in which the alternatives take turns: other work on the machine disturbs it least.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from askd.evaluation.roc import area, roc, tar_at_far
from askd.evaluation.verification import ASKD_GRID, INSIGHTFACE_GRID, askd_threshold, insightface_correct, score_pairs


def unit(rows):
    return rows / np.sqrt(np.sum(rows * rows, 1, keepdims=True))


def naive_insightface_grid(distance, same, fold):
    def accuracy(threshold, chosen):
        predicted = np.less(distance[chosen], threshold)
        return (np.sum(predicted & same[chosen]) + np.sum(~predicted & ~same[chosen])) / chosen.sum()

    best = [INSIGHTFACE_GRID[np.argmax([accuracy(t, fold != k) for t in INSIGHTFACE_GRID])] for k in range(10)]
    return best, [accuracy(best[k], fold == k) for k in range(10)]


def naive_insightface(plain, flipped, left, right, same, fold):
    embedding = unit(plain.astype(np.float64) + flipped.astype(np.float64))
    return naive_insightface_grid(np.sum(np.square(embedding[left] - embedding[right]), 1), same, fold)


def naive_askd_grid(cosine, same):
    accuracy = np.array([(np.sum(cosine[same] > t) + np.sum(cosine[~same] < t)) / len(cosine) for t in ASKD_GRID])
    return np.mean(ASKD_GRID[accuracy == accuracy.max()])


def naive_askd(plain, flipped, left, right, same, fold):
    feature = np.concatenate([plain, flipped], 1).astype(np.float64)
    best, accuracies = [], []
    for k in range(10):
        ours, theirs, train, test = feature[left], feature[right], fold != k, fold == k
        mean = np.mean(np.concatenate([ours[train], theirs[train]], 0), 0)
        cosine = np.sum(unit(ours - mean) * unit(theirs - mean), 1)
        best.append(naive_askd_grid(cosine[train], same[train]))
        accuracies.append(
            (np.sum(cosine[test & same] > best[-1]) + np.sum(cosine[test & ~same] < best[-1])) / test.sum()
        )
    return best, accuracies


def naive_exact(plain, flipped, left, right, same, fold):
    embedding = unit(plain.astype(np.float64) + flipped.astype(np.float64))
    cosine = np.sum(embedding[left] * embedding[right], 1)
    best, accuracies = [], []
    for k in range(10):
        train, test = fold != k, fold == k
        decided = np.array([np.sum((cosine[train] >= t) == same[train]) for t in cosine[train]])
        best.append(cosine[train][decided == decided.max()].max())
        accuracies.append(np.mean((cosine[test] >= best[-1]) == same[test]))
    return best, accuracies


def timed(function, *arguments, repeats=1):
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function(*arguments)
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def faces(images, pairs, dim=512, seed=0):
    """LFW's shape: 10 folds of half genuine, half impostor pairs, some 5 % of them decided wrongly."""
    rng = np.random.default_rng(seed)
    person = rng.integers(images // 3, size=images)
    plain = (rng.normal(size=(images // 3, dim))[person] + 1.9 * rng.normal(size=(images, dim)) + 0.3).astype(
        np.float32
    )
    flipped = (plain + 0.3 * rng.normal(size=plain.shape)).astype(np.float32)
    order = np.argsort(person, kind="stable")
    neighbours = np.flatnonzero(person[order][1:] == person[order][:-1])
    at, same = rng.choice(neighbours, pairs), np.arange(pairs) % 2 == 0
    left, right = order[at], np.where(same, order[at + 1], order[(at + images // 2) % images])
    return plain, flipped, left, right, same ^ (rng.random(pairs) < 0.05), np.arange(pairs) * 10 // pairs


def line(name, slow, fast):
    print(f"{name:34s} {slow * 1e3:10.1f} ms {fast * 1e3:9.2f} ms {slow / fast:8.0f}x   bit-equal")


PROTOCOLS = (("insightface", naive_insightface), ("askd", naive_askd), ("exact", naive_exact))


def scoring():
    pairs = faces(images=7701, pairs=6000)
    same, fold = pairs[4], pairs[5]
    print(f"{'6,000 pairs, 512-d, ten folds':34s} {'naive':>13s} {'askd':>12s} {'ratio':>9s}")
    for protocol, naive in PROTOCOLS:
        result, fast = timed(score_pairs, *pairs, protocol, repeats=5)
        (thresholds, accuracies), slow = timed(naive, *pairs)
        assert result.thresholds == tuple(thresholds) and result.fold_accuracies == tuple(accuracies)
        line(f"{protocol}, all", slow, fast)

    distance = 2 - 2 * score_pairs(*pairs, "insightface").scores
    (thresholds, _), slow = timed(naive_insightface_grid, distance, same, fold)
    correct, fast = timed(insightface_correct, distance, same, fold, repeats=5)
    assert INSIGHTFACE_GRID[np.argmax(correct.sum(0) - correct, axis=1)].tolist() == thresholds
    line("insightface, grid (400 x 10)", slow, fast)
    cosine = score_pairs(*pairs, "askd").scores
    folds = [(cosine[fold != k], same[fold != k]) for k in range(10)]
    walked, slow = timed(lambda: [naive_askd_grid(*one) for one in folds])
    counted, fast = timed(lambda: [askd_threshold(*one) for one in folds], repeats=5)
    assert walked == counted
    line("askd, grid (20,001 x 10)", slow, fast)


def curve():
    rng = np.random.default_rng(0)
    same = np.arange(1_010_000) < 10_000
    scores = rng.normal(size=len(same)) + 3 * same
    (far, tar, _), seconds = timed(roc, scores, same, repeats=3)
    print(
        f"ROC, 1,000,000 impostors, 10,000 genuine: {seconds * 1e3:.0f} ms, AUC {area(far, tar):.4f}, TAR at FAR "
        + ", ".join(f"{target:g}: {value:.4f}" for target, value in tar_at_far(far, tar, 1_000_000).items())
    )


def taking_turns(rounds, **alternatives):
    """{name: the least processor time in seconds} over rounds in which each alternative runs once."""
    best = dict.fromkeys(alternatives, float("inf"))
    for _ in range(rounds):
        for name, run in alternatives.items():
            best[name] = min(best[name], timed(run)[1])
    return best


def stored(count):
    """Encoded faces in memory: rendered people, as JPEG of 95 %."""
    import cv2

    from askd.data.synthetic import render_face
    from askd.evaluation.gather import Encoded

    people = [cv2.imencode(".jpg", render_face(person, 0)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for person in range(16)]
    return Encoded([people[i % 16] for i in range(count)], [f"face {i}" for i in range(count)])


def embedding(faces=64):
    import onnx
    import torch

    from askd.deploy.graph import to_onnx, trace
    from askd.embedders import open_embedder
    from askd.evaluation.embed import embed_stored
    from askd.models import make_backbone
    from askd.teachers import Frozen

    images = stored(faces)
    print(f"{'embedding at 28 px, with mirror images':40s} {'threads':>8s} {'images/s of processor time':>28s}")
    for backbone in ("iresnet10", "iresnet18"):
        torch.manual_seed(0)
        network = make_backbone(backbone).eval().requires_grad_(False)
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(to_onnx(trace(network, None)), Path(folder) / "network.onnx")
            runtime = open_embedder(Path(folder) / "network.onnx", torch.device("cpu"))
            frozen = Frozen(network, torch.device("cpu"))
            models = {"PyTorch": lambda seen: frozen(seen).embedding, "ONNX Runtime": runtime.embed}
            found = taking_turns(3, **{name: lambda model=model: list(embed_stored(
                model, images, [28], "bicubic", device=torch.device("cpu"), batch=32)) for name, model in models.items()})
        for name, seconds in found.items():
            print(f"{backbone + ', ' + name:40s} {torch.get_num_threads():8d} {faces / seconds:28.1f} ({found['PyTorch'] / seconds:.2f}x)")


def sizes(faces=512):
    import torch

    from askd.evaluation.embed import embed_stored

    images, wanted = stored(faces), [112, 56, 28, 14]

    def run(sizes):
        return list(embed_stored(lambda seen: seen[:, :, 0, 0], images, sizes, "bicubic", device=torch.device("cpu")))

    found = taking_turns(5, together=lambda: run(wanted), alone=lambda: [run([size]) for size in wanted])
    print(f"{faces} JPEGs at {len(wanted)} sizes: decoded once {1e3 * found['together']:.0f} ms, once for each size {1e3 * found['alone']:.0f} ms, "
          f"{found['alone'] / found['together']:.2f}x")


CASES = {"scoring": scoring, "curve": curve, "embedding": embedding, "sizes": sizes}


def main():
    unknown = [case for case in sys.argv[1:] if case not in CASES]
    if unknown:
        sys.exit(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    for case in sys.argv[1:] or CASES:
        CASES[case]()
        print(flush=True)


if __name__ == "__main__":
    main()
