"""What a study runs: from its command line to jobs, each with the command line of its own."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import yaml

from askd.data.cards import load_card
from askd.distill import has_teacher, teacher_recipe
from askd.errors import RecipeError
from askd.method import teaches
from askd.recipe import load, training_view
from askd.resources import find_resource
from askd.schema import Recipe

OWN = {"methods": "", "sizes": "null", "seeds": "3", "out": "study", "jobs": "1", "threads": "null", "dry_run": "false"}
USAGE = "recipe=NAME methods=[base,askd,askd+kd] | study=NAME [sizes=[28,14,all]] [seeds=3] [out=study] [jobs=1] " \
        "[threads=N] [dry_run=true] [key=value ...]  |  report RESULTS.jsonl"


@dataclass(frozen=True)
class Job:
    """One network to train: a method (or `teacher`) at training sizes with a seed.

    network: where a teacher's architecture is not the recipe's own, what is different, as arguments (network.attention=se).
    """

    method: str
    sizes: tuple[int, ...]
    seed: int
    network: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.label} at {', '.join(map(str, self.sizes))} px, seed {self.seed}"

    @property
    def label(self) -> str:
        """What results call it: the method, a teacher of another architecture with that."""
        return ", ".join([self.method, *(argument.removeprefix("network.") for argument in self.network)])

    def name(self, recipe: str) -> str:
        """Of its run folder."""
        parts = [Path(part).stem for part in self.method.split("+")]
        return "_".join([recipe, "+".join(parts), *(_slug(argument) for argument in self.network), *map(str, self.sizes)]) + "px"


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
        """One per seed and architecture that a method needs a teacher of, and a given one in any case: it shows the headroom."""
        given = [()] if self.plain().teacher.checkpoint is not None else []
        networks = dict.fromkeys([*given, *(self.taught_as(method) for method in self.methods if self.needs_teacher(method))])
        return [Job("teacher", (112,), seed, network) for seed in self.seeds for network in networks]

    def students(self) -> list[Job]:
        """Seed by seed, so that a study that is cut short has whole seeds."""
        return [Job(method, sizes, seed) for seed in self.seeds for sizes in self.sizes for method in self.methods]

    def teacher_of(self, job: Job) -> Job | None:
        """The teacher of a student's seed and architecture; None where its method needs none, and for a teacher itself."""
        if job.method == "teacher" or not self.needs_teacher(job.method):
            return None
        return Job("teacher", (112,), job.seed, self.taught_as(job.method))

    @cache
    def recipe_name(self) -> str:
        """Of the recipe that all methods are laid over."""
        return load([self.given[0]]).name

    @cache
    def role(self, method: str) -> str:
        """Of a method's run: a baseline takes nothing from a teacher but, perhaps, its start."""
        return "teacher" if method == "teacher" else "student" if teaches(self._laid_over(method)) else "baseline"

    @cache
    def architecture(self, method: str) -> tuple[str, ...]:
        """What a method makes different about the recipe's network, but for where it starts, and its learners' divergence, as arguments."""
        return tuple(one for one in self.besides(method) if one.startswith(("network.", "head.divergence")) and not one.startswith("network.init="))

    @cache
    def besides(self, method: str) -> tuple[str, ...]:
        """What a method makes different about the recipe's network and head, as arguments."""
        plain, own = ({key: asdict(recipe)[key] for key in ("network", "head")} for recipe in (self.plain(), self._laid_over(method)))
        return tuple(_different(plain, own))

    @cache
    def needs_teacher(self, method: str) -> bool:
        """Whether a method learns from a teacher, or starts from its weights."""
        return self.role(method) == "student" or self._laid_over(method).network.init == "teacher"

    @cache
    def taught_as(self, method: str) -> tuple[str, ...]:
        """The architecture of a method's teacher, () for the recipe's own, and where a method needs none."""
        return self.architecture(method) if self.needs_teacher(method) else ()

    def plain(self) -> Recipe:
        """The recipe that all methods are laid over."""
        return self._laid_over(None)

    def _laid_over(self, method: str | None) -> Recipe:
        given = [argument.replace("{seed}", str(self.seeds[0])) for argument in self.given]
        return load(given if method is None else [*given, f"method={method}"])

    def scored_at(self, job: Job) -> tuple[int, ...]:
        """The sizes at which a job's network is scored: a student's own; a teacher's 112 and all of its students'."""
        return tuple(sorted({112, *(size for sizes in self.sizes for size in sizes)}, reverse=True)) if job.method == "teacher" else job.sizes

    @cache
    def settings(self, job: Job) -> dict:
        """All that a job's figures depend on besides its seed: its training view, its teacher's origin, what was rendered, what scores it."""
        recipe = load(self.arguments(job))
        view = training_view(*(self.trained_by(job) if job.method == "teacher" else (recipe, self.role(job.method))))
        del view["seed"]
        rendered = load_card(recipe.data.set).render
        taught = job.method == "teacher" or self.needs_teacher(job.method)
        teacher = (recipe.teacher.checkpoint or recipe.teacher.recipe or "this recipe") if taught else None
        scored = {
            "sets": recipe.eval.sets, "protocols": [protocol.name for protocol in recipe.eval.protocols], "degradation": degradation_scored(recipe),
        }
        own = {"teacher": teacher, "rendered": asdict(rendered) if rendered else None, "scored": scored}
        return json.loads(json.dumps({**view, **own}))

    def trained_by(self, job: Job) -> tuple[Recipe, str]:
        """The recipe that trains a teacher, and in which role: `teacher.recipe`'s own, where there is one and no checkpoint is given."""
        arguments = self.arguments(job)
        recipe = load(arguments)
        teaching = recipe if recipe.teacher.checkpoint is not None else teacher_recipe(recipe, arguments)
        return teaching, "student" if teaching is not recipe and has_teacher(teaching) else "teacher"

    def command(self) -> str:
        """The command line that asks for this study, but for where it runs and how many runs at a time."""
        sizes = [str(sizes[0]) if len(sizes) == 1 else "all" for sizes in self.sizes]
        own = (("methods", self.methods), ("sizes", sizes), ("seeds", map(str, self.seeds)))
        return " ".join(["python -m askd.study", *self.given, *(f"{key}=[{','.join(values)}]" for key, values in own)])

    def arguments(self, job: Job, teacher: str | None = None) -> list[str]:
        """The command line of one run. teacher: where its teacher lies, once that is known."""
        given = [argument.replace("{seed}", str(job.seed)) for argument in self.given]
        network = job.network if job.method == "teacher" else self.taught_as(job.method)
        # A teacher of another architecture is trained in a folder of its own, whatever checkpoint the recipe's own has.
        out = self.out / "runs" / "_".join(map(_slug, job.network)) if job.network else self.out / "runs"
        common = [*given, f"seed={job.seed}", f"out={out}", f"eval.sizes={list(self.scored_at(job))}", *network, *(["teacher.checkpoint=null"] if network else [])]
        if job.method == "teacher":
            return common
        name = job.name(self.recipe_name())
        taught = [f"teacher.checkpoint={teacher}"] if teacher else []
        return [*common, f"method={job.method}", f"data.sizes={list(job.sizes)}", f"name={name}", *taught]


