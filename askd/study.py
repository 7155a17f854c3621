"""Several methods under one protocol: one shared teacher per seed, every method under the same order, flips and schedule, paired by seed.

Runs are resumable one by one: each finished run is a line of OUT/results.jsonl, and a line that is there is not run again.
"""
from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
import yaml

from askd import cli
from askd.backbone import build_backbone
from askd.benchmark import benchmark
from askd.data.cards import load_card
from askd.distill import check_first, find_teacher
from askd.distiller import Distiller, Trunk
from askd.engine import dist
from askd.engine.precision import choose_precision
from askd.engine.processes import Launch, in_parallel
from askd.errors import CheckpointError, RecipeError, TrainingError
from askd.evaluation.comparison import plot_differences, tables
from askd.method import make_head, make_identity, make_own_terms, make_projections, make_terms
from askd.recipe import epochs, load, training_view
from askd.schema import Recipe
from askd.teach import choose_device, train_role
from askd.teachers import Frozen, load_network, weights_hash
from askd.training_data import open_training

WHAT = "Compare methods on one recipe: teacher, baseline and every method, over sizes and seeds, with paired intervals and cost."
USAGE = "recipe=NAME methods=[base,askd,askd+kd] [sizes=[28,14,all]] [seeds=3] [out=study] [jobs=1] " \
        "[threads=N] [dry_run=true] [key=value ...]  |  report RESULTS.jsonl"
TIMED_STEPS = 3


@dataclass(frozen=True)
class Job:
    """One network to train: a method (or `teacher`) at training sizes with a seed."""

    method: str
    sizes: tuple[int, ...]
    seed: int

    def __str__(self) -> str:
        return f"{self.method} at {', '.join(map(str, self.sizes))} px, seed {self.seed}"

    def name(self, recipe: str) -> str:
        """Of its run folder."""
        return f"{recipe}_{'+'.join(Path(part).stem for part in self.method.split('+'))}_{'_'.join(map(str, self.sizes))}px"


@dataclass(frozen=True)
class Study:
    """What was asked for. given: recipe=NAME and key=value arguments of every run; sizes: the training sizes of each student."""

    given: tuple[str, ...]
    methods: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    seeds: tuple[int, ...]
    out: Path
    jobs: int
    threads: int | None

    def teachers(self) -> list[Job]:
        """One per seed."""
        return [Job("teacher", (112,), seed) for seed in self.seeds]

    def students(self) -> list[Job]:
        """Seed by seed, so that a study that is cut short has whole seeds."""
        return [Job(method, sizes, seed) for seed in self.seeds for sizes in self.sizes for method in self.methods]

    @cache
    def recipe_name(self) -> str:
        """Of the recipe that all methods are laid over."""
        return load([self.given[0]]).name

    @cache
    def settings(self, job: Job) -> dict:
        """All that a job's figures depend on besides its seed: its training view, its teacher's origin, what was rendered, what scores it."""
        recipe, role = load(self.arguments(job)), {"teacher": "teacher", "base": "baseline"}.get(job.method, "student")
        view = training_view(recipe, role)
        del view["seed"]
        rendered = load_card(recipe.data.set).render
        teacher = recipe.teacher.checkpoint or recipe.teacher.recipe or "this recipe"
        scored = {"sets": recipe.eval.sets, "protocols": [protocol.name for protocol in recipe.eval.protocols]}
        own = {"teacher": teacher, "rendered": asdict(rendered) if rendered else None, "scored": scored}
        return json.loads(json.dumps({**view, **own}))

    def arguments(self, job: Job, teacher: str | None = None) -> list[str]:
        """The command line of one run."""
        given = [argument.replace("{seed}", str(job.seed)) for argument in self.given]
        every = sorted({112, *(size for sizes in self.sizes for size in sizes)}, reverse=True) if job.method == "teacher" else job.sizes
        common = [*given, f"seed={job.seed}", f"out={self.out / 'runs'}", f"eval.sizes={list(every)}"]
        if job.method == "teacher":
            return common
        name = job.name(self.recipe_name())
        taught = [f"teacher.checkpoint={teacher}"] if teacher else []
        return [*common, f"method={job.method}", f"data.sizes={list(job.sizes)}", f"name={name}", *taught]


