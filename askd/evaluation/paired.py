"""Which of several models is better, and is that real? Every two on the same cases: an interval over people, and McNemar's test."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from askd.evaluation.differences import HEADLINES, difference
from askd.evaluation.mcnemar import holm, mcnemar
from askd.evaluation.report import Size, size_name
from askd.evaluation.scored import Scored, ScoredPairs
from askd.evaluation.tables import MOST_WITH_INTERVALS, in_parts
from askd.evaluation.verification import PROTOCOLS

Cell = tuple[str, str, str, Size, str]  # set, model, degradation, size, protocol
COMPARED = (*HEADLINES, "TAR @ FAR 0.001")
ALPHA = 0.05
LEGEND = ("points; 95 % intervals of the difference over the same resampled people (pairs, where people are unknown); p: McNemar's exact test,"
          " Holm-adjusted over the set's comparisons; * real: the interval excludes 0 and, where there is a p, it is below 0.05")


def compare_models(scored: dict[Cell, Scored], protocol: str) -> list[dict]:
    """Every two models at each degradation and size of each set, pairs under `protocol` alone: JSON values, in the order of `scored`.

    `mcnemar` belongs to accuracy and rank-1, `p_holm` is adjusted over all tests of its set. `real`: see LEGEND.
    """
    places: dict[tuple, list[tuple[str, Scored]]] = {}
    for (name, model, degradation, size, by), found in scored.items():
        if by == protocol or by not in PROTOCOLS:
            places.setdefault((name, degradation, size, by), []).append((model, found))
    entries = [
        {"set": name, "degradation": degradation, "size": size, "protocol": by, "first": one, "second": two, **tested}
        for (name, degradation, size, by), models in places.items()
        for (one, a), (two, b) in combinations(models, 2) for tested in _tests(a, b)
    ]
    for family in {(entry["set"], entry["protocol"]) for entry in entries}:
        tests = [entry for entry in entries if entry["mcnemar"] and (entry["set"], entry["protocol"]) == family]
        for entry, p in zip(tests, holm([entry["mcnemar"]["p"] for entry in tests])):
            entry["mcnemar"]["p_holm"] = p
    for entry in entries:
        excludes = entry["low"] is not None and not entry["low"] <= 0 <= entry["high"]
        entry["real"] = excludes and (entry["mcnemar"] is None or entry["mcnemar"]["p_holm"] < ALPHA)
    return entries


def _tests(a: Scored, b: Scored) -> list[dict]:
    tested = []
    counted = "accuracy" if isinstance(a, ScoredPairs) else "rank-1"
    for figure in COMPARED:
        if figure in a.figures and (interval := difference(a, b, figure)).value is not None:
            cases = None
            if figure == counted and a.decided is not None and b.decided is not None:
                found = mcnemar(a.decided, b.decided)
                cases = {"first_only": found.first_only, "second_only": found.second_only, "p": found.p}
            tested.append({"figure": figure, "value": interval.value, "low": interval.low, "high": interval.high, "level": interval.level,
                           "unit": interval.unit, "mcnemar": cases})
    return tested


def comparison_tables(entries: Sequence[dict]) -> list[Table]:
    """Terminal tables for each set, degradation and headline figure (accuracy, else AUC; rank-1): two models down, sizes across."""
    tables = []
    for (name, degradation, by, figure), chosen in _grouped(entries).items():
        for shown in in_parts(list(dict.fromkeys(entry["size"] for entry in chosen)), MOST_WITH_INTERVALS):
            table = Table(title=f"{name}, {degradation}: differences in {figure}, protocol {by}", caption=LEGEND, box=SIMPLE_HEAD, min_width=76,
                          title_justify="left", caption_justify="left")
            table.add_column("first - second", style="bold", overflow="fold")
            for size in shown:
                table.add_column(size_name(size), justify="right", no_wrap=True)
            cells = {(entry["first"], entry["second"], entry["size"]): _cell(entry) for entry in chosen}
            for first, second in dict.fromkeys((entry["first"], entry["second"]) for entry in chosen):
                table.add_row(f"{first} - {second}", *(cells.get((first, second, size), "–") for size in shown))
            tables.append(table)
    return tables


def comparisons_markdown(entries: Sequence[dict]) -> str:
    """Every comparison as a line of a table; empty where there are none."""
    if not entries:
        return ""
    lines = ["## Differences between models", "", LEGEND, "",
             "| set | degradation | size | protocol | figure | first - second | points | 95 % interval | by | McNemar | p (Holm) | real |",
             "|---|---|---:|---|---|---|---:|---:|---|---:|---:|---|"]
    for entry in entries:
        cases = entry["mcnemar"]
        split, p = (f"{cases['first_only']}:{cases['second_only']}", _p(cases["p_holm"])) if cases else ("–", "–")
        names = f"{entry['first']} - {entry['second']}".replace("|", "\\|")
        lines.append(f"| {entry['set']} | {entry['degradation']} | {entry['size']} | {entry['protocol']} | {entry['figure']} | {names} | "
                     f"{100 * entry['value']:+.2f} | {_ends(entry)} | {entry['unit']} | {split} | {p} | {'yes' if entry['real'] else 'no'} |")
    return "\n".join(lines) + "\n"


def _grouped(entries: Sequence[dict]) -> dict[tuple[str, str, str, str], list[dict]]:
    found: dict[tuple[str, str, str, str], list[dict]] = {}
    with_accuracy = {entry["set"] for entry in entries if entry["figure"] == "accuracy"}
    for entry in entries:
        headline = "rank-1" if entry["figure"] == "rank-1" else "accuracy" if entry["set"] in with_accuracy else "auc"
        if entry["figure"] == headline:
            found.setdefault((entry["set"], entry["degradation"], entry["protocol"], headline), []).append(entry)
    return found


def _cell(entry: dict) -> str:
    p = f"\np {_p(entry['mcnemar']['p_holm'])}" if entry["mcnemar"] else ""
    return f"{100 * entry['value']:+.2f}{' *' if entry['real'] else '  '}\n{_ends(entry)}{p}"


def _ends(entry: dict) -> str:
    return "–" if entry["low"] is None else f"[{100 * entry['low']:+.2f}, {100 * entry['high']:+.2f}]"


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
