"""Put a catalogue's vectors into an index that searches, once it is known what its compression keeps.

    python recipes/run_index.py --embeddings vectors --output_dir index                    # every vector, in float32
    python recipes/run_index.py --embeddings vectors --queries query_vectors --pairs pairs.jsonl --compare --report_only
    python recipes/run_index.py --embeddings vectors --queries query_vectors --pairs pairs.jsonl --output_dir index \\
        --kind binary --rescore int8                                                       # measured, then written

The same as `mmembed index`; `--help` lists the options, `--print_config` prints what would be used. An index that keeps less
than `--floor` of NDCG@10 is not written. `mmembed.Index.load("index", model=model)` reads it, and refuses it where another
model made it.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
