"""A study: what it plans, that every method gets the same, that it goes on where it stopped, and what it refuses."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from askd.distill import teacher_recipe
from askd.errors import CheckpointError, RecipeError
from askd.recipe import load
from askd.resources import list_resources
from askd.study import check, find_line, plan, read, report, scored_before
from askd.study_plan import Job, parse
from askd.teachers import load_network, weights_hash
from tiny import distilled, run, world  # noqa: F401, fixtures

REPOSITORY = Path(__file__).resolve().parents[1]


def test_a_command_line_is_a_plan():
    study, dry = parse([
        "recipe=lfw_x8", "methods=[base,askd+kd]", "sizes=[28,14,all]", "seeds=2", "out=here", "train.epochs=3",
        "teacher.checkpoint=t/seed{seed}", "dry_run=true",
    ])
    assert dry and study.seeds == (0, 1) and study.sizes == ((28,), (14,), (112, 28, 14)) and study.jobs == 1
    assert study.teachers() == [Job("teacher", (112,), 0), Job("teacher", (112,), 1)]
    assert len(study.students()) == 12 and all(job.seed == 0 for job in study.students()[:6])
    recipe = load(study.arguments(Job("askd+kd", (28,), 1), "found"))
    assert (recipe.name, recipe.seed, recipe.train.epochs) == ("lfw_x8_askd+kd_28px", 1, 3)
    assert recipe.data.sizes == recipe.eval.sizes == [28]
    assert (recipe.out, recipe.teacher.checkpoint) == ("here/runs", "found")
    teacher = load(study.arguments(Job("teacher", (112,), 1)))
    assert (teacher.name, teacher.eval.sizes, teacher.teacher.checkpoint) == ("lfw_x8", [112, 28, 14], "t/seed1")


def test_methods_of_a_seed_differ_in_the_method_alone():
    study, _ = parse(["recipe=lfw_x8", "methods=[base,askd,fskd+cross]", "seeds=1"])
    views = [study.settings(Job(method, (14,), 0)) for method in study.methods]
    distilled_by = [set(view.pop("distill", {})) for view in views]
    assert distilled_by == [set(), {"attention"}, {"feature", "relation"}] and views[0] == views[1] == views[2]


def test_a_method_that_changes_the_network_has_a_teacher_of_it():
    study, _ = parse([
        "recipe=lfw_x8", "methods=[base,askd,base+se,askd_channel+se,askd+kernel3,askd+kernel7]", "seeds=[4]", "out=here", "teacher.checkpoint=t/seed{seed}",
    ])
    plain, se, kernel3 = study.teachers()
    assert [job.label for job in (plain, se, kernel3)] == ["teacher", "teacher, attention=se", "teacher, spatial_kernel=3"]  # 7 is the recipe's own
    assert [study.teacher_of(job) for job in study.students()] == [plain, plain, se, se, kernel3, plain]
    assert [study.role(method) for method in study.methods] == ["baseline", "student", "baseline", "student", "student", "student"]
    for job, checkpoint, attention in ((plain, "t/seed4", "cbam"), (se, None, "se")):
        recipe = load(study.arguments(job))
        assert (recipe.teacher.checkpoint, recipe.network.attention.name) == (checkpoint, attention)
    outs = [load(study.arguments(job)).out for job in (plain, se, kernel3)]
    assert outs == ["here/runs", "here/runs/attention-se", "here/runs/spatial_kernel-3"]  # folders of their own, whatever recipe trains them
    student = load(study.arguments(Job("askd_channel+se", (14,), 4), "found"))
    assert (student.teacher.checkpoint, student.network.attention.name, student.out) == ("found", "se", "here/runs")


def test_where_a_network_starts_is_not_its_architecture():
    study, _ = parse(["recipe=lfw_x8", "study=start", "seeds=1"])
    assert [job.label for job in study.teachers()] == ["teacher"] and study.methods[:2] == ("base+from_random", "askd+from_random")
    starts = [load(study.arguments(job)).network.init for job in study.students()]
    assert starts == ["random", "random", "teacher", "teacher"]
    # A baseline from random weights of another architecture has no use for a teacher of it, and by itself for none.
    study, _ = parse(["recipe=lfw_x8", "methods=[base,base+se+from_random]", "seeds=1"])
    assert [job.label for job in study.teachers()] == ["teacher"]
    study, _ = parse(["recipe=lfw_x8", "methods=[base+se+from_random]", "seeds=1"])
    assert study.teachers() == []


@pytest.mark.parametrize("name", list_resources("studies"))
@pytest.mark.parametrize("recipe", ["demo_full", "lfw_x8"])
def test_ready_studies_are_plans(name, recipe):
    text = list_resources("studies")[name].read_text()
    study, _ = parse([f"recipe={recipe}", f"study={name}", "seeds=1"])
    assert text.startswith("# ") and len(study.methods) >= 3 and any(method.split("+")[0] == "base" for method in study.methods)
    for job in (*study.teachers(), *study.students()):
        loaded = load(study.arguments(job))
        if job.method != "teacher" and study.needs_teacher(job.method):
            assert load(study.arguments(study.teacher_of(job))).network.attention == loaded.network.attention
    assert parse([f"recipe={recipe}", f"study={name}", "methods=[base]"])[0].methods == ("base",)  # the command line has the last word


@pytest.mark.parametrize("arguments, said", [
    (["recipe=lfw_x8", "study=partz"], "no study is called 'partz'; did you mean parts"),
    ([], "usage"), (["recipe=lfw_x8"], "usage"), (["recipe=lfw_x8", "methods=[base,base]"], "distinct methods"),
    (["recipe=lfw_x8", "methods=[teacher]"], "trained anyway"), (["recipe=lfw_x8", "methods=base", "sizes=[big]"], "distinct pixels"),
    (["recipe=lfw_x8", "methods=base", "sizes=[all]"], "distinct pixels"), (["recipe=lfw_x8", "methods=base", "seeds=many"], "seeds="),
    (["recipe=lfw_x8", "methods=base", "seeds=[1,1]"], "different ones"), (["recipe=lfw_x8", "methods=base", "sizes=[112,all]"], "two of these are the same"),
    (["recipe=lfw_x8", "methods=base", "jobs=0"], "jobs="), (["recipe=lfw_x8", "methods=base", "dry_run=perhaps"], "dry_run="),
    (["recipe=lfw_x8", "methods=base", "data.sizes=[3]"], "the study's own"), (["recipe=lfw_x8", "methods=[base"], "cannot be read"),
])
def test_what_is_no_study_is_refused(arguments, said):
    with pytest.raises(RecipeError, match=said):
        parse(arguments)


@pytest.mark.parametrize("arguments, said", [
    (["methods=[base,kd]", "distill.attention.weight=10"], "distill.attention.weight= would reach every method, and the baseline"),
    (["methods=[base,base+se]", "network.attention=cbam"], "network.attention= has the last word, also over method base\\+se"),
    (["methods=[base,abe4]", "network.ensemble.branch=2"], "network.ensemble.branch= has the last word.*over method abe4, which sets network.ensemble.branch"),
    (["methods=[base,./longer.yaml]"], "method ./longer.yaml sets train.epochs, which all methods of a study must share"),
    (["methods=[base,kd]", "eval.degradations=[bicubic,nearest]"], "eval.degradations=.*a study scores one"),
    (["methods=[base,heads4]", "network.ensemble.learners=2"], "network.ensemble.learners= has the last word"),
])
def test_what_would_make_methods_other_than_they_are_called_is_refused(distilled, tmp_path, monkeypatch, arguments, said):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    Path("longer.yaml").write_text("{distill: {}, train: {epochs: 50}}")
    study, _ = parse([f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}", "sizes=[14]", "seeds=1", *arguments])
    with pytest.raises(RecipeError, match=said):
        check(study)
        study.settings(study.teachers()[0])


def test_an_ensemble_is_no_baseline_of_other_ensembles(distilled, tmp_path):  # noqa: F811
    (tmp_path / "many.yaml").write_text(f"extends: {distilled.world.recipe}\nnetwork: {{ensemble: {{learners: 4}}}}\nhead: {{divergence: {{weight: 1}}}}\n")
    for methods, refused in (("[base,abe4]", False), ("[base,abe4,abe4_div0]", False), ("[base,abe2]", True), ("[base,heads4]", True)):
        study, _ = parse([f"recipe={tmp_path / 'many.yaml'}", f"methods={methods}", "sizes=[14]", "seeds=1"])
        if refused:
            with pytest.raises(RecipeError, match="many is an ensemble already"):
                check(study)
        else:
            check(study)


def test_two_files_of_one_name_are_refused():
    with pytest.raises(RecipeError, match="./a/x.yaml and ./b/x.yaml would have one run folder"):
        parse(["recipe=lfw_x8", "methods=[base,./a/x.yaml,./b/x.yaml]"])


def test_the_command_of_a_study_gives_the_study():
    study, _ = parse(["recipe=lfw_x8", "methods=[base,askd]", "sizes=[56,28,all]", "seeds=[0,2]", "train.epochs=3", "out=here", "jobs=2"])
    again, _ = parse(study.command().split()[3:])
    assert (again.methods, again.sizes, again.seeds, again.given) == (study.methods, study.sizes, study.seeds, study.given)


def test_a_teacher_is_described_by_the_recipe_that_trains_it():
    study, _ = parse(["recipe=lfw_x8_strong", "methods=[base,askd]", "sizes=[14]", "seeds=1"])
    teaching, role = study.trained_by(study.teachers()[0])
    assert (teaching.name, role) == ("lfw_mobileface", "student")
    settings = study.settings(study.teachers()[0])
    assert settings["train"]["epochs"] == 10 and settings["head"]["weight"] == 0 and "embedding" in settings["distill"]
    given, _ = parse(["recipe=lfw_x8_strong", "methods=[base,askd]", "sizes=[14]", "seeds=1", "teacher.checkpoint=there"])
    assert given.trained_by(given.teachers()[0])[0].name == "lfw_x8_strong"
    argv = ["recipe=lfw_x8_strong", "teacher.epochs=20"]  # as runs of before were stored, with the teacher that they had
    with pytest.raises(RecipeError, match="teacher.epochs=20.0, but lfw_mobileface, which trains the teacher, says 10.0"):
        teacher_recipe(load(argv), argv)
    assert teacher_recipe(load([*argv, "teacher.checkpoint=there"]), argv).name == "lfw_mobileface"
    longer, _ = parse(["recipe=lfw_x8", "methods=[base]", "teacher.epochs=3", "seeds=1"])
    assert longer.settings(longer.teachers()[0])["train"]["epochs"] == 3  # which reaches lfw


def test_an_ensemble_s_teacher_keeps_its_learners_apart_as_it_does():
    study, _ = parse(["recipe=demo_full", "methods=[base,askd+abe4]", "sizes=[14]", "seeds=1"])
    plain, ensemble = (load(study.arguments(job)) for job in study.teachers())
    assert plain.head.divergence is None and ensemble.network.ensemble.learners == 4 and ensemble.head.divergence.weight == 1


def test_a_line_cut_short_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"seed": 0}\n{"seed"')
    with pytest.raises(CheckpointError, match="results.jsonl:2 is no line of JSON"):
        read(tmp_path / "results.jsonl")
    assert read(tmp_path / "none.jsonl") == []


def test_a_line_from_before_a_key_existed_still_counts():
    study, _ = parse(["recipe=lfw_x8", "methods=[base,askd]", "seeds=1"])
    teacher, job = study.teachers()[0], Job("askd", (14,), 0)
    lines = [
        {"recipe": "lfw_x8", "method": one.method, "sizes": list(one.sizes), "seed": 0, "settings": json.loads(json.dumps(study.settings(one))),
         "teacher": None if one is teacher else "t", "sha256": "t", "rows": [{"size": size} for size in study.scored_at(one)]} for one in (teacher, job)
    ]
    assert find_line(study, job, lines) is lines[1]
    for line in lines:
        del line["settings"]["network"]["dropout"], line["settings"]["train"]["clip"]
    del lines[1]["settings"]["distill"]["attention"]["distance"]
    assert find_line(study, teacher, lines) is lines[0] and find_line(study, job, lines) is lines[1]
    lines[1]["settings"]["train"]["clip"] = 3.0
    assert find_line(study, job, lines) is None
    assert find_line(study, Job("askd", (14,), 0), lines[1:]) is None  # no teacher, no student


def test_a_teacher_is_scored_again_where_a_study_gains_sizes():
    study, _ = parse(["recipe=lfw_x8", "methods=[base]", "sizes=[14]", "seeds=1"])
    grown, _ = parse(["recipe=lfw_x8", "methods=[base]", "sizes=[28,14]", "seeds=1"])
    lines = [
        {"recipe": "lfw_x8", "method": job.method, "sizes": list(job.sizes), "seed": 0, "settings": study.settings(job),
         "teacher": None if job.method == "teacher" else "t", "sha256": "t", "rows": [{"size": size} for size in study.scored_at(job)]}
        for job in (*study.teachers(), *study.students())
    ]
    teacher, base = study.teachers()[0], study.students()[0]
    assert find_line(study, teacher, lines) is lines[0] and find_line(grown, teacher, lines) is None
    again = {**lines[0], "rows": [{"size": size} for size in (112, 28, 14)]}
    assert find_line(grown, teacher, [*lines, again]) is again and find_line(study, teacher, [*lines, again]) is lines[0]
    assert find_line(grown, base, [*lines, again]) is lines[1]  # the student of the very teacher stands


def test_a_report_takes_studies_alone_and_the_last_line_of_a_run(tmp_path):
    row = {"set": "verify", "protocol": "insightface", "size": 14, "model": "student", "accuracy": 0.5, "auc": 0.6}
    line = {"recipe": "mini", "method": "base", "sizes": [14], "seed": 0, "settings": {}, "rows": [row], "cost": None}
    text = report([line, {**line, "rows": [{**row, "accuracy": 0.75}]}])
    assert "| base | 75.00 (1) |" in text and "50.00" not in text
    learners = {"size": 14, "set": "verify", "protocol": "insightface", "overall": {}, "learners": {"learner 1": {"auc": 0.5}}}
    twice = [{**line, "method": "abe1", "learners": {**learners, "ensemble": {"auc": auc}}} for auc in (0.25, 0.75)]
    assert "| abe1 | 14 | 50.00 | 50.00 | 75.00 |" in report(twice)
    with pytest.raises(CheckpointError, match="x.jsonl:2 is no study's: it has no recipe, settings"):
        report([line, {"seed": 0, "rows": []}], "x.jsonl")
    done = run("study", "report", "typo.jsonl", cwd=tmp_path)
    assert done.status == 2 and "typo.jsonl: no such file" in done.err


def test_older_results_can_still_be_reported():
    text = report(read(REPOSITORY / "benchmarks" / "results" / "lfw_x8.jsonl"))
    assert text.startswith("## lfw_x8") and "| student - base | 14 |" in text and "headroom" in text


def test_a_study_from_end_to_end(distilled, tmp_path):  # noqa: F811
    teacher = distilled.of("teacher").parent / "seed{seed}"
    asked = [f"recipe={distilled.world.recipe}", "sizes=[14]", "seeds=[0]", f"teacher.checkpoint={teacher}", "out=here", "threads=1"]
    done = run("study", *asked, "methods=[base,kd,askd_channel+se,abe2+from_random]", cwd=tmp_path)
    assert done.status == 0, done.err
    lines = read(tmp_path / "here" / "results.jsonl")
    assert [(line["method"], line["sizes"], line["seed"]) for line in lines] == [
        ("teacher", [112], 0), ("teacher, attention=se", [112], 0), ("base", [14], 0), ("kd", [14], 0), ("askd_channel+se", [14], 0), ("abe2+from_random", [14], 0)]
    plain, se, *students = lines
    assert [line["teacher"] for line in students] == [None, plain["sha256"], se["sha256"], None] and plain["sha256"] != se["sha256"]
    assert [{row["size"] for row in line["rows"]} for line in lines] == [{112, 14}, {112, 14}, {14}, {14}, {14}, {14}]
    assert [("learners" in line) for line in lines] == [False, False, False, False, False, True]
    learners = lines[-1]["learners"]
    assert learners["set"] == "verify" and learners["size"] == 14 and list(learners["learners"]) == ["learner 1", "learner 2"]
    assert plain["cost"] is None  # given, not trained
    assert all(line["cost"]["images_per_second"] > 0 and line["cost"]["memory_gb"] > 0.1 for line in lines[1:])
    first = [json.loads((tmp_path / "here" / "runs" / f"mini_{method}_14px" / role / "seed0" / "metrics.jsonl").read_text().splitlines()[0])
             for method, role in (("base", "baseline"), ("kd", "student"))]
    assert first[0]["identity"] == first[1]["identity"]  # the same weights to start from, the same batch
    text = (tmp_path / "here" / "report.md").read_text()
    assert "| kd - base | 14 |" in text and "which have a teacher of their own" in text and "one teacher per seed" in text and "differences.png" in text and "Unfinished" not in text
    assert (tmp_path / "here" / "differences.png").is_file() and not list(tmp_path.rglob("*.tmp"))
    assert f"| abe2+from_random | 14 | {learners['overall']['self']:.3f} |" in text and f"| abe2+from_random | 14 | {learners['overall']['self']:.3f} |" in done.out
    assert (tmp_path / "here" / "similarities.png").is_file() and "(similarities.png)" in text

    before = (tmp_path / "here" / "results.jsonl").read_bytes()
    planned = run("study", *asked, "methods=[base,kd,askd_channel+se,abe2+from_random,embedding]", "dry_run=true", cwd=tmp_path)
    assert planned.status == 0, planned.err
    jobs = [line for line in planned.out.splitlines() if " at " in line and "seed" in line]
    states = {line.split(" at ")[0].strip(): line.rsplit(": ", 1)[1] for line in jobs}
    assert states["base"] == states["kd"] == states["teacher"] == states["teacher, attention=se"] == "done" and states["embedding"].startswith("about ")
    assert "1 runs, about" in planned.out and (tmp_path / "here" / "results.jsonl").read_bytes() == before


def test_without_any_use_for_a_teacher_there_is_none(world, tmp_path):  # noqa: F811
    done = run("study", f"recipe={world.recipe}", "methods=[base+from_random,abe2+from_random]", "sizes=[14]", "seeds=[0]", "out=here", cwd=tmp_path)
    assert done.status == 0, done.err
    lines = read(tmp_path / "here" / "results.jsonl")
    assert [(line["method"], line["teacher"], line["settings"]["teacher"]) for line in lines] == [("base+from_random", None, None), ("abe2+from_random", None, None)]
    text = (tmp_path / "here" / "report.md").read_text()
    assert "no teacher: no method needs one" in text and "started from random;" in text and "(the teacher" not in text and "headroom" not in text
    assert "| abe2+from_random - base+from_random | 14 |" in text
    assert "| of base+from_random |" in text
    # With a method that needs one the others' runs stay what they are; so do lines from when every student's line named a teacher.
    more, _ = parse([f"recipe={world.recipe}", "methods=[base+from_random,abe2+from_random,kd+from_random]", "sizes=[14]", "seeds=[0]"])
    assert [job.label for job in more.teachers()] == ["teacher"]
    before = [{**line, "teacher": "a hash", "settings": {**line["settings"], "teacher": "this recipe"}} for line in lines]
    for job in more.students()[:2]:
        assert more.teacher_of(job) is None and find_line(more, job, lines) and find_line(more, job, before)
    assert find_line(more, more.students()[2], lines) is None
    done = run("study", f"recipe={world.recipe}", "methods=[base+from_random]", "teacher.epochs=3", "seeds=[0]", "out=there", cwd=tmp_path)
    assert done.status == 2 and "teacher.epochs= is about teachers, and none of base+from_random needs one" in done.err


def test_a_plan_spends_nothing_on_a_teacher_that_is_there(distilled, monkeypatch):  # noqa: F811
    monkeypatch.setattr("askd.study.seconds_per_step", lambda *_: 60.0)
    study, _ = parse([f"recipe={distilled.world.recipe}", "methods=[base]", "sizes=[14]", "seeds=1", f"teacher.checkpoint={distilled.of('teacher')}"])
    teacher, base = (*study.teachers(), *study.students())
    lines = plan(study, check(study), [teacher, base]).splitlines()
    assert lines[1].endswith(": is there: scored only") and lines[2].endswith(" min")
    assert lines[3].startswith("2 runs, about " + f"{float(lines[2].split()[-2]) / 60:.1f} hours")


def test_a_given_teacher_is_scored_once_for_all_seeds(distilled):  # noqa: F811
    checkpoint = str(distilled.of("teacher"))
    study, _ = parse([f"recipe={distilled.world.recipe}", "methods=[base]", "sizes=[14]", "seeds=2", f"teacher.checkpoint={checkpoint}"])
    first, second = study.teachers()
    figures = {"path": checkpoint, "sha256": weights_hash(load_network(distilled.of("teacher"))[0]), "rows": [{"size": 112}, {"size": 14}], "cost": None}
    key = {"recipe": study.recipe_name(), "method": "teacher", "sizes": [112], "seed": 0, "settings": study.settings(first), "teacher": None}
    assert scored_before(study, second, [{**key, **figures}]) == figures
    assert scored_before(study, second, []) is None
    assert scored_before(study, second, [{**key, **figures, "sha256": "of other weights"}]) is None  # the file has changed since
    trained, _ = parse([f"recipe={distilled.world.recipe}", "methods=[base]", "sizes=[14]", "seeds=2"])
    lines = [{**key, **figures, "settings": trained.settings(first)}]
    assert scored_before(trained, second, lines) is None  # every seed trains its own


def test_a_method_that_does_not_fit_stops_the_study_before_it_begins(distilled, tmp_path):  # noqa: F811
    done = run(
        "study", f"recipe={distilled.world.recipe}", "methods=[base,embedding]", "sizes=[14]", "seeds=1", "network.embedding=16",
        f"teacher.checkpoint={distilled.of('teacher')}", "out=here", cwd=tmp_path,
    )
    assert done.status == 2 and "distill.embedding does not fit" in done.err and not (tmp_path / "here").exists()
