"""Search by words and vectors, fused, rescored and reranked; with judgements, see what each stage adds and costs.

    mmembed encode --items products.jsonl --model MODEL --use image --output_dir runs/vectors
    python recipes/run_search.py --vectors runs/vectors --items products.jsonl --lexical items --query "red summer dress" --filter gender=Women
    python recipes/run_search.py --vectors runs/vectors --items products.jsonl --image photo.jpg --query "but in blue"

    python recipes/run_search.py --vectors runs/vectors --data FOLDER --lexical items --metrics ndcg@10 success@1    # the stages' table
    python recipes/run_search.py ... --save_pipeline runs/pipeline                       # all of it as one folder
    python recipes/run_search.py --pipeline runs/pipeline --queries queries.jsonl --output run.trec

The same as `mmembed search`; `--help` lists the options, `--print_config` prints what would be used. recipes/search/ measures
pipelines on real data.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
