"""Methods over seeds: tables of means, paired differences to the baseline with Student's t intervals, cost, and the figure of it all.

A line is one finished run: {"method", "sizes", "seed", "rows", "cost"}; sizes are the pixels it was trained at, rows are report.Row as
JSON has it, cost is {"images_per_second", "memory_gb"} or None, its memory None where it was not measured. The method `teacher` is the
shared teacher, `base` the baseline; methods that change the network (`askd+se`) have a baseline `base+se` and a teacher
`teacher, attention=se` of their own.
"""
from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from askd.evaluation.intervals import Interval, mean_and_t_interval

Values = dict[int, float]  # by seed
FAR = "0.001"  # of which tables give TAR; written as rows have it
TAR = f"TAR at FAR {FAR}"
FOR_ALL = ", one for all sizes"
FIGURES = ("accuracy", "auc", TAR)


def label_of(line: dict) -> str:
    """A run's name in tables: its method, and whether one network serves several sizes."""
    return line["method"] if len(line["sizes"]) == 1 else line["method"] + FOR_ALL


def baseline_of(label: str, labels: Sequence[str]) -> str:
    """The baseline that a label is compared with: of those there are the one that changes most of what it changes, else the plainest."""
    own = set(label.split(", ")[0].split("+"))
    fitting = [other for other in labels if other != label and other.startswith("base+") and set(other.split("+")[1:]) <= own]
    return max(fitting, key=lambda other: other.count("+"), default=plainest(labels))


def plainest(labels: Sequence[str]) -> str:
    """The baseline that all is held against: `base`, else the first of its kin (`base+from_random`), else the first method of all."""
    alone = [label for label in labels if label.split(",")[0] != "teacher" and not label.endswith(FOR_ALL)]
    return min(alone, key=lambda label: (label != "base", not label.startswith("base+")), default="base")


