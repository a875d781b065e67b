"""How are two systems measured side by side? Each run in a process of its own, in turns, so that both meet the same load.

This process stays small and imports nothing heavy: on Linux a child's peak memory never reads below its parent's size.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

MEBIBYTE = 1 << 20


def alternate(
    script: str, systems: Mapping[str, Sequence[str]], *, repeats: int, threads: int
) -> dict[str, list[dict[str, float]]]:
    """Run A, B, A, B, …: each time `python script ARGUMENTS`, whose last line of output is a JSON object of numbers.

    Args:
        script: The benchmark's own file.
        systems: Name → the arguments that make the script measure that system once.
        repeats: How often each is measured.
        threads: Threads of numerical libraries.

    Returns:
        Name → what each of its runs reported.

    Raises:
        RuntimeError: If a run fails, with the end of its output.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for number in range(repeats):
        for name, arguments in systems.items():
            done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name} failed with {done.returncode}: {done.stderr[-2000:]}")
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            shown = ", ".join(f"{key} {value:.4g}" for key, value in found[name][-1].items())
            print(
                f"{number + 1}/{repeats} {name}: {shown} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True
            )
    return found


def median(runs: Sequence[Mapping[str, float]], key: str) -> float:
    """The median of one number over the runs of a system."""
    return statistics.median(run[key] for run in runs)


def ratio(runs: Sequence[Mapping[str, float]], peer: Sequence[Mapping[str, float]], key: str) -> str:
    """The median over the rounds of ours / the peer's in that round, and the smallest and largest, as "1.20 [1.10, 1.30]"."""
    ratios = [own[key] / other[key] for own, other in zip(runs, peer)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def peak_memory() -> float:
    """MiB at this process's largest, plus its largest finished child's."""
    used = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used * 1024 / MEBIBYTE


def machine(threads: int) -> str:
    """The machine in words."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores ({name}), {threads} thread{'s' if threads > 1 else ''} a process; load {load}"