def parse(argv: list[str]) -> tuple[Study, bool]:
    """The study of a command line, and whether it is a dry run; RecipeError names what does not fit."""
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    ready = options.pop("study", None)
    stored = {} if ready is None else _ready(ready)
    if len(options) + (ready is not None) != len(argv) or "recipe" not in options or "methods" not in {**stored, **options}:
        raise RecipeError(f"usage: python -m askd.study {USAGE}, got {' '.join(argv) or 'nothing'}")
    for key in ("method", "data.sizes", "eval.sizes", "seed", "name", "resume", "baseline.enabled", "after"):
        if key in options:
            raise RecipeError(f"{key} is the study's own to set; leave it out (methods=, sizes=, seeds=, out= say what to run)")
    own = {key: _value(key, options.pop(key)) if key in options else stored.get(key, _value(key, default)) for key, default in OWN.items()}
    given = (f"recipe={options.pop('recipe')}", *(f"{key}={value}" for key, value in options.items()))
    methods = tuple(map(str, _listed(own["methods"])))
    if len(set(methods)) != len(methods) or "teacher" in methods:
        raise RecipeError(f"methods= takes distinct methods, got {', '.join(methods)}; the teacher is trained anyway")
    names = [Job(method, (), 0).name("") for method in methods]
    if twice := [method for method, name in zip(methods, names) if names.count(name) > 1]:
        raise RecipeError(f"{' and '.join(twice)} would have one run folder; give their files names of their own")
    listed = _listed(load([given[0]]).data.sizes if own["sizes"] is None else own["sizes"])
    alone = [size for size in listed if size != "all"]
    if not alone or not all(type(size) is int for size in alone) or len(set(listed)) != len(listed):
        raise RecipeError(f"sizes= takes distinct pixels and `all` (one student for 112 and all of them), got {own['sizes']}")
    sizes = tuple((size,) if size != "all" else tuple(dict.fromkeys((112, *alone))) for size in listed)
    if len(set(sizes)) != len(sizes):
        raise RecipeError(f"sizes={own['sizes']}: `all` is 112 and the others, so that two of these are the same; name a size below 112, or leave `all` out")
    seeds = tuple(range(own["seeds"])) if isinstance(own["seeds"], int) else tuple(_listed(own["seeds"]))
    for key, good, expected in (
        ("seeds", bool(seeds) and all(type(seed) is int and seed >= 0 for seed in seeds) and len(set(seeds)) == len(seeds),
         "how many (3), or a list of different ones ([0,2])"),
        ("jobs", type(own["jobs"]) is int and own["jobs"] >= 1, "how many runs at a time"),
        ("threads", own["threads"] is None or type(own["threads"]) is int and own["threads"] >= 1, "CPU threads per run"),
        ("dry_run", isinstance(own["dry_run"], bool), "true or false"),
    ):
        if not good:
            raise RecipeError(f"{key}= says {expected}, got {own[key]}")
    return Study(given, methods, sizes, seeds, Path(str(own["out"])), own["jobs"], own["threads"]), own["dry_run"]