def main(argv: list[str]) -> None:
    """`python -m askd.study recipe=NAME methods=[...] ...`, or `report FILE.jsonl`; `run` is one run, in a process of its own."""
    if argv[:1] == ["run"]:
        return run_one(argv[1:])
    if argv[:1] == ["report"] and len(argv) == 2:
        return print(report(read(Path(argv[1]))))
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
    if any(line["method"] != "teacher" for line in lines):
        write_report(study, recipe, lines)
        print(f"\n{study.out / 'report.md'}, {study.out / 'differences.png'}, {results}")
    if failed:
        raise TrainingError(f"{len(failed)} runs failed ({'; '.join(failed)}); the others stand, and the same command takes these up again")


def parse(argv: list[str]) -> tuple[Study, bool]:
    """The study of a command line, and whether it is a dry run; RecipeError names what does not fit."""
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    if len(options) != len(argv) or "recipe" not in options or "methods" not in options:
        raise RecipeError(f"usage: python -m askd.study {USAGE}, got {' '.join(argv) or 'nothing'}")
    for key in ("method", "data.sizes", "eval.sizes", "seed", "name", "resume", "baseline.enabled", "after"):
        if key in options:
            raise RecipeError(f"{key} is the study's own to set; leave it out (methods=, sizes=, seeds=, out= say what to run)")
    own = {key: _value(key, options.pop(key, default)) for key, default in (
        ("methods", ""), ("sizes", "null"), ("seeds", "3"), ("out", "study"), ("jobs", "1"), ("threads", "null"), ("dry_run", "false"),
    )}
    given = (f"recipe={options.pop('recipe')}", *(f"{key}={value}" for key, value in options.items()))
    methods = tuple(map(str, _listed(own["methods"])))
    if len(set(methods)) != len(methods) or "teacher" in methods:
        raise RecipeError(f"methods= takes distinct methods, got {', '.join(methods)}; the teacher is trained anyway")
    listed = _listed(load([given[0]]).data.sizes if own["sizes"] is None else own["sizes"])
    alone = [size for size in listed if size != "all"]
    if not alone or not all(type(size) is int for size in alone) or len(set(listed)) != len(listed):
        raise RecipeError(f"sizes= takes distinct pixels and `all` (one student for 112 and all of them), got {own['sizes']}")
    sizes = tuple((size,) if size != "all" else tuple(dict.fromkeys((112, *alone))) for size in listed)
    seeds = tuple(range(own["seeds"])) if isinstance(own["seeds"], int) else tuple(_listed(own["seeds"]))
    for key, good, expected in (
        ("seeds", bool(seeds) and all(type(seed) is int and seed >= 0 for seed in seeds), "how many (3), or a list ([0,2])"),
        ("jobs", type(own["jobs"]) is int and own["jobs"] >= 1, "how many runs at a time"),
        ("threads", own["threads"] is None or type(own["threads"]) is int and own["threads"] >= 1, "CPU threads per run"),
        ("dry_run", isinstance(own["dry_run"], bool), "true or false"),
    ):
        if not good:
            raise RecipeError(f"{key}= says {expected}, got {own[key]}")
    return Study(given, methods, sizes, seeds, Path(str(own["out"])), own["jobs"], own["threads"]), own["dry_run"]


def _value(key: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"{key}={text} cannot be read; lists are written [a,b]") from None


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [value]


def check(study: Study) -> Recipe:
    """Find before any run what would stop one of them: every method against the teacher; the base recipe."""
    seed = study.seeds[0]
    for method in study.methods:
        arguments = study.arguments(Job(method, study.sizes[0], seed))
        recipe = load(arguments)
        check_first(recipe, arguments)
        if method == "base" and not recipe.head.weight:
            raise RecipeError("head.weight=0 leaves the baseline nothing to learn; drop base from methods=, or take another recipe")
    return load([study.given[0], *study.arguments(Job("teacher", (112,), seed))[1:]])


