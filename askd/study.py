"""Several methods under one protocol: one shared teacher per seed, every method under the same order, flips and schedule, paired by seed.

Where no method needs a teacher there is none. Runs are resumable one by one: each finished run is a line of OUT/results.jsonl, and a line that is there is not run again.
"""
from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch

from askd import cli
from askd.backbone import build_backbone
from askd.benchmark import benchmark, open_sets
from askd.data.gallery import IdentificationSet
from askd.diagnose import examine, set_of_pairs
from askd.distill import check_data, check_first, find_teacher
from askd.engine import dist
from askd.engine.processes import Launch, in_parallel
from askd.errors import CheckpointError, RecipeError, TrainingError
from askd.evaluation.comparison import plot_differences, tables
from askd.evaluation.learner_comparison import learner_table, plot_similarities
from askd.method import teaches
from askd.models.ensemble import Ensemble
from askd.recipe import epochs, fill_defaults, load, method_keys
from askd.resources import list_resources
from askd.schema import Recipe
from askd.step_time import seconds_per_step
from askd.study_plan import USAGE, Job, Study, degradation_scored, parse
from askd.teach import choose_device, train_role
from askd.teachers import load_network, weights_hash
from askd.training_data import open_training

WHAT = "Compare methods on one recipe: teacher, baseline and every method, over sizes and seeds, with paired intervals and cost."


def main(argv: list[str]) -> None:
    """`python -m askd.study recipe=NAME methods=[...] ...`, or `report FILE.jsonl`; `run` is one run, in a process of its own."""
    if argv[:1] == ["run"]:
        return run_one(argv[1:])
    if argv[:1] == ["report"] and len(argv) == 2:
        if not Path(argv[1]).is_file():
            raise CheckpointError(f"{argv[1]}: no such file; give a study's results.jsonl")
        return print(report(read(Path(argv[1])), argv[1]))
    study, dry = parse(argv)
    recipe = check(study)
    results = study.out / "results.jsonl"
    pending = [job for job in (*study.teachers(), *study.students()) if find_line(study, job, read(results)) is None]
    if dry:
        print(plan(study, recipe, pending))
        return
    study.out.mkdir(parents=True, exist_ok=True)
    failed = run_all(study, results)
    lines = [line for job in (*study.teachers(), *study.students()) if (line := find_line(study, job, read(results))) is not None]
    if len(lines) > sum(line["method"].startswith("teacher") for line in lines):
        write_report(study, recipe, lines)
        print(f"\n{study.out / 'report.md'}, {study.out / 'differences.png'}, {results}")
    if failed:
        raise TrainingError(f"{len(failed)} runs failed ({'; '.join(failed)}); the others stand, and the same command takes these up again")


def check(study: Study) -> Recipe:
    """Find before any run what would stop one of them: every method against the teacher; the base recipe."""
    seed, plain = study.seeds[0], study.plain()
    check_keys(study)
    galleries = [one.name for one in open_sets(plain) if isinstance(one, IdentificationSet)]
    if galleries:
        raise RecipeError(f"eval.sets: {', '.join(galleries)} has no pairs, by which a study compares; leave it to askd.benchmark")
    for method in study.methods:
        arguments = study.arguments(Job(method, study.sizes[0], seed))
        recipe = load(arguments)
        if study.needs_teacher(method):
            check_first(recipe, arguments)
        else:
            check_data(recipe)
            build_backbone(recipe, "baseline", None)
        if study.role(method) == "baseline" and not recipe.head.weight:
            raise RecipeError(f"head.weight=0 leaves the baseline nothing to learn; drop {method} from methods=, or take another recipe")
        if plain.network.ensemble not in (None, recipe.network.ensemble):
            raise RecipeError(
                f"{plain.name} is an ensemble already, and so is its baseline, with which {method}, another ensemble, would be compared; "
                f"give recipe= one network (network.ensemble=null), or drop {method}"
            )
    return load([study.given[0], *study.arguments(Job("teacher", (112,), seed))[1:]])


