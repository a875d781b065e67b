"""Vector stores in this process connect to no other machine: every connect() of theirs is watched, Rust's and C's too."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STORES = {
    "qdrant": """
from qdrant_client import QdrantClient
from mmembed.bridges.qdrant import search_qdrant, write_qdrant
client = QdrantClient(path=FOLDER)
write_qdrant(found, client, "mugs", items=items, show_progress_bar=False)
hits = search_qdrant(client, "mugs", queries, filters={"colour": "red"})
client.close()
""",
    "lancedb": """
from mmembed.bridges.lancedb import search_lancedb, write_lancedb
write_lancedb(found, FOLDER, "mugs", items=items, show_progress_bar=False)
hits = search_lancedb(FOLDER, "mugs", queries, filters={"colour": "red"})
""",
    "llama_index": """
from mmembed.bridges.llamaindex import MMEmbedEmbedding
from llama_index.core import Document, VectorStoreIndex
from tests.tiny_models import tiny_bert
index = VectorStoreIndex.from_documents([Document(text="red mug")], embed_model=MMEmbedEmbedding(tiny_bert()))
hits = index.as_retriever(similarity_top_k=1).retrieve("mug")
""",
}


@pytest.mark.slow
@pytest.mark.security
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows every connect()")
@pytest.mark.parametrize("store", STORES)
def test_no_other_machine_is_connected_to(store: str, tmp_path: Path) -> None:
    pytest.importorskip({"qdrant": "qdrant_client"}.get(store, store))
    script = tmp_path / "script.py"
    script.write_text(
        f"FOLDER = {str(tmp_path / 'store')!r}\n"
        "from tests.bridges import store_examples as examples\n"
        "found, items, queries = examples.embeddings(), examples.items(), examples.queries()\n"
        + STORES[store]
        + "assert hits and hits[0]\n"
        # what is watched is seen: one connection of our own
        + "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"
    )
    record = tmp_path / "connects"
    command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(record), sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env=_environment())
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("this machine allows no tracing")
    assert done.returncode == 0, done.stderr[-2000:]
    addresses = re.findall(
        r"sa_family=(AF_INET6?).*?(?:inet_addr\(\"|inet_pton\(AF_INET6, \")([^\"]+)", record.read_text()
    )
    assert ("AF_INET", "127.0.0.1") in addresses
    assert {address for _, address in addresses} <= {"127.0.0.1", "::1"}


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