def find_line(study: Study, job: Job, lines: list[dict]) -> dict | None:
    """The finished run of a job, with its very settings and, for a student, taught by the teacher that stands for its seed."""
    taught_by = None
    if job.method != "teacher":
        teacher = find_line(study, Job("teacher", (112,), job.seed), lines)
        taught_by = teacher and teacher["sha256"]
    key = (study.recipe_name(), job.method, list(job.sizes), job.seed, study.settings(job), taught_by)
    parts = ("recipe", "method", "sizes", "seed", "settings", "teacher")
    return next((line for line in lines if tuple(line[part] for part in parts) == key), None)


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
        teacher = None if job.method == "teacher" else find_line(study, Job("teacher", (112,), job.seed), lines)
        if find_line(study, job, lines) is not None:
            return
        if job.method != "teacher" and teacher is None:
            failed.append(f"{job}: no teacher")
            return
        log, outcome = (logs / f"{job.name(study.recipe_name())}_seed{job.seed}.{kind}" for kind in ("txt", "json"))
        arguments = [f"job={job.method}", f"outcome={outcome}", *study.arguments(job, teacher and teacher["path"])]
        print(f"begun: {job}", file=sys.stderr)
        if launch([sys.executable, "-m", "askd.study", "run", *arguments], log, environment):
            *_, last = ["nothing said", *log.read_text().splitlines()]
            failed.append(f"{job}: {last} (see {log})")
            return
        line = {
            "recipe": study.recipe_name(), "method": job.method, "sizes": job.sizes, "seed": job.seed, "settings": study.settings(job),
            "teacher": teacher and teacher["sha256"], **json.loads(outcome.read_text()),
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
    recipe = load(arguments)
    with dist.init_from_env(choose_device(recipe)) as device:
        if method == "teacher":
            role, folder = "teacher", find_teacher(recipe, arguments, device)
        else:
            role = "baseline" if method == "base" else "student"
            folder = train_role(recipe, role, device, Path(recipe.teacher.checkpoint))
        scored = Path(recipe.out) / recipe.name / "benchmark" / f"seed{recipe.seed}"
        benchmark(recipe, {role: folder}, scored, device)
        memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    log = folder / "metrics.jsonl"
    logged = map(json.loads, log.read_text().splitlines() if log.is_file() else [])
    rates = [line["images_per_second"] for line in logged if "images_per_second" in line]
    network, _ = load_network(folder)
    document = {
        "path": str(folder), "sha256": weights_hash(network), "rows": json.loads((scored / "results.json").read_text())["rows"],
        "cost": {"images_per_second": statistics.median(rates), "memory_gb": memory / 2**30} if rates else None,
    }
    outcome.write_text(json.dumps(document))


def plan(study: Study, recipe: Recipe, pending: list[Job]) -> str:
    """What would run, and for how long: every method's step is timed on this machine, on images of noise."""
    faces = open_training(recipe)[1]
    per_epoch = len(faces) // recipe.train.batch

    def steps(job: Job) -> int:
        return max(round(epochs(recipe, "teacher" if job.method == "teacher" else "student") * per_epoch), 1)

    seconds: dict[str, float] = {}
    lines = [f"{recipe.name}: {len(faces)} images of {len(faces.class_names)} people, batches of {recipe.train.batch}, {per_epoch} an epoch"]
    for job in (*study.teachers(), *study.students()):
        if job.method not in seconds:
            seconds[job.method] = seconds_per_step(load(study.arguments(job)), job.method, len(faces.class_names))
        state = f"about {steps(job) * seconds[job.method] / 60:.0f} min" if job in pending else "done"
        lines.append(f"  {job}: {state}")
    total = sum(steps(job) * seconds[job.method] for job in pending)
    lines.append(f"{len(pending)} runs, about {total / 3600:.1f} hours of steps, one at a time and without evaluation (jobs={study.jobs})")
    return "\n".join(lines)


def seconds_per_step(
    recipe: Recipe, method: str, classes: int, clock: Callable[[], float] = time.perf_counter, build: Callable = build_backbone,
) -> float:
    """Median time of one training step (forward, backward, optimiser) of a method: `teacher` and `base` learn from labels alone.

    build: what makes the network, with build_backbone's arguments.
    """
    device = torch.device(choose_device(recipe))
    precision = choose_precision(recipe.precision.name, device)
    backbone = build(recipe, "teacher", None).to(device=device, memory_format=torch.channels_last)
    head = make_identity(recipe, classes)
    teacher, projections, terms = None, None, {}
    if method not in ("teacher", "base"):
        checkpoint = recipe.teacher.checkpoint
        network = load_network(checkpoint)[0] if checkpoint else build_backbone(recipe, "teacher", None)
        projections = make_projections(recipe, backbone, network)
        taught = make_head(recipe, network.head_hidden_size, classes).to(device).requires_grad_(False).eval()
        terms = make_terms(recipe, (head, taught))
        teacher = Frozen(network, device) if terms else None
    modules = [module.to(device) for module in (backbone, head, projections) if module is not None]
    distiller = Distiller(Trunk(backbone, projections), head, teacher, terms, recipe.head.weight, make_own_terms(recipe))
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, fused=True)
    images = torch.rand(2, recipe.train.batch, 3, 112, 112, device=device) * 2 - 1
    hr, lr = (image.contiguous(memory_format=torch.channels_last) for image in images)
    label = torch.randint(classes, (recipe.train.batch,), device=device)
    times = []
    for _ in range(TIMED_STEPS + 1):
        began = clock()
        optimizer.zero_grad()
        with precision.autocast():
            loss = distiller(hr, lr, label)["loss"]
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        times.append(clock() - began)
    return statistics.median(times[1:])


