"""`models=`: any recogniser, any size against any other, every degradation, cached, shared among processes, the same bytes each time."""
from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import distributed

from askd import benchmark as benchmark_module
from askd import embedding
from askd.benchmark import DEFAULTS, benchmark, main
from askd.data.degrade import degrade
from askd.data.pairs import write_bin
from askd.data.synthetic import render_face
from askd.embedders import from_callable
from askd.errors import CheckpointError, DataError, RecipeError, TrainingError
from askd.evaluation import scored
from askd.recipe import load
from means import write
from tiny import _server

CPU = torch.device("cpu")
PEOPLE = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with pairs of rendered people in some sets, a gallery with probes, and two recognisers."""
    folder = tmp_path_factory.mktemp("measuring")
    faces = [[cv2.imencode(".png", render_face(person, image)[..., ::-1])[1].tobytes() for image in range(2)] for person in range(PEOPLE)]
    genuine = [(a, b, True) for a, b in faces]
    impostors = [(faces[i][0], faces[(i + 1) % PEOPLE][1], False) for i in range(PEOPLE)]
    write_bin(folder / "pairs.bin", [pair for both in zip(genuine, impostors) for pair in both])
    write_bin(folder / "genuine.bin", genuine)
    write_bin(folder / "few.bin", [*genuine[:2], *impostors[:2]])
    for side, image in (("gallery", 0), ("probe", 1)):
        for person in range(PEOPLE if side == "probe" else PEOPLE - 4):
            path = folder / "door" / side / str(person) / "1.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(faces[person][image])
    write(folder / "means.onnx")
    write(folder / "swapped.onnx")
    (folder / "swapped.yaml").write_text("mean: [100, 110, 120]\nstd: 60\ncolour: BGR\n")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch, world):
    monkeypatch.setattr(scored, "RESAMPLES", 30)
    monkeypatch.setattr(benchmark_module, "RESAMPLES", 30)
    monkeypatch.chdir(world)


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def test_a_report_of_two_models(world, tmp_path, capsys):
    out = tmp_path / "report"
    arguments = ["models=[means.onnx,other=swapped.onnx]", "eval.sets=[pairs.bin,door,genuine.bin]", "eval.sizes=[112,7]",
                 "eval.degradations=[bicubic,nearest]", f"out={out}"]
    main(arguments)
    printed = capsys.readouterr().out
    found, text = results(out), (out / "results.json").read_bytes()
    assert {(row["set"], row["model"], row["degradation"], row["size"], row["protocol"]) for row in found["rows"]} == {
        (name, model, degradation, size, protocol) for name in ("pairs", "genuine") for model in ("means", "other")
        for degradation in ("bicubic", "nearest") for size in (112, 7) for protocol in ("insightface", "askd", "exact")
    }
    cross = {(row["set"], row["model"], row["degradation"], row["size"], row["probe_size"]) for row in found["cross"]}
    assert cross == {(name, model, degradation, gallery, probe) for name in ("pairs", "genuine", "door") for model in ("means", "other")
                     for degradation in ("bicubic", "nearest") for gallery in (112, 7) for probe in (112, 7) if gallery != probe}
    assert {entry["figure"] for entry in found["comparisons"] if entry["set"] == "pairs"} == {"accuracy", "auc"}
    context = found["context"]
    assert set(context["sets"]) == {"pairs", "door", "genuine"} and context["sets"]["pairs"]["images"] == 2 * PEOPLE
    assert context["models"]["other"]["input"].startswith("BGR") and len(context["models"]["means"]["sha256"]) == 64
    assert {"askd", "torch", "onnxruntime", "numpy", "python"} <= set(context["versions"]) and context["degradations"] == ["bicubic", "nearest"]
    one_class = [row for row in found["rows"] if row["set"] == "genuine"]
    assert all(row[figure] is None for row in one_class for figure in ("accuracy", "auc", "eer", "auc_interval")) and "all 12 pairs are genuine" in printed
    assert max(map(len, printed.splitlines())) <= 100 and "…" not in printed
    assert {path.name for path in out.iterdir()} == {
        "results.json", "results.csv", "results.md", "report.html", "accuracy.png", "degradations.png", "roc.png", "cmc_door.png",
        "cross_pairs.png", "cross_door.png", "attention.png", "errors.png", "cache",
    }
    lines = list(csv.DictReader((out / "results.csv").open()))
    far, = [line for line in lines if (line["set"], line["model"], line["degradation"], line["size"], line["probe_size"], line["protocol"])
            == ("pairs", "means", "bicubic", "7", "7", "exact") and line["figure"] == "TAR @ FAR 1e-06"]
    assert (far["value"], far["note"]) == ("", "too few impostors")
    for line in lines:
        if line["figure"] == "accuracy" and line["size"] == line["probe_size"] and line["set"] == "pairs":
            row, = [row for row in found["rows"] if (row["model"], row["degradation"], str(row["size"]), row["protocol"], row["set"])
                    == tuple(line[key] for key in ("model", "degradation", "size", "protocol", "set"))]
            assert float(line["value"]) == row["accuracy"] and [float(line["low"]), float(line["high"])] == row["accuracy_interval"]
    # At full size nothing is degraded, and is embedded once: 2 models x (1 + 2) x 2 lots.
    assert len(list((out / "cache").glob("*.npy"))) == 2 * 3 * 2
    for given in ([f"cache={out / 'cache'}"], []):  # from what was kept, and anew
        again = tmp_path / f"again {len(given)}"
        main([*arguments[:-1], f"out={again}", *given])
        assert (again / "results.json").read_bytes() == text


def test_figures_are_those_by_hand(world, tmp_path):
    """Cosines of channel means: galleries at one size and probes at another, left images at one size and right ones at another."""
    out = tmp_path / "report"
    main(["models=[means.onnx]", "eval.sets=[pairs.bin,door]", "eval.sizes=[112,7]", "eval.protocols=[exact]", f"out={out}"])
    found = results(out)
    faces = {(person, image): torch.from_numpy(render_face(person, image)).permute(2, 0, 1)[None] for person in range(PEOPLE) for image in range(2)}

    def vector(face, size):
        mean = (degrade(face, size, "bicubic").double().mean((2, 3)) - 127.5) / 127.5
        return (2 * mean / (2 * mean).norm()).numpy()[0]

    for gallery, probe in ((112, 7), (7, 112), (7, 7)):
        enrolled = np.stack([vector(faces[person, 0], gallery) for person in range(PEOPLE)])
        seen = np.stack([vector(faces[person, 1], probe) for person in range(PEOPLE)])
        lines = found["cross" if gallery != probe else "rows"]
        row, = [row for row in lines if row["set"] == "pairs" and row["size"] == gallery and row["probe_size"] in (probe, None)]
        genuine = (enrolled * seen).sum(1)
        impostor = (enrolled * np.roll(seen, -1, axis=0)).sum(1)
        auc = np.mean((genuine[:, None] > impostor) + 0.5 * (genuine[:, None] == impostor))
        assert row["auc"] == pytest.approx(auc, abs=1.01 / PEOPLE**2)  # one pair of scores on an edge
        lines = found["cross" if gallery != probe else "identification"]
        row, = [row for row in lines if row["set"] == "door" and row["size"] == gallery and row["probe_size"] in (probe, None)]
        known = PEOPLE - 4
        rank_1 = np.mean([(enrolled[:known] @ one).argmax() == person for person, one in enumerate(seen[:known])])
        assert row["figures"]["rank-1"] == pytest.approx(rank_1, abs=1.01 / known)
        assert row["mated"] == [known] and row["figures"]["TPIR @ FPIR 0.1"] is None and "4 probes without a mate" in row["note"]


def test_nothing_is_embedded_twice(world, tmp_path, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(list(arguments[2]))
        return embed_stored(*arguments, **options)

    embed_stored = embedding.embed_stored
    monkeypatch.setattr(embedding, "embed_stored", counted)
    common = ["models=[means.onnx]", f"cache={tmp_path / 'cache'}", "eval.cross=false"]
    main([*common, "eval.sets=[pairs.bin]", "eval.sizes=[28,14]", f"out={tmp_path / 'a'}"])
    main([*common, "eval.sets=[pairs.bin,few.bin]", "eval.sizes=[112,28,14]", "eval.protocols=[exact]", f"out={tmp_path / 'b'}"])
    assert [sizes for sizes in calls if sizes] == [[28, 14], [112]]  # few.bin is among the images of pairs.bin
    main([*common, "eval.sets=[pairs.bin]", "eval.sizes=[28]", "data.quantise=true", f"out={tmp_path / 'c'}"])
    main([*common, "eval.sets=[pairs.bin]", "eval.sizes=[28]", "eval.batch=5", f"out={tmp_path / 'd'}"])
    assert [sizes for sizes in calls if sizes] == [[28, 14], [112], [28], [28]]
    few = [row for row in results(tmp_path / "b")["rows"] if row["set"] == "few"]
    assert few and all(row["accuracy"] is None and row["note"] == "no folds: no accuracy" and row["auc"] is not None for row in few)


def test_a_function_is_measured_and_kept_only_under_a_version(world, tmp_path):
    recipe = load(["eval.sets=[pairs.bin]", "eval.sizes=[14]"], start=DEFAULTS)
    calls = []

    def wide(image):
        calls.extend([len(image)] * (len(image) == 4 * PEOPLE))  # of the set, not to see where it looks
        return torch.cat([image.mean((2, 3)), image.std((2, 3)), image.amax((2, 3))], 1)

    models = {"mine": from_callable("mine", wide), "known": from_callable("known", wide, "1"), "means": world / "means.onnx"}
    for count in (2, 3):  # times: those under a version were kept
        benchmark(recipe, models, tmp_path / "report", CPU, tmp_path / "cache")
        assert len(calls) == count
    found = results(tmp_path / "report")
    assert found["context"]["models"]["mine"]["sha256"] is None
    mine, known = ([row for row in found["rows"] if row["model"] == name] for name in ("mine", "known"))
    assert [row | {"model": ""} for row in mine] == [row | {"model": ""} for row in known]
    assert len(found["comparisons"]) == 6  # 9 numbers wide and 3 numbers wide
    assert {path.name for path in tmp_path.iterdir()} == {"report", "cache"} and not list((tmp_path / "report").glob(".*"))


def test_a_gallery_is_not_held_in_memory(world, tmp_path, monkeypatch):
    seen = []
    search = scored.search

    def noted(embeddings, *arguments, **options):
        seen.append(embeddings)
        return search(embeddings, *arguments, **options)

    monkeypatch.setattr(scored, "search", noted)
    main(["models=[means.onnx]", "eval.sets=[door]", "eval.sizes=[112,14]", f"out={tmp_path / 'report'}"])
    assert len(seen) == 4 and all(isinstance(rows, np.memmap) for rows in seen)


def report_of(world: Path, out: Path, shared: bool = False) -> None:
    """What each rank does, and a process alone."""
    scored.RESAMPLES = benchmark_module.RESAMPLES = 20
    torch.set_num_threads(1)
    recipe = load([f"eval.sets=[{world / 'pairs.bin'},{world / 'door'}]", "eval.sizes=[28,14]", "eval.batch=7", "eval.cross=false",
                   "eval.protocols=[insightface]"], start=DEFAULTS)
    benchmark(recipe, {"means": world / "means.onnx"}, out, CPU, shared=shared)


def rank(number: int, meeting: Path, world: Path, out: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=2)
    report_of(world, out, shared=True)
    distributed.destroy_process_group()


def test_processes_share_the_work_and_change_nothing(world, tmp_path, monkeypatch):
    monkeypatch.setattr(scored, "RESAMPLES", 20)
    monkeypatch.setattr(benchmark_module, "RESAMPLES", 20)
    ranks = [_server().Process(target=rank, args=(number, tmp_path / "meeting", world, tmp_path / "shared")) for number in range(2)]
    for process in ranks:
        process.start()
    report_of(world, tmp_path / "alone")
    for process in ranks:
        process.join(600)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert (tmp_path / "shared" / "results.json").read_bytes() == (tmp_path / "alone" / "results.json").read_bytes()
    assert not list((tmp_path / "shared").glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        (["models=[]"], RecipeError, "must list models: a run folder"),
        (["models=[means.onnx"], RecipeError, "lists are written"),
        (["models=[means.onnx,means.onnx]"], RecipeError, "two models are called means .*; name one NAME=means.onnx"),
        (["models=[nobody.onnx]"], CheckpointError, "nobody.onnx: no such ONNX file"),
        (["models=[means.onnx]", "folder"], RecipeError, "usage: python -m askd.benchmark models="),
        (["models=[means.onnx]", "eval.sets=[]"], RecipeError, "no eval.sets"),
        (["models=[means.onnx]", "eval.sets=[nothing.bin]"], DataError, "nothing.bin"),
        (["models=[means.onnx]", "eval.degradations=[blur]"], RecipeError, "eval.degradations"),
    ],
)
def test_what_it_refuses(arguments, error, problem, tmp_path):
    options = [] if any(argument.startswith("eval.sets") for argument in arguments) else ["eval.sets=[pairs.bin]"]
    with pytest.raises(error, match=problem):
        main([*arguments, *options, f"out={tmp_path / 'report'}"])
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("value", "error", "problem"),
    [
        (0.0, DataError, "black on pairs at 14 px: 24 of 24 embeddings are zero .first: image 0."),
        (float("nan"), TrainingError, "black: the network gives non-finite embeddings at 14 px"),
    ],
)
def test_embeddings_without_a_direction_are_named(value, error, problem, world, tmp_path):
    recipe = load(["eval.sets=[pairs.bin]", "eval.sizes=[14]"], start=DEFAULTS)
    with pytest.raises(error, match=problem) as raised:
        benchmark(recipe, {"black": from_callable("black", lambda image: torch.full((len(image), 4), value))}, tmp_path / "report", CPU)
    assert "\n" not in str(raised.value) and not (tmp_path / "report" / "results.json").exists()
