"""The loop on a toy: stopped anywhere it ends with the same bits, and it never keeps or hides a bad step."""
from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from askd.engine.checkpoint import Checkpoints, read_state
from askd.engine.loop import Interrupted, Summary
from askd.engine.precision import choose_precision
from askd.engine.schedule import make_schedule
from askd.errors import CheckpointError, RecipeError, TrainingError
from toy import STEPS, Toy, ToyBatches, read_lines

REPOSITORY = Path(__file__).resolve().parents[2]
@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[Toy, Path, Summary]:
    """The uninterrupted run."""
    toy, folder = Toy(), tmp_path_factory.mktemp("reference")
    return toy, folder, toy.train(folder)


def numbers_of(folder: Path, names: tuple[str, ...]) -> list[tuple]:
    return [(line["step"], *(line[name] for name in names)) for line in read_lines(folder) if names[0] in line]


def run_toy_process(folder: Path, sent: signal.Signals, at: int) -> tuple[int, str]:
    """Exit status and words of a process that trains the toy and sends itself a signal in the middle of step `at`, counted from 1."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tests" / "toy.py", folder, sent.name, str(at)], env=environment, stderr=subprocess.PIPE, text=True, timeout=600,
    )
    return done.returncode, done.stderr


# Before there is a checkpoint, some steps after one, right after an evaluation (which is checkpointed), and in the last step.
@pytest.mark.parametrize(("at", "kept"), [(2, 0), (8, 6), (11, 10), (STEPS, 39)])
def test_killed_and_resumed_ends_with_the_same_bits(at, kept, tmp_path, reference):
    assert run_toy_process(tmp_path, signal.SIGKILL, at)[0] == -signal.SIGKILL

    toy = Toy()
    summary = toy.train(tmp_path)
    uninterrupted, folder, expected = reference
    assert toy.bits() == uninterrupted.bits()
    assert toy.calls == STEPS - kept
    assert str(toy.optimizer.state_dict()) == str(uninterrupted.optimizer.state_dict())
    assert (summary.best_step, summary.best_metric, summary.metrics) == (20, 1.0, expected.metrics)
    assert summary.skipped_images == expected.skipped_images
    assert numbers_of(tmp_path, ("accuracy",)) == numbers_of(folder, ("accuracy",))
    assert not list(tmp_path.rglob("*.tmp"))


def test_skipped_images_are_counted_and_said(tmp_path, capsys, reference):
    batches = itertools.islice(ToyBatches().iterate(0), STEPS)
    skipped = [len(ToyBatches().skipped(batch)) for batch in batches]
    assert reference[2].skipped_images == sum(skipped) > 5
    logged = {line["step"]: line.get("skipped_images", 0) for line in read_lines(reference[1]) if "loss" in line}
    assert logged == {step: sum(skipped[:step]) for step in logged}
    Toy().train(tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped so far" in line]
    assert said[-1].split("  ")[-1].startswith(f"{sum(skipped)} images skipped so far, the last: image ")


def test_every_stop_is_survived(tmp_path, reference):
    """A fault at each step in turn, in one run: whatever the checkpoint, evaluation or log interval is doing there."""
    calls_in_all = 0
    for fault in range(1, STEPS):
        toy = Toy()

        def unit(batch):
            if toy.calls == 4:  # more than one checkpoint interval, so that every attempt gets on
                raise ConnectionError
            return toy.unit(batch)

        try:
            toy.train(tmp_path, unit=unit)
            break
        except ConnectionError:
            calls_in_all += toy.calls
    assert calls_in_all > STEPS / 2 and fault > 5
    assert toy.bits() == reference[0].bits()
    assert numbers_of(tmp_path, ("accuracy",)) == numbers_of(reference[1], ("accuracy",))
    steps = [line["step"] for line in read_lines(tmp_path)]
    assert steps == sorted(steps) and steps == [line["step"] for line in read_lines(reference[1])]


def test_sigterm_in_another_process_finishes_the_step_and_exits_143(tmp_path, reference):
    status, errors = run_toy_process(tmp_path, signal.SIGTERM, at=14)
    assert status == 143, errors
    assert max(Checkpoints(tmp_path / "checkpoints").steps()) == 14 and "stopped by SIGTERM after step 14" in errors
    toy = Toy()
    toy.train(tmp_path)
    assert toy.calls == STEPS - 14
    assert toy.bits() == reference[0].bits()


@pytest.mark.parametrize("step", [1, 10, STEPS])  # an ordinary step, one to be evaluated, the last
def test_sigint_is_a_checkpoint_and_an_exit_code(tmp_path, reference, step):
    toy, before = Toy(), signal.getsignal(signal.SIGINT)

    def unit(batch):
        if toy.calls == step - 1:
            signal.raise_signal(signal.SIGINT)
        return toy.unit(batch)

    with pytest.raises(Interrupted, match=f"SIGINT after step {step}") as raised:
        toy.train(tmp_path, unit=unit)
    assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    resumed = Toy()
    resumed.train(tmp_path)
    assert resumed.calls == STEPS - step and resumed.bits() == reference[0].bits()
    assert numbers_of(tmp_path, ("accuracy",)) == numbers_of(reference[1], ("accuracy",))


def test_a_corrupt_newest_checkpoint_costs_one_interval(tmp_path, reference, caplog):
    with pytest.raises(ConnectionError):
        toy = Toy()

        def unit(batch):
            if toy.calls == 17:
                raise ConnectionError
            return toy.unit(batch)

        toy.train(tmp_path, unit=unit)
    newest = max(Checkpoints(tmp_path / "checkpoints").steps().values())
    assert newest.name == "step_00000015.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = Toy()
    resumed.train(tmp_path)
    assert "step_00000015.pt is corrupt" in caplog.text
    assert resumed.calls == STEPS - 12 and resumed.bits() == reference[0].bits()


def test_the_best_weights_are_kept(reference):
    toy, folder, summary = reference
    assert (summary.step, summary.best_step, summary.best_metric) == (STEPS, 20, 1.0)
    best = read_state(summary.best_path)
    assert set(best) == {"modules", "step", "metric"} and best["step"] == 20
    short = Toy()
    short.train(folder.parent / "short", steps=20)  # the schedule is still that of the whole run
    for name, module in short.modules.items():
        assert all(torch.equal(best["modules"][name][key], value) for key, value in module.state_dict().items())
    assert summary.metrics == {"accuracy": pytest.approx(0.8)}


def test_the_log_holds_means_rates_and_evaluations(reference, tmp_path):
    _, folder, _ = reference
    lines = [line for line in read_lines(folder) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(5, STEPS + 1, 5))
    schedule = make_schedule("cosine", steps=STEPS, warmup=5)
    assert [line["lr"] for line in lines] == pytest.approx([0.05 * schedule(line["step"] - 1) for line in lines])
    names = {"step", "time", "loss", "identity", "weight", "grad_norm", "lr", "images_per_second"}
    assert all(set(line) - {"skipped_images"} == names for line in lines)  # that one has a test of its own
    Toy().train(tmp_path, log_every=1)
    each = [line["loss"] for line in read_lines(tmp_path) if "loss" in line]
    assert [line["loss"] for line in lines] == pytest.approx([sum(each[i : i + 5]) / 5 for i in range(0, STEPS, 5)])


def test_evaluating_changes_nothing(tmp_path, reference):
    toy = Toy()
    toy.train(tmp_path, evaluate=None, select=None, checkpoint_every=0, log_every=0)
    assert toy.bits() == reference[0].bits()
    assert [line["step"] for line in read_lines(tmp_path)] == [STEPS]
    assert list(Checkpoints(tmp_path / "checkpoints").steps()) == [STEPS]


def test_a_finished_run_is_not_trained_again_and_a_fresh_start_forgets(tmp_path):
    Toy().train(tmp_path)
    again = Toy()
    summary = again.train(tmp_path)
    assert again.calls == 0 and summary.metrics == {"accuracy": pytest.approx(0.8)} and summary.best_step == 20
    fresh = Toy()
    fresh.train(tmp_path, resume=False, steps=8, evaluate=None, select=None)
    assert fresh.calls == 8 and [line["step"] for line in read_lines(tmp_path)] == [5, 8]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_00000006.pt", "step_00000008.pt"]


@pytest.mark.parametrize("culprit", ["identity", "gradient"])
def test_a_non_finite_step_stops_before_the_optimiser(tmp_path, culprit):
    toy = Toy()

    def unit(batch):
        parts = toy.unit(batch)
        if toy.calls == 8 and culprit == "identity":
            parts["identity"] = parts["identity"] * float("nan")
            parts["loss"] = parts["identity"] + 0.1 * parts["weight"]
        if toy.calls == 8 and culprit == "gradient":
            zero = toy.head.bias - toy.head.bias.detach()
            parts["loss"] = parts["loss"] + zero.square().sqrt().sum()  # adds 0, with a slope of 0 * inf
        return parts

    with pytest.raises(TrainingError) as raised:
        toy.train(tmp_path, unit=unit)
    message = str(raised.value)
    name = {"identity": "loss", "gradient": "grad_norm"}[culprit]
    assert message.startswith(f"non-finite {name} at step 8: loss ") and "weight 0." in message
    assert ("identity nan" in message) == (culprit == "identity")
    good = tmp_path / "checkpoints" / "step_00000006.pt"
    assert str(good) in message and max(Checkpoints(good.parent).steps().values()) == good
    assert all(torch.isfinite(value).all() for value in toy.trunk.state_dict().values())


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    Toy().train(tmp_path, steps=3)
    other = Toy()
    other.modules["head"] = nn.Linear(8, 4)
    with pytest.raises(CheckpointError, match=r"step_00000003.pt \(head\) do not fit Linear: weight is \(3, 8\)"):
        other.train(tmp_path)
    other.modules = {"trunk": other.trunk}
    with pytest.raises(CheckpointError, match="holds the modules"):
        other.train(tmp_path)


def test_selecting_what_is_not_evaluated_names_the_choices(tmp_path):
    with pytest.raises(TrainingError, match="no 'acuracy' .* gives accuracy"):
        Toy().train(tmp_path, select="acuracy")


def test_fp16_skips_an_overflow_and_counts_it(tmp_path):
    toy = Toy()
    toy.train(tmp_path, precision=choose_precision("fp16", "cpu"), steps=12)
    last = read_lines(tmp_path)[-2]
    assert last["skipped_steps"] == read_state(max((tmp_path / "checkpoints").glob("step*")))["progress"]["skipped"]
    assert all(torch.isfinite(value).all() for value in toy.trunk.state_dict().values())

    overflowing = Toy()
    weight = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def unit(batch):
        overflowing.calls += 1
        huge = 1e36 if overflowing.calls == 2 else 1.0  # times the scale of 65536: beyond float32
        return {"loss": weight * huge}

    overflowing.train(
        tmp_path / "overflow",
        unit=unit,
        optimizer=optimizer,
        schedule=make_schedule("constant", steps=3),
        steps=3,
        precision=choose_precision("fp16", "cpu"),
        clip=None,
        evaluate=None,
        select=None,
    )
    assert read_lines(tmp_path / "overflow")[-1]["skipped_steps"] == 1
    assert weight.item() == pytest.approx(0.8)


def test_precisions():
    assert choose_precision("bf16", "cpu").dtype is torch.bfloat16 and not choose_precision("bf16", "cpu").scaler
    assert choose_precision("fp16", "cpu").scaler and choose_precision("fp32", "cpu").dtype is None
    units = torch.cpu.get_capabilities()
    has_bf16 = bool(units.get("amx_bf16") or units.get("avx512_bf16"))
    automatic = choose_precision("auto", "cpu")
    assert automatic.dtype is (torch.bfloat16 if has_bf16 else None) and automatic.why
    with choose_precision("bf16", "cpu").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    with pytest.raises(RecipeError, match="'int8'; choose from auto, fp32, bf16, fp16"):
        choose_precision("int8", "cpu")
