"""Turn a trained model into ONNX graphs that run anywhere, kept only if they give what the model gives.

    python recipes/ft_embedding.py --output_dir runs/first                                 # the drawn catalogue
    python recipes/run_export.py --model runs/first/model --output_dir runs/onnx --precision fp32 int8

    python recipes/run_export.py --model MODEL --items products.jsonl --image_root DIR \\
        --verbs text image --precision fp32 int8 --output_dir runs/onnx                    # compared on rows of your own
    python recipes/run_export.py --model RERANKER --kind reranker --output_dir runs/reranker-onnx

The same as `mmembed export`; `--help` lists the options, `--print_config` prints what would be used. Then:

    from mmembed.export.onnx_embedder import OnnxEmbedder
    vectors = OnnxEmbedder("runs/onnx", precision="int8").encode(["a red mug"])

recipes/export/README.md says what the folder holds and how other runtimes take it.
"""

import sys

from mmembed.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
