"""What a student costs where it runs: PyTorch eager and compiled, ONNX in float32 and int8, on one and two threads; and a large gallery.

    python benchmarks/deploy.py [backbones=iresnet18,iresnet50,mobilefacenet] [threads=1,2] [batch=16] [rounds=3] [faces=1000000]
                                [width=512] [out=benchmarks/results/deploy.jsonl]

Every variant has a process of its own; the variants of a row (a backbone on so many threads) take turns, `rounds` times, and the best round
counts, for other work on the machine can only slow one down. A finished row is a line of `out`; rows that this machine has there are
not measured again, so the same command goes on where it was stopped, and prints the tables. Weights are random: speed does not depend on
them. Nothing is asserted: read the ratios.
"""
from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

VARIANTS = ("eager", "compiled", "onnx", "int8")
NAMES = {"eager": "PyTorch eager float32", "compiled": "PyTorch compiled bf16, channels_last", "onnx": "ONNX Runtime float32",
         "int8": "ONNX Runtime int8"}


def prepare(backbone: str, folder: Path) -> None:
    """<folder>/<backbone>.{onnx,int8,pt}: float32 and int8 models, and the float32 weights' size."""
    import onnx
    import torch

    from askd.deploy.graph import to_onnx, trace
    from askd.deploy.int8 import quantise
    from askd.models import make_backbone

    torch.manual_seed(0)
    network = make_backbone(backbone).eval().requires_grad_(False)
    model = to_onnx(trace(network, None))
    onnx.save(model, folder / f"{backbone}.onnx")
    onnx.save(quantise(model, images(32)), folder / f"{backbone}.int8")


def images(count: int) -> np.ndarray:
    """Noise where faces would be, (N, 3, 112, 112) float32 [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (count, 3, 112, 112)).astype(np.float32)


def runner(variant: str, backbone: str, folder: Path, threads: int):
    """A function of a batch."""
    if variant in ("onnx", "int8"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(folder / f"{backbone}.{variant}"), options, providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, {"image": batch})[0]
    import torch

    from askd.models import make_backbone

    torch.set_num_threads(threads)
    network = make_backbone(backbone).eval().requires_grad_(False)
    if variant == "eager":
        return lambda batch: network(torch.from_numpy(batch)).numpy()
    network = torch.compile(network.to(memory_format=torch.channels_last), dynamic=False)

    def compiled(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return network(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)).float().numpy()

    return compiled


def measure(variant: str, backbone: str, folder: Path, threads: int, batch: int) -> dict:
    """Latency of one face (ms) and faces per second in batches, the best of several."""
    run = runner(variant, backbone, folder, threads)
    found = {}
    for name, faces in (("one", images(1)), ("many", images(batch))):
        run(faces), run(faces)
        times = []
        while len(times) < 5 or (sum(times) < 1 and len(times) < 50):
            began = time.perf_counter()
            run(faces)
            times.append(time.perf_counter() - began)
        found[name] = min(times)
    return {"latency": 1000 * found["one"], "rate": batch / found["many"]}


def search(faces: int, width: int) -> dict:
    """Build, open and search a synthetic gallery: seconds, bytes, and recall against float64 brute force."""
    from askd.runtime.gallery import Gallery, build_gallery

    def batches():
        rng = np.random.default_rng(0)
        for start in range(0, faces, 20_000):
            count = min(20_000, faces - start)
            yield [f"{start + i}.jpg" for i in range(count)], rng.standard_normal((count, width), dtype=np.float32)

    with tempfile.TemporaryDirectory() as folder:
        path, began = Path(folder) / "gallery", time.perf_counter()
        build_gallery(path, batches(), "model")
        built = time.perf_counter() - began
        began = time.perf_counter()
        gallery = Gallery(path, "model")
        opened = time.perf_counter() - began
        probes = np.random.default_rng(1).standard_normal((16, width), dtype=np.float32)
        times = {}
        for count in (1, 16):
            runs = []
            for _ in range(6):
                began = time.perf_counter()
                places, _ = gallery.search(probes[:count], 10)
                runs.append(time.perf_counter() - began)
            times[count] = min(runs[1:])
        own = resident("RssAnon")
        exact = np.concatenate([rows.astype(np.float64) @ probes.T / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
                                for _, rows in batches()])
        truth = np.argsort(-exact, axis=0, kind="stable")[:10].T
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(places.tolist(), truth.tolist())])
        return {"built": built, "opened": opened, "one": times[1], "sixteen": times[16], "bytes": path.stat().st_size, "recall": recall,
                "own": own}


def resident(kind: str) -> int:
    """Bytes of this process in memory: RssAnon is its own, RssFile is the page cache's, which others may have back."""
    return next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))