def check_keys(study: Study) -> None:
    """RecipeError for keys that would make methods other than they are called, or unequal in what is not theirs."""
    given = [argument.split("=", 1)[0] for argument in study.given[1:]]
    for key in given:
        if key.startswith("teacher.") and not study.teachers():
            raise RecipeError(f"{key}= is about teachers, and none of {', '.join(study.methods)} needs one; drop it")
        if key.split(".")[0] == "distill":
            raise RecipeError(f"{key}= would reach every method, and the baseline too; write it into a method of your own (methods=[base,./mine.yaml])")
    for method in study.methods:
        for own in sorted(method_keys(method)):
            if own.split(".")[0] not in ("distill", "network", "head"):
                raise RecipeError(f"method {method} sets {own}, which all methods of a study must share; set it for all of them, on the command line")
            if won := [key for key in given if f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}.")]:
                raise RecipeError(f"{won[0]}= has the last word, also over method {method}, which sets {own}; drop one of the two")


def find_line(study: Study, job: Job, lines: list[dict]) -> dict | None:
    """The finished run of a job, scored at its sizes, with its very settings and, where its method needs one, taught by its seed's teacher."""
    standing = study.teacher_of(job)
    teacher = find_line(study, standing, lines) if standing else None
    key = {
        "recipe": study.recipe_name(), "method": job.label, "sizes": list(job.sizes), "seed": job.seed, "settings": study.settings(job),
        "teacher": teacher and teacher["sha256"],
    }
    sizes = set(study.scored_at(job))

    def fits(line: dict) -> bool:
        stored = {**line, "settings": _of_today(line["settings"], key["settings"])}
        if job.method != "teacher" and standing is None:  # lines from before say which teacher there was, of which the method took nothing
            stored |= {"teacher": None, "settings": {**stored["settings"], "teacher": None}}
        return all(stored[part] == value for part, value in key.items())

    return next((line for line in lines if fits(line) and sizes <= set(line.get("scored_at") or (row["size"] for row in line["rows"]))), None)


def scored_before(study: Study, job: Job, lines: list[dict]) -> dict | None:
    """What another seed's line says of the teacher that both are given: the same weights, scored in the same way, have the same figures."""
    checkpoint = None if job.method != "teacher" or job.network else load(study.arguments(job)).teacher.checkpoint
    if checkpoint is None:
        return None
    alike = [line for seed in study.seeds if (line := find_line(study, replace(job, seed=seed), lines)) is not None and line["path"] == checkpoint]
    if not alike or weights_hash(load_network(Path(checkpoint))[0]) != alike[0]["sha256"]:
        return None
    return {part: alike[0][part] for part in ("path", "sha256", "rows", "cost", "learners") if part in alike[0]}


def _of_today(stored: dict, ours: dict) -> dict:
    """The settings of a line, with the defaults of keys that came after it was written."""
    sections = {name: part for name, part in stored.items() if isinstance(part, dict) and name not in ("rendered", "scored")}
    scored = {"scored": {"degradation": ours["scored"]["degradation"], **stored["scored"]}} if "scored" in stored else {}
    return {**stored, **fill_defaults({"recipe": ours}, {"recipe": sections})["recipe"], **scored}