def compared(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Every label that is compared, with what it is compared with: its baseline; teachers and the plainest baseline itself are not.

    One network for all sizes is compared with the same method's students of one size each, which says what sharing costs or gives, and with
    the baseline's network for all sizes, which says what the method does; with `base` where the study has neither.
    """
    pairs = []
    for label in labels:
        alone = label.removesuffix(FOR_ALL)
        if label == plainest(labels) or alone.split(",")[0] == "teacher":
            continue
        base = baseline_of(alone, labels)
        others = [base] if label == alone else [other for other in (alone, base + FOR_ALL) if other in labels and other != label] or [base]
        pairs += [(label, other) for other in others]
    return pairs


def values_of(lines: Sequence[dict], label: str, size: int, name: str, protocol: str, figure: str) -> Values:
    """A figure of one label at one size on one set under one protocol, by seed; seeds without it are left out."""
    return {
        line["seed"]: value for line in lines if label_of(line) == label for row in line["rows"]
        if (row["set"], row["protocol"], row["size"]) == (name, protocol, size) and (value := figure_of(row, figure)) is not None
    }


def figure_of(row: dict, figure: str) -> float | None:
    """One of FIGURES of a row; None where the set cannot give it: accuracy without folds, TAR with fewer impostors than 1 / FAR."""
    return row.get("tar", {}).get(FAR) if figure == TAR else row[figure]


def paired(first: Values, second: Values) -> tuple[list[float], Interval] | None:
    """Differences first - second in points of the seeds that both have, and their t interval; None where there is no such seed."""
    seeds = sorted(first.keys() & second.keys())
    points = [100 * (first[seed] - second[seed]) for seed in seeds]
    return (points, mean_and_t_interval(points)) if points else None


def tables(lines: Sequence[dict]) -> str:
    """Markdown: per set, protocol and figure a table of means, then headroom and differences to the baseline, then the cost."""
    parts = []
    labels = list(dict.fromkeys(label_of(line) for line in lines))
    for name, protocol in dict.fromkeys((row["set"], row["protocol"]) for line in lines for row in line["rows"]):
        for figure in FIGURES:
            sizes = sorted({row["size"] for line in lines for row in line["rows"] if row["set"] == name}, reverse=True)
            cells = {(label, size): values_of(lines, label, size, name, protocol, figure) for label in labels for size in sizes}
            if any(cells.values()):
                title = f"### {name}, protocol {protocol}: {figure} (%)"
                parts += [title, _means(labels, sizes, cells, one_network(lines)), _differences(labels, sizes, cells)]
    costs = [line for line in lines if line["cost"]]
    return "\n\n".join([*filter(None, parts), *(["### Cost of training", _cost(costs)] if costs else [])]) + "\n"


def one_network(lines: Sequence[dict]) -> set[str]:
    """Labels of which every line is of the very same weights, as a given teacher's of all seeds: it has no spread over seeds."""
    hashes: dict[str, dict[int, str | None]] = {}  # by label and seed; one seed may have lines of several sizes
    for line in lines:
        hashes.setdefault(label_of(line), {})[line["seed"]] = line.get("sha256")
    return {label for label, found in hashes.items() if len(found) > 1 and len(set(found.values())) == 1 and None not in found.values()}


def _means(labels: Sequence[str], sizes: Sequence[int], cells: dict[tuple[str, int], Values], single: set[str]) -> str:
    rows = [["mean ± standard deviation over seeds (how many)", *(f"{size} px" for size in sizes)]]
    for label in labels:
        row = [label]
        for size in sizes:
            found = [100 * value for value in cells[label, size].values()]
            spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 and label not in single else ""
            many = "one for all" if label in single else len(found)
            row.append(f"{statistics.fmean(found):.2f}{spread} ({many})" if found else "")
        rows.append(row)
    return grid(rows)


def _differences(labels: Sequence[str], sizes: Sequence[int], cells: dict[tuple[str, int], Values]) -> str:
    rows = [["difference, in points", "px", "per seed", "mean [95 % t interval]", "t interval excludes 0"]]
    largest, plain = max(sizes), plainest(labels)
    for size in sizes:
        pairs = {f"headroom: teacher at full resolution - {plain}": paired(cells.get(("teacher", largest), {}), cells.get((plain, size), {}))}
        pairs |= {f"{label} - {base}": paired(cells[label, size], cells.get((base, size), {})) for label, base in compared(labels)}
        for what, found in pairs.items():
            if found is not None:
                points, interval = found
                bounds = "one seed: none" if interval.low is None else f"{interval.low:+.2f}, {interval.high:+.2f}"
                real = "" if interval.low is None else "yes" if interval.low > 0 or interval.high < 0 else "no"
                rows.append([what, str(size), ", ".join(f"{p:+.2f}" for p in points), f"{interval.value:+.2f} [{bounds}]", real])
    return grid(rows) if len(rows) > 1 else ""


def _cost(lines: Sequence[dict]) -> str:
    labels = dict.fromkeys(label_of(line) for line in lines)
    plain = plainest(list(labels))
    rows = [["method", "images/s (median of runs)", f"of {plain}", "peak memory (GB)"]]
    rates = {label: statistics.median(line["cost"]["images_per_second"] for line in lines if label_of(line) == label) for label in labels}
    for label in labels:
        known = [line["cost"]["memory_gb"] for line in lines if label_of(line) == label and line["cost"]["memory_gb"] is not None]
        relative = f"{rates[label] / rates[plain]:.2f}" if rates.get(plain) else ""
        rows.append([label, f"{rates[label]:.1f}", relative, f"{max(known):.1f}" if known else ""])
    return grid(rows)


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Markdown table of cells, the first row its head."""
    head, *body = rows
    ruled = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def plot_differences(lines: Sequence[dict], path: str | os.PathLike) -> bool:
    """Each method's difference to the baseline, in points with t intervals and every seed a dot, a panel per set; False without any.

    Under the first protocol; accuracy where the set gives it, else AUC.
    """
    names = list(dict.fromkeys(row["set"] for line in lines for row in line["rows"]))
    pairs = compared(list(dict.fromkeys(label_of(line) for line in lines)))
    panels = []
    for name in names:
        rows = [row for line in lines for row in line["rows"] if row["set"] == name]
        protocol, figure = rows[0]["protocol"], "auc" if rows[0]["accuracy"] is None else "accuracy"
        bars = {}
        for size in sorted({row["size"] for row in rows}, reverse=True):
            for label, base in pairs:
                first, second = (values_of(lines, one, size, name, protocol, figure) for one in (label, base))
                if (found := paired(first, second)) is not None:
                    bars[f"{label}, {size} px" if base == "base" else f"{label} - {base}, {size} px"] = found
        if bars:
            panels.append((f"{name} ({protocol}): {figure}", bars))
    if not panels:
        return False
    rows = max(len(bars) for _, bars in panels)
    figure = Figure(figsize=(1.5 + 4.8 * len(panels), 1.4 + 0.32 * rows), layout="constrained")
    for axes, (title, bars) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for place, (points, interval) in enumerate(bars.values()):
            axes.plot(points, [place] * len(points), "o", color="0.7", markersize=4)
            axes.plot(interval.value, place, "D", color="tab:blue", markersize=6)
            if interval.low is not None:
                axes.plot([interval.low, interval.high], [place, place], color="tab:blue", linewidth=1.8)
        axes.axvline(0, color="0.4", linewidth=1)
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.set_xlabel("difference to the baseline (points), 95 % t interval over seeds")
        axes.set_title(title)
    partial = Path(path).with_name(Path(path).name + ".tmp")
    figure.savefig(partial, dpi=150, format="png")
    os.replace(partial, path)
    return True
