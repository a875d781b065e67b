"""What `mmembed dpo` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mmembed.jobs.data_options import option

#: An adapter in the language model alone, see `mmembed.interactive.preference_trainer.LANGUAGE_MODEL`.
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
_DIALOGUES = 150


@dataclass
class DpoOptions:
    """Pairs of questions, the vision-language model that learns to prefer the better ones, and how. All of TRL's DPOConfig
    are options as well.

    Without `pairs` pairs of the drawn catalogue are made, without `model` a small new one that was taught to ask about what
    it sees.
    """

    allow_extra: ClassVar[bool] = True

    # data
    pairs: str | None = option(
        None, "parquet file of training pairs, as `mmembed preferences` writes it; null: drawn ones"
    )
    held_out: str | None = option(
        None, "parquet file of pairs of other targets, to measure on; null: nothing is measured"
    )
    catalogue: dict[str, Any] = option({}, "of the drawn pairs: products, states, attributes, captions, seed, …")

    # model
    model: str | None = option(None, "vision-language model: a folder or a Hub name; null: a small new one")
    revision: str | None = option(None, "branch, tag or commit of the model on the Hub")
    dtype: str = option("auto", "of the weights, such as bfloat16; auto: the saved one")
    processor_kwargs: dict[str, Any] = option(
        {},
        "of the processor, such as {do_image_splitting: false} or {max_pixels: 200704}: how many tokens an image takes",
    )
    train: Literal["lora", "full"] = option("lora", "a low-rank adapter on the language model, or every weight")
    lora: dict[str, Any] = option(
        {}, "of the adapter, as peft's LoraConfig has it; what is left out: r 16, lora_alpha 32"
    )

    # training
    loss: Literal["sigmoid", "robust", "ipo", "sigmoid+sft"] = option(
        "sigmoid", "loss; robust takes a share label_smoothing of the pairs for wrong"
    )
    warm_start: dict[str, Any] = option(
        {}, "fine-tune on the chosen questions first, with these arguments of TRL's SFTConfig; empty: do not"
    )
    precompute_reference: bool = option(True, "compute the reference's log-probabilities once, not in every step")

    # the loop, with the base and the trained model
    loop_dialogues: int | None = option(
        None,
        "dialogues that are played with both, choosing among questions about what is shown; 0: none; null: 150 over the drawn "
        "products, and over items of your own where --loop names them",
    )
    loop_rounds: int = option(5, "questions in each")
    loop: dict[str, Any] = option(
        {},
        "of `mmembed interact`: items, attributes, query_column, …, where the pairs are your own; answers are simulated",
    )

    # what comes out
    output_dir: str | None = option(None, "folder of the run; null: runs/dpo, or the next free runs/dpo-N")
    resume: bool = option(True, "go on from the newest whole checkpoint in output_dir")
    measure_batch_size: int = option(8, "pairs a forward pass where they are measured")
    bootstrap_samples: int = option(2000, "resamples of the 95 % intervals")
    language: list[str] = option([], "languages of the questions, for the model card")
    license: str | None = option(None, "licence of the model, for the model card")

    def dialogues(self) -> int:
        """How many dialogues are played."""
        if self.loop_dialogues is not None:
            return self.loop_dialogues
        return _DIALOGUES if self.pairs is None or self.loop else 0

    extra: dict[str, Any] = field(default_factory=dict, init=False)
    sources: dict[str, str] = field(default_factory=dict, init=False)
