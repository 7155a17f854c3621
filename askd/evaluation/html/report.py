"""report.html: everything that a benchmark found, on one page that opens anywhere and fetches nothing."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from askd.evaluation.cross import ACROSS, headline, matrices
from askd.evaluation.error_sheet import ShownError, ShownErrors
from askd.evaluation.figures import AttentionRow
from askd.evaluation.html import figures
from askd.evaluation.html.page import Html, image, page, tag
from askd.evaluation.html.style import LIGHT
from askd.evaluation.html.tables import (
    comparisons_table, differences_table, distances_table, facts, is_real, matrix_table, pairs_table, rates_table, searches_table,
)
from askd.evaluation.map_similarity import MapDistance
from askd.evaluation.overlay import overlay
from askd.evaluation.report import (
    IdentificationRow, Row, Size, arranged, by_degradation, has_accuracy, identified, models_of, size_name, sizes_of, write_whole,
)

FIGURES = {"auc": "AUC"}


@dataclass(frozen=True)
class Findings:
    """All that the report shows; what is empty has no section.

    context, differences, comparisons: as in results.json; matrix: rows of galleries and probes of any two sizes;
    rocs: {(set, protocol, degradation): {(model, size): curve}}; cmcs: {(set, degradation): {(model, size): rank-k}};
    faces: where networks look; faces_note: in words, what the heat is.
    """

    title: str
    rows: Sequence[Row]
    identification: Sequence[IdentificationRow] = ()
    context: Mapping = field(default_factory=dict)
    differences: Sequence[dict] = ()
    comparisons: Sequence[dict] = ()
    matrix: Sequence[Row | IdentificationRow] = ()
    rocs: Mapping[tuple[str, str, str], figures.Curves] = field(default_factory=dict)
    cmcs: Mapping[tuple[str, str], Mapping[tuple[str, Size], np.ndarray]] = field(default_factory=dict)
    faces: Sequence[AttentionRow] = ()
    faces_note: str = ""
    errors: Sequence[ShownErrors] = ()
    distances: Sequence[MapDistance] = ()


def write_html(path: str | os.PathLike, findings: Findings) -> None:
    """`render` into a file, whole or not at all."""
    text = render(findings)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def render(findings: Findings) -> str:
    """The page as text; the same findings give the same text. Raises ValueError where there is nothing to show."""
    if not findings.rows and not findings.identification:
        raise ValueError("a report needs at least one row, got none")
    models = models_of([*findings.rows, *findings.identification])
    sections = {name: section for name, section in (
        ("Verification", _verification(findings, models)), ("Identification", _identification(findings, models)),
        ("Which differences are real", _differences(findings)), ("Cross-resolution", _matrices(findings)),
        ("Where the networks look", _attention(findings)), ("What the attention does", _distances(findings, models)),
        ("Hardest errors", _errors(findings)), ("Protocol and versions", _context(findings.context)),
    ) if section}
    links = tag("nav", tag("ul", (tag("li", tag("a", name, href=f"#{_anchor(name)}")) for name in sections)), aria_label="sections")
    return page(
        findings.title, tag("header", tag("h1", findings.title), _lead(findings, models), _cards(findings, models), links),
        *(tag("section", tag("h2", name), body, id=_anchor(name)) for name, body in sections.items()),
    )


def _lead(findings: Findings, models: Sequence[str]) -> list[Html]:
    sets = [f"{row.set} ({row.genuine:,} genuine and {row.impostors:,} impostor pairs)" for row in _firsts(findings.rows)]
    sets += [f"{row.set} ({row.probes:,} probes)" for row in _firsts(findings.identification)]
    protocols = dict.fromkeys(row.protocol for row in findings.rows)
    degradations = dict.fromkeys(row.degradation for row in [*findings.rows, *findings.identification] if row.degradation)
    says = [f"{_listed(models)} on {_listed(dict.fromkeys(sets))}."]
    says += [f"{name}{'s' * (len(values) > 1)}: {_listed(values)}." for name, values in (("Protocol", protocols), ("Degradation", degradations)) if values]
    compared = [*findings.differences, *findings.comparisons]
    if compared:
        real = sum(map(is_real, compared))
        says.append(f"Of {len(compared)} differences compared, {real} {'is' if real == 1 else 'are'} real; the others these data do not show.")
    hashes = [(name, known["sha256"]) for name, known in findings.context.get("sets", {}).items() if known.get("sha256")]
    data = [tag("p", "Data: ", [(f"{name} ", tag("code", str(sha256)[:16]), " ") for name, sha256 in hashes], class_="note")] if hashes else []
    return [tag("p", " ".join(says)), *data]


def _cards(findings: Findings, models: Sequence[str]) -> Html:
    """Per model the first set's figure at its largest and smallest size, under the first degradation, and which weights it was."""
    known = findings.context.get("models", {})
    arrangements = arranged(next(iter(by_degradation(findings.rows).values()), []))
    cards = []
    for place, model in enumerate(models):
        first = next((chosen for chosen in arrangements.values() if any(row.model == model for row in chosen.values())), {})
        sha256 = known.get(model, {}).get("sha256")
        cards.append(tag(
            "div", tag("h3", model), _pairs_headline(list(first.values()), model) if first else _search_headline(findings.identification, model),
            tag("p", "sha256 ", tag("code", str(sha256)[:16]), class_="note") if sha256 else None, class_=f"card c{place % len(LIGHT)}",
        ))
    return tag("div", cards, class_="cards")