def report(lines: list[dict]) -> str:
    """The tables of a results file, by recipe; also of older files, whose lines hold teacher, baseline and student at once."""
    groups: dict[str, list[dict]] = {}
    for line in lines:
        if "method" in line:
            groups.setdefault(line["recipe"], []).append(line)
            continue
        for role, method in (("teacher", "teacher"), ("baseline", "base"), ("student", "student")):
            rows = [row for row in line["rows"] if row["model"] == role]
            sizes = [112] if role == "teacher" else line["settings"]["sizes"]
            group = groups.setdefault(f"{line['recipe']}, {json.dumps(line['settings'], sort_keys=True)}", [])
            group.append({"method": method, "sizes": sizes, "seed": line["seed"], "rows": rows, "cost": None})
    return "\n".join(f"## {name}\n\n{tables(group)}" for name, group in groups.items())


def write_report(study: Study, recipe: Recipe, lines: list[dict]) -> None:
    """OUT/report.md, which states the protocol, and OUT/differences.png."""
    missing = len(study.teachers()) + len(study.students()) - len(lines)
    data, network, learns = recipe.data, recipe.network, recipe.train
    trained_at = " | ".join("+".join(map(str, sizes)) for sizes in study.sizes)
    again = f"methods=[{','.join(study.methods)}] seeds=[{','.join(map(str, study.seeds))}]"
    text = [
        f"# {recipe.name}: {', '.join(study.methods)}", "",
        f"Seeds {', '.join(map(str, study.seeds))}; one teacher per seed, shared by all methods; training at {trained_at} px of "
        f"{data.set}, degradation {data.degradation.name}; {network.backbone} with {network.attention.name}, started from {network.init}; "
        f"{learns.epochs:g} epochs (the teacher {epochs(recipe, 'teacher'):g}) of batches of {learns.batch}, {learns.optimizer.name}, {learns.schedule.name}; "
        f"checkpoint: {recipe.eval.select}. Of one seed all runs have the same weights to start from, the same images in "
        "the same order with the same flips and sizes, and the same schedule; nothing was tuned per method. Differences are paired by "
        "seed; intervals are Student's t over seeds, and say how training varies, not how the test people do.",
        "", f"    python -m askd.study {' '.join(study.given)} {again}", "",
        *([f"**Unfinished: {missing} runs are missing.**", ""] if missing else []), tables(lines),
    ]
    if plot_differences(lines, study.out / "differences.png"):
        text.append("![differences](differences.png)\n")
    partial = study.out / "report.md.tmp"
    partial.write_text("\n".join(text))
    os.replace(partial, study.out / "report.md")
    print(tables(lines))


if __name__ == "__main__":
    cli.run("study", WHAT, main, USAGE)