def degradation_scored(recipe: Recipe) -> str:
    """The one degradation that a recipe's benchmark is made with; RecipeError where it lists several, which tables could not tell apart."""
    listed = [degradation.name for degradation in recipe.eval.degradations] or [recipe.data.degradation.name]
    if len(listed) > 1:
        raise RecipeError(f"eval.degradations={listed}: a study scores one; give one here, and all of them to askd.benchmark afterwards")
    return listed[0]


def _ready(name: str) -> dict:
    """A ready study: the study's own keys from a YAML file of studies/."""
    path = find_resource("studies", name)
    try:
        stored = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: not a YAML mapping: {' '.join(str(error).split())}") from None
    if not isinstance(stored, dict) or not set(stored) <= {"methods", "sizes", "seeds"}:
        raise RecipeError(f"{path}: a study is a YAML mapping of methods, sizes and seeds, got {stored!r}")
    return stored


def _different(plain: dict, own: dict) -> list[str]:
    """`key=value` for every key of a section that is not as in `plain`, parts of sections within it with dots."""
    found = []
    for key, value in own.items():
        before = plain[key]
        if isinstance(value, dict):
            known = before if isinstance(before, dict) else dict.fromkeys(value)
            found += [f"{key}.{argument}" for argument in _different(known, value)]
        elif value != before:
            found.append(f"{key}={'null' if value is None else getattr(value, 'name', value)}")
    return found


def _slug(argument: str) -> str:
    return argument.removeprefix("network.").replace("=", "-")


def _value(key: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"{key}={text} cannot be read; lists are written [a,b]") from None


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [value]
