"""Which differences between networks are real: paired resamples of the same people on the same set."""
from __future__ import annotations

from dataclasses import asdict

from askd.evaluation.intervals import Interval, percentiles
from askd.evaluation.report import FULL_SIZE, NATIVE, Size, size_name
from askd.evaluation.scored import Scored
from askd.evaluation.verification import PROTOCOLS

HEADLINES = ("accuracy", "auc", "rank-1", "TPIR @ FPIR 0.01", "TPIR @ FPIR 0.1")
HEADROOM = "headroom: teacher at 112 px - baseline"
GAIN = "A-SKD: student - baseline"


def compare(scored: dict[tuple[str, str, Size, str], Scored], sizes: list[int], protocol: str) -> list[dict]:
    """Headroom first (teacher at 112 minus baseline at each training size), then student minus baseline there.

    scored: by (set, role, size, protocol); pairs are compared under `protocol` alone. A set of native size has no headroom:
    there is no image of it at 112. As JSON values.
    """
    found = []
    for name, by in dict.fromkeys((name, by) for name, _, _, by in scored if by == protocol or by not in PROTOCOLS):
        for size in (*sizes, NATIVE):
            for what, first, second in (
                (HEADROOM, ("teacher", FULL_SIZE), ("baseline", size)), (GAIN, ("student", size), ("baseline", size)),
            ):
                a, b = (scored.get((name, *which, by)) for which in (first, second))
                if a is None or b is None:
                    continue
                for figure in sorted({*a.figures, *b.figures} & set(HEADLINES)):
                    interval = difference(a, b, figure)
                    if interval.value is not None:
                        known = {key: value for key, value in asdict(interval).items() if key != "resamples"}
                        found.append({"set": name, "what": what, "size": size, "figure": figure, "protocol": by, **known})
    return found


def difference(first: Scored, second: Scored, figure: str) -> Interval:
    """First minus second with its 95 % interval, from the same resamples; two models scored on the same set."""
    a, b = first.figures[figure], second.figures[figure]
    column = list(first.figures).index(figure)
    return percentiles(None if a is None or b is None else a - b, first.drawn[:, column] - second.drawn[:, column], first.resamples.unit)


def differences_text(differences: list[dict]) -> str:
    """One line per difference, in points (hundredths), with its 95 % interval and whether it excludes zero."""
    lines = []
    width = max((len(d["figure"]) for d in differences), default=0)
    for d in differences:
        low, high = ("  ?", "  ?") if d["low"] is None else (f"{100 * d['low']:+.2f}", f"{100 * d['high']:+.2f}")
        real = "" if d["low"] is None or d["low"] <= 0 <= d["high"] else "  *"
        lines.append(f"{d['set']:<14} {size_name(d['size']):>6}  {d['what']:<40} {d['figure']:<{width}} "
                     f"{100 * d['value']:+.2f} [{low}, {high}]{real}")
    return "\n".join(lines + ["(points; 95 % interval; * excludes zero)"]) if lines else ""


def differences_markdown(differences: list[dict]) -> str:
    """The same lines as a code block."""
    return f"```\n{differences_text(differences)}\n```\n" if differences else ""