def _pairs_headline(rows: Sequence[Row], model: str) -> list[Html]:
    by_accuracy = has_accuracy(rows)
    mine = {row.size: row for row in rows if row.model == model}
    sizes = sizes_of(mine.values())
    lines = []
    for row in (mine[size] for size in dict.fromkeys([sizes[0], sizes[-1]])):
        value = row.accuracy if by_accuracy else row.auc
        text = "–" if value is None else f"{100 * value:.2f} ± {100 * row.accuracy_std:.2f} %" if by_accuracy else f"{value:.4f}"
        lines.append(tag("p", text, " ", tag("small", f"at {size_name(row.size)}"), class_="big"))
    return [*lines, tag("p", f"{'accuracy' if by_accuracy else 'AUC'} on {rows[0].set}, protocol {rows[0].protocol}", class_="note")]


def _search_headline(rows: Sequence[IdentificationRow], model: str) -> list[Html]:
    row = next(row for row in rows if row.model == model)
    rank = row.figures.get("rank-1")
    text = "–" if rank is None else f"{100 * rank:.2f} %"
    return [tag("p", text, " ", tag("small", f"at {size_name(row.size)}"), class_="big"), tag("p", f"rank-1 on {row.set}", class_="note")]


def _verification(findings: Findings, models: Sequence[str]) -> list[Html]:
    parts = []
    for degradation, alike in by_degradation(findings.rows).items():
        for (name, protocol), found in arranged(alike).items():
            rows = list(found.values())
            title = f"{name}, protocol {protocol}{f', {degradation}' if degradation else ''}"
            units = _listed(dict.fromkeys(row.interval_unit for row in rows if row.auc_interval))
            said = ["accuracy in per cent ± standard deviation over folds; "] * has_accuracy(rows) + [
                f"95 % intervals by {units}" if units else "no intervals"]
            charts = figures.over_size(title, rows, models)
            curves = figures.rocs(findings.rocs.get((name, protocol, degradation), {}), models)
            parts += [
                tag("h3", title),
                tag("p", f"{rows[0].genuine:,} genuine and {rows[0].impostors:,} impostor pairs; ", *said, ".", class_="note"),
                pairs_table(rows, title), *_notes(rows), tag("div", charts, class_="charts") if charts else None,
                tag("h3", f"{title}: error rates"), rates_table(rows, f"{title}: error rates"),
                [tag("h3", f"{title}: ROC"), tag("div", curves, class_="charts")] if curves else None,
            ]
    return [part for part in parts if part is not None]


def _identification(findings: Findings, models: Sequence[str]) -> list[Html]:
    parts = []
    for degradation, alike in by_degradation(findings.identification).items():
        for name, rows in identified(alike).items():
            row, title = rows[0], f"{name}{f', {degradation}' if degradation else ''}"
            galleries = _listed(f"{images:,} images ({candidates:,} candidates, {mated:,} probes with a mate)"
                                for images, candidates, mated in zip(row.gallery, row.candidates, row.mated))
            parts += [tag("h3", title), tag("p", f"{row.probes:,} probes; gallery of {galleries}. In per cent, 95 % intervals by identity.", class_="note"),
                      searches_table(rows, title), *_notes(rows)]
            if findings.cmcs.get((name, degradation)):
                parts += [tag("h3", f"{title}: CMC"), tag("div", figures.cmcs(findings.cmcs[name, degradation], models), class_="charts")]
    return parts


def _differences(findings: Findings) -> list[Html]:
    if not findings.differences and not findings.comparisons:
        return []
    parts = []
    for name, protocol in dict.fromkeys((d["set"], d["protocol"]) for d in findings.differences):
        mine = [d for d in findings.differences if (d["set"], d["protocol"]) == (name, protocol)]
        parts += [tag("h3", f"{name}, {protocol}"), differences_table(mine, f"differences on {name}")]
    for key in dict.fromkeys((d["set"], d["protocol"], d["degradation"]) for d in findings.comparisons):
        mine = [d for d in findings.comparisons if (d["set"], d["protocol"], d["degradation"]) == key]
        title = f"{', '.join(filter(None, key))}: every two models"
        parts += [tag("h3", title), comparisons_table(mine, title)]
    units = _listed(dict.fromkeys(d["unit"] for d in [*findings.differences, *findings.comparisons]))
    parts += [tag("p", f"Both models on the same pairs or probes; 95 % intervals from the same resamples ({units}). Real: the interval excludes zero and, "
                  "where McNemar's test was made, its p, adjusted for the number of tests, is below 0.05. Not shown: these data do not tell the two apart.",
                  class_="note")]
    return parts


