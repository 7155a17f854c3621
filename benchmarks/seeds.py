"""Run a recipe over several seeds and say what holds on average: headroom first, then A-SKD against the baseline.

    python benchmarks/seeds.py RECIPE SEEDS [jobs=1] [threads=N] [key=value ...]     for example: demo_full 3 jobs=2 threads=1

SEEDS is how many, from 0 on, or a list such as 0,2,5 (with one seed: 2,).
Each seed is one `python -m askd.distill recipe=RECIPE seed=K ...`; its benchmark is appended to benchmarks/results/RECIPE.jsonl
(one line per seed, with all settings its weights depend on); a seed already there with these very settings is not run again, and the
table is made of the lines with these settings alone.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from askd.data.cards import load_card
from askd.distill import teacher_recipe
from askd.evaluation.intervals import mean_and_t_interval
from askd.recipe import load, training_view
from askd.schema import Recipe

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    recipe_name, wanted = sys.argv[1:3]
    seeds = [int(seed) for seed in wanted.split(",") if seed] if "," in wanted else list(range(int(wanted)))
    options = dict(argument.split("=", 1) for argument in sys.argv[3:])
    jobs, threads = int(options.pop("jobs", 1)), options.pop("threads", None)
    given = [f"recipe={recipe_name}", *(f"{key}={value}" for key, value in options.items())]
    results = RESULTS / f"{load(given).name}.jsonl"
    settings = settings_of(load(given), given)
    done = {line["seed"] for line in read(results) if line["settings"] == settings}

    def run(seed: int) -> None:
        arguments = [*given, f"seed={seed}"]
        recipe = load(arguments)
        environment = {**os.environ, **({"OMP_NUM_THREADS": threads} if threads else {})}
        subprocess.run([sys.executable, "-m", "askd.distill", *arguments], check=True, env=environment)
        document = json.loads((Path(recipe.out) / recipe.name / "benchmark" / f"seed{seed}" / "results.json").read_text())
        RESULTS.mkdir(exist_ok=True)
        with open(results, "a") as file:
            file.write(json.dumps({"recipe": recipe.name, "seed": seed, "settings": settings, **document}, sort_keys=True) + "\n")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, [seed for seed in seeds if seed not in done]))
    summarise([line for line in read(results) if line["settings"] == settings])


def settings_of(recipe: Recipe, arguments: list[str]) -> dict:
    """What baseline and student depend on besides the seed: the student's training view and the teacher's."""
    view, teaching = training_view(recipe, "student"), training_view(teacher_recipe(recipe, arguments), "teacher")
    del view["seed"], teaching["seed"]
    rendered = load_card(recipe.data.set).render
    return {**view, "teacher": teaching, "rendered": asdict(rendered) if rendered else None}


def read(path: Path) -> list[dict]:
    """The lines of a results file, none where it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarise(lines: list[dict]) -> None:
    """Markdown: per set, protocol and model the mean over seeds at each size, and every difference with Student's t interval."""
    rows = [row for line in lines for row in line["rows"]]
    for name, protocol in dict.fromkeys((row["set"], row["protocol"]) for row in rows):
        mine = [row for row in rows if (row["set"], row["protocol"]) == (name, protocol)]
        figure = "accuracy" if mine[0]["accuracy"] is not None else "auc"
        sizes = sorted({row["size"] for row in mine}, reverse=True)
        print(f"\n{name}, protocol {protocol}: {figure} (%), mean ± standard deviation over {len(lines)} seeds\n")
        print("| model |" + "".join(f" {size} px |" for size in sizes) + "\n|---|" + "---:|" * len(sizes))
        for model in dict.fromkeys(row["model"] for row in mine):
            cells = [[100 * row[figure] for row in mine if (row["model"], row["size"]) == (model, size)] for size in sizes]
            print(f"| {model} |" + "".join(f" {mean(cell):.2f} ± {deviation(cell):.2f} |" for cell in cells))
    print("\n| difference (points) | set | px | figure | per seed | mean [95 % t interval] |\n|---|---|---:|---|---|---:|")
    found = [difference for line in lines for difference in line["context"]["differences"]]
    for key in dict.fromkeys((d["what"], d["set"], d["size"], d["figure"]) for d in found):
        values = [100 * d["value"] for d in found if (d["what"], d["set"], d["size"], d["figure"]) == key]
        interval = mean_and_t_interval(values)
        bounds = "one seed: none" if interval.low is None else f"{interval.low:+.2f}, {interval.high:+.2f}"
        print(f"| {' | '.join(map(str, key))} | {', '.join(f'{v:+.2f}' for v in values)} | {interval.value:+.2f} [{bounds}] |")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    return (sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