def read(path: Path) -> list[dict]:
    """The lines of a results file, none where it does not exist; CheckpointError names a line that is no JSON."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            raise CheckpointError(f"{path}:{number} is no line of JSON, cut short perhaps; remove it to take up its run again") from None
    return lines


def run_all(study: Study, results: Path) -> list[str]:
    """Run what has no line yet, teachers first, `jobs` at a time; returns what failed, a phrase each."""
    failed: list[str] = []
    lock = threading.Lock()
    logs = study.out / "logs"
    logs.mkdir(exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(study.threads)} if study.threads else {}

    def run(job: Job, launch: Launch) -> None:
        with lock:
            lines = read(results)
        standing = study.teacher_of(job)
        teacher = find_line(study, standing, lines) if standing else None
        if find_line(study, job, lines) is not None:
            return
        if standing and teacher is None:
            failed.append(f"{job}: no teacher")
            return
        given = scored_before(study, job, lines)
        if given is None:
            log, outcome = (logs / f"{job.name(study.recipe_name())}_seed{job.seed}.{kind}" for kind in ("txt", "json"))
            arguments = [f"job={job.method}", f"outcome={outcome}", *study.arguments(job, teacher and teacher["path"])]
            print(f"begun: {job}", file=sys.stderr)
            if launch([sys.executable, "-m", "askd.study", "run", *arguments], log, environment):
                *_, last = ["nothing said", *log.read_text().splitlines()]
                failed.append(f"{job}: {last} (see {log})")
                return
            given = json.loads(outcome.read_text())
        line = {
            "recipe": study.recipe_name(), "method": job.label, "sizes": job.sizes, "seed": job.seed, "settings": study.settings(job),
            "teacher": teacher and teacher["sha256"], "scored_at": study.scored_at(job), **given,
        }
        with lock, open(results, "a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"done: {job}", file=sys.stderr)

    in_parallel(run, (study.teachers(), study.students()), study.jobs)
    return failed


def run_one(argv: list[str]) -> None:
    """One job in this process: train it, score it, and write what came of it to `outcome`."""
    options = dict(argument.split("=", 1) for argument in argv)
    method, outcome = options["job"], Path(options["outcome"])
    arguments = [argument for argument in argv if not argument.startswith(("job=", "outcome="))]
    recipe, began = load(arguments), time.time()
    with dist.init_from_env(choose_device(recipe)) as device:
        if method == "teacher":
            role, folder = "teacher", find_teacher(recipe, arguments, device)
        else:
            role = "student" if teaches(recipe) else "baseline"
            folder = train_role(recipe, role, device, Path(recipe.teacher.checkpoint) if recipe.teacher.checkpoint is not None else None)
        memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
        scored = Path(recipe.out) / recipe.name / "benchmark" / f"seed{recipe.seed}"
        benchmark(recipe, {role: folder}, scored, device)
        network, meta = load_network(folder)
        learners = {}
        if isinstance(network, Ensemble):
            learners = {"learners": examine(recipe, network.eval().requires_grad_(False).to(device), min(meta["sizes"]), *set_of_pairs(recipe), device)}
    log = folder / "metrics.jsonl"
    given = method == "teacher" and recipe.teacher.checkpoint is not None
    rates = [] if given or not log.is_file() else [
        line["images_per_second"] for line in map(json.loads, log.read_text().splitlines()) if "images_per_second" in line
    ]
    here = bool(rates) and log.stat().st_mtime >= began  # or it had been trained already, and this process has only scored it
    document = {
        "path": str(folder), "sha256": weights_hash(network), "rows": json.loads((scored / "results.json").read_text())["rows"],
        "cost": {"images_per_second": statistics.median(rates), "memory_gb": memory / 2**30 if here else None} if rates else None, **learners,
    }
    outcome.write_text(json.dumps(document))


def plan(study: Study, recipe: Recipe, pending: list[Job]) -> str:
    """What would run, and for how long: every method's step is timed on this machine, on images of noise."""
    faces = open_training(recipe)[1]
    per_epoch = len(faces) // recipe.train.batch
    seconds: dict[str, float] = {}
    steps: dict[str, int] = {}
    lines = [f"{recipe.name}: {len(faces)} images of {len(faces.class_names)} people, batches of {recipe.train.batch}, {per_epoch} an epoch"]
    for job in (*study.teachers(), *study.students()):
        if job.method == "teacher" and not job.network and recipe.teacher.checkpoint is not None:
            lines.append(f"  {job}: {'is there: scored only' if job in pending else 'done'}")
            seconds[job.label], steps[job.label] = 0, 0
            continue
        if job.label not in seconds:
            timed, role = study.trained_by(job) if job.method == "teacher" else (load(study.arguments(job)), study.role(job.method))
            seen = faces if job.method != "teacher" else open_training(timed)[1]
            seconds[job.label] = seconds_per_step(timed, role == "student", len(seen.class_names), torch.device(choose_device(timed)))
            steps[job.label] = max(round(epochs(timed, role) * (len(seen) // timed.train.batch)), 1)
        state = f"about {steps[job.label] * seconds[job.label] / 60:.0f} min" if job in pending else "done"
        lines.append(f"  {job}: {state}")
    total = sum(steps[job.label] * seconds[job.label] for job in pending)
    lines.append(f"{len(pending)} runs, about {total / 3600:.1f} hours of steps, one at a time and without evaluation (jobs={study.jobs})")
    return "\n".join(lines)


def report(lines: list[dict], source: str = "results") -> str:
    """The tables of a results file, by recipe; also of older files, whose lines hold teacher, baseline and student at once.

    Of several lines of one run, of each size the last counts. CheckpointError where a line of `source` is of something else than a study.
    """
    groups: dict[str, list[dict]] = {}
    for number, line in enumerate(lines, 1):
        if missing := {"recipe", "seed", "settings", "rows"} - (line.keys() if isinstance(line, dict) else set()):
            raise CheckpointError(f"{source}:{number} is no study's: it has no {', '.join(sorted(missing))}; give a results.jsonl of askd.study")
        if "method" in line:
            groups.setdefault(line["recipe"], []).append(line)
            continue
        for role, method in (("teacher", "teacher"), ("baseline", "base"), ("student", "student")):
            rows = [row for row in line["rows"] if row["model"] == role]
            sizes = [112] if role == "teacher" else line["settings"]["sizes"]
            group = groups.setdefault(f"{line['recipe']}, {json.dumps(line['settings'], sort_keys=True)}", [])
            group.append({"method": method, "sizes": sizes, "seed": line["seed"], "rows": rows, "cost": None})
    return "\n".join(f"## {name}\n\n{tables(group)}\n{learner_table(group)}" for name, group in groups.items())


def write_report(study: Study, recipe: Recipe, lines: list[dict]) -> None:
    """OUT/report.md, which states the protocol, OUT/differences.png and, of ensembles, OUT/similarities.png."""
    apart = ", but for those that change the network, which have a teacher of their own" if any(job.network for job in study.teachers()) else ""
    missing = len(study.teachers()) + len(study.students()) - len(lines)
    data, network, learns = recipe.data, recipe.network, recipe.train
    trained_at = " | ".join("+".join(map(str, sizes)) for sizes in study.sizes)
    besides = [f"{method}: {', '.join(own)}" for method in study.methods if (own := study.besides(method))]
    differing = f" Besides `distill`, these methods differ from the recipe in: {'; '.join(besides)}." if besides else ""
    shared = f"one teacher per seed, shared by all methods{apart}" if study.teachers() else "no teacher: no method needs one"
    starts = dict.fromkeys(load(study.arguments(job)).network.init for job in study.students())
    teacher = f" (the teacher {origin})" if (origin := teacher_origin(study, recipe)) else ""
    text = [
        f"# {recipe.name}: {', '.join(study.methods)}", "",
        f"Seeds {', '.join(map(str, study.seeds))}; {shared}; training at {trained_at} px of "
        f"{data.set}, degradation {data.degradation.name}, scored with {degradation_scored(recipe)}; "
        f"{network.backbone} with {network.attention.name}, started from {' or '.join(starts)}; "
        f"{learns.epochs:g} epochs{teacher} of batches of {learns.batch}, {learns.optimizer.name}, {learns.schedule.name}; "
        f"checkpoint: {recipe.eval.select}. Of one seed all runs have the same images in the same order with the same flips and sizes, the same "
        f"schedule, and, where network and start are the same, the same weights to start from.{differing} Differences are paired by "
        "seed; intervals are Student's t over seeds, and say how training varies, not how the test people do. Of intervals "
        "without any true difference one in twenty excludes 0 all the same: of a table with many, expect some.",
        "", f"    {study.command()}", "",
        *([f"**Unfinished: {missing} runs are missing.**", ""] if missing else []), tables(lines), learner_table(lines),
    ]
    if plot_differences(lines, study.out / "differences.png"):
        text.append("![differences](differences.png)\n")
    if plot_similarities(lines, study.out / "similarities.png"):
        text.append("![cosines between learners](similarities.png)\n")
    partial = study.out / "report.md.tmp"
    partial.write_text("\n".join(text))
    os.replace(partial, study.out / "report.md")
    print("\n".join([tables(lines), learner_table(lines)]))


def teacher_origin(study: Study, recipe: Recipe) -> str:
    """Where the teachers' weights come from, in words: how many epochs, by which recipe, or which checkpoint; nothing without teachers."""
    if not study.teachers():
        return ""
    if recipe.teacher.checkpoint is not None:
        return f"given as {recipe.teacher.checkpoint}"
    teaching, role = study.trained_by(study.teachers()[0])
    return f"{epochs(teaching, role):g}" + (f" by recipe {teaching.name}" if teaching.name != recipe.name else "")


if __name__ == "__main__":
    cli.run("study", f"{WHAT} Ready ones (study=NAME): {', '.join(list_resources('studies'))}.", main, USAGE)