def _matrices(findings: Findings) -> list[Html]:
    shown = []
    for (name, protocol, degradation, model), matrix in matrices(findings.matrix).items():
        figure = headline(list(matrix.values()))
        title = f"{model} on {name}: {FIGURES.get(figure, figure)} (%)"
        shown.append(tag("div", tag("h3", title), matrix_table(matrix, figure, title),
                         tag("p", ", ".join(filter(None, [f"protocol {protocol}", degradation])), class_="note")))
    return [tag("p", f"{ACROSS[0].upper()}{ACROSS[1:]}.", class_="note"), tag("div", shown, class_="sides")] if shown else []


def _attention(findings: Findings) -> list[Html]:
    if not findings.faces:
        return []
    first = findings.faces[0]
    heads = ["HR face", *(f"{model}, HR" for model in first.on_hr), *(["LR face"] if first.on_lr else []), *(f"{model}, LR" for model in first.on_lr)]
    cells = [tag("span", head) for head in heads]
    for row in findings.faces:
        cells += [image(row.hr, "a face at 112 px"), *(image(overlay(row.hr, heat), f"where {model} looks") for model, heat in row.on_hr.items())]
        if row.on_lr:
            cells += [image(row.lr, "the same face at low resolution"),
                      *(image(overlay(row.lr, heat), f"where {model} looks") for model, heat in row.on_lr.items())]
    return [tag("p", f"{findings.faces_note}. Each face by itself: yellow is where that network looks most in that face.", class_="note"),
            tag("div", cells, class_="faces", style=f"grid-template-columns:repeat({len(heads)},minmax(0,1fr))"), *_heat_scale()]


def _distances(findings: Findings, models: Sequence[str]) -> list[Html]:
    if not findings.distances:
        return []
    row = findings.distances[0]
    return [
        tag("p", f"1 - cos of each network's attention maps ({'after' if row.space == 'maps' else 'before'} the sigmoid) and those of {row.teacher} at 112 px, over {row.faces} faces, block by block: "
            "on the same face, and on another face drawn at random. Faces are alike, so maps of two people are as well; what the distance to "
            "another face has beyond the distance to the same one is particular to the face.", class_="note"),
        distances_table(findings.distances, "distances of attention maps"),
        tag("div", figures.distances(findings.distances, models), class_="charts"),
    ]


def _errors(findings: Findings) -> list[Html]:
    parts = []
    for errors in findings.errors:
        sides = []
        for name, all_of, shown in (
            ("False accepts: different people, taken for one", errors.all_accepts, errors.accepts),
            ("False rejects: one person, taken for two", errors.all_rejects, errors.rejects),
        ):
            first = f"{all_of:,} in all, the worst {len(shown)} first." if shown else "none."
            sides.append(tag("div", tag("h3", name), tag("p", first, class_="note"), (_error(error) for error in shown)))
        heat = f" Heat: {errors.heat}." if errors.heat else ""
        parts += [tag("h3", f"{errors.model} on {errors.set} at {size_name(errors.size)}"),
                  tag("p", f"Each pair at {errors.judged}. No image comes twice on one side.{heat}", class_="note"), tag("div", sides, class_="sides")]
        if errors.heat:
            parts += _heat_scale()
    return parts


def _error(error: ShownError) -> Html:
    pictures = [image(face, name) for face, name in zip(error.faces, error.names)]
    pictures += [image(overlay(face, heat), f"where it looks in {name}") for face, heat, name in zip(error.faces, error.heat, error.names)]
    words = tag("figcaption", f"cosine {error.score:.3f}, threshold {error.threshold:.3f}", tag("small", f"{error.names[0]} · {error.names[1]}"))
    return tag("figure", tag("div", pictures), words, class_="error")


def _heat_scale() -> list[Html]:
    return [tag("div", class_="scale"), tag("p", tag("span", "least in this face"), tag("span", "most"), class_="note")]


def _notes(rows: Sequence[Row | IdentificationRow]) -> list[Html]:
    return [tag("p", note, class_="note") for note in dict.fromkeys(row.note for row in rows if row.note)]


def _firsts(rows: Sequence[Row | IdentificationRow]) -> list:
    """The first row of every set."""
    return [next(row for row in rows if row.set == name) for name in dict.fromkeys(row.set for row in rows)]


def _context(context: Mapping) -> Html | None:
    """All of it but what has a section of its own."""
    kept = {key: value for key, value in context.items() if key != "differences"}
    return facts(kept) if kept else None


def _listed(names) -> str:
    *most, last = [str(name) for name in names] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