def child(threads: int, *arguments: object) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, __file__, "--child", *map(str, arguments)], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict:
    """What a row's figures hold for."""
    import onnxruntime
    import torch

    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    units = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return {"cpu": names[0] if names else platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__, "units": [unit for unit in units if torch.cpu.get_capabilities().get(unit)]}


def speeds(backbone: str, folder: Path, threads: int, batch: int, rounds: int) -> dict:
    """Variant -> latency, rate and megabytes, the best of `rounds` turns."""
    if not (folder / f"{backbone}.int8").is_file():
        prepare(backbone, folder)
    taken: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            taken[variant].append(child(threads, "speed", variant, backbone, folder, threads, batch))
    return {variant: {
        "latency": min(run["latency"] for run in runs), "rate": max(run["rate"] for run in runs),
        "megabytes": (folder / f"{backbone}.{'int8' if variant == 'int8' else 'onnx'}").stat().st_size / 1e6,
    } for variant, runs in taken.items()}


def show(line: dict) -> None:
    """A row as a table."""
    row, found = line["row"], line["found"]
    where = f"{row['threads']} thread{'s' * (row['threads'] > 1)}, load {line['load']:.1f} at its start"
    if row["what"] == "gallery":
        print(f"\ngallery of {row['faces']:,} faces of {row['width']} numbers, {where}: built in {found['built']:.1f} s "
              f"({found['bytes'] / 1e9:.2f} GB), opened in {1000 * found['opened']:.1f} ms, searched in {1000 * found['one']:.0f} ms (one probe) "
              f"and {1000 * found['sixteen']:.0f} ms (sixteen), recall at 10 {found['recall']:.4f}, {found['own'] / 1e6:.0f} MB of its own", flush=True)
        return
    print(f"\n{row['backbone']}, batch {row['batch']}, {where}")
    print(f"{'variant':<40}{'ms, one':>9}{'faces/s':>9}{'ratio':>8}{'MB':>8}")
    for variant in VARIANTS:
        run = found[variant]
        ratio = run["rate"] / found["eager"]["rate"]
        print(f"{NAMES[variant]:<40}{run['latency']:>9.1f}{run['rate']:>9.1f}{ratio:>7.2f}x{run['megabytes']:>8.1f}", flush=True)


def main() -> None:
    options = {"backbones": "iresnet18,iresnet50,mobilefacenet", "threads": "1,2", "batch": "16", "rounds": "3", "faces": "1000000", "width": "512",
               "out": str(Path(__file__).parent / "results" / "deploy.jsonl")}
    options |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    from askd.models import BACKBONES

    results, here = Path(options["out"]), machine()
    print(f"{here['cpu']}, {here['cpus']} CPUs with {', '.join(here['units'])}; torch {here['torch']}, onnxruntime {here['onnxruntime']}")
    rows, threads = [], list(map(int, options["threads"].split(",")))
    for backbone in options["backbones"].split(","):
        if backbone not in BACKBONES:
            print(f"{backbone}: no such backbone; there are {', '.join(BACKBONES)}")
            continue
        rows += [{"what": "speed", "backbone": backbone, "threads": count, "batch": int(options["batch"])} for count in threads]
    if int(options["faces"]):
        rows += [{"what": "gallery", "faces": int(options["faces"]), "width": int(options["width"]), "threads": count} for count in threads]
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            lines = map(json.loads, results.read_text().splitlines() if results.is_file() else [])
            line = next((line for line in lines if (line["row"], line["machine"]) == (row, here)), None)
            if line is None:
                load = os.getloadavg()[0]
                found = child(row["threads"], "search", row["faces"], row["width"]) if row["what"] == "gallery" else speeds(
                    row["backbone"], Path(folder), row["threads"], row["batch"], int(options["rounds"]))
                line = {"row": row, "machine": here, "load": load, "rounds": int(options["rounds"]), "found": found}
                results.parent.mkdir(parents=True, exist_ok=True)
                with open(results, "a") as file:
                    file.write(json.dumps(line, sort_keys=True) + "\n")
            show(line)


if __name__ == "__main__":
    if "--child" in sys.argv:
        what, *rest = sys.argv[2:]
        if what == "speed":
            print(json.dumps(measure(rest[0], rest[1], Path(rest[2]), int(rest[3]), int(rest[4]))))
        else:
            print(json.dumps(search(*map(int, rest))))
    else:
        main()
