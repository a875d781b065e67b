"""BLIP's matching head as a CrossEncoder: against transformers' own logits, and BLIP's goldens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL import Image
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from torch import nn
from transformers import BlipForImageTextRetrieval, BlipProcessor

from mmembed.conversion import blip
from mmembed.conversion.checkpoint_reading import Checkpoint, read_checkpoint
from mmembed.rerankers.blip_itm import BlipImageTextMatching, load_blip_itm
from tests.conversion import tiny_blip

TEXTS = ["a red mug", "the quick brown fox jumps over the lazy dog", "green hat"]
ENCODE, CLASS = len(tiny_blip.VOCABULARY) - 1, tiny_blip.VOCABULARY.index("[CLS]")


def picture(seed: int, size: tuple[int, int] = (30, 41)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the conversion of a tiny checkpoint puts into `itm`."""
    root = tmp_path_factory.mktemp("blip")
    checkpoint = Checkpoint(root / "tiny.pth", tiny_blip.original_state_dict())
    made = blip.convert(checkpoint, tiny_blip.CONFIG, tiny_blip.write_tokenizer(root))
    for part in made.beside[blip.ITM]:
        part.save_pretrained(root / "itm")
    return root / "itm"


@torch.no_grad()
def stock_logits(folder: Path, pairs: list[tuple[str, Image.Image]], first: int) -> torch.Tensor:
    """(pairs, 2) of transformers alone, one pair at a time, the first token replaced by hand."""
    model, processor = BlipForImageTextRetrieval.from_pretrained(folder).eval(), BlipProcessor.from_pretrained(folder)
    logits = []
    for text, image in pairs:
        inputs = processor(images=image, text=text, return_tensors="pt")
        assert int(inputs["input_ids"][0, 0]) == CLASS
        inputs["input_ids"][0, 0] = first
        logits.append(model(**inputs).itm_score)
    return torch.cat(logits)


@pytest.mark.parametrize(("first_token", "first"), [("enc", ENCODE), ("cls", CLASS), (None, ENCODE)])
def test_scores_are_probabilities_of_a_match_with_either_first_token(
    first_token: str | None, first: int, folder: Path
) -> None:
    scorer = load_blip_itm(folder, first_token=first_token, device="cpu")
    pairs = [(text, picture(seed)) for seed, text in enumerate(TEXTS)]
    wanted = stock_logits(folder, pairs, first).softmax(dim=1)[:, 1].numpy()
    np.testing.assert_allclose(scorer.predict(pairs), wanted, atol=1e-5)  # a batch of unequal lengths
    np.testing.assert_allclose(scorer.predict(pairs, batch_size=1), wanted, atol=1e-5)
    assert isinstance(scorer, CrossEncoder) and scorer.num_labels == 1


def test_the_first_token_makes_a_difference_that_is_seen(folder: Path) -> None:
    pair = (TEXTS[0], picture(1))
    scores = [float(load_blip_itm(folder, first_token=name, device="cpu").predict(pair)) for name in ("enc", "cls")]
    assert abs(scores[0] - scores[1]) > 1e-3


def test_the_match_logit_alone_is_a_score_too(folder: Path) -> None:
    scorer = load_blip_itm(folder, score="match", device="cpu")
    pairs = [(text, picture(seed)) for seed, text in enumerate(TEXTS)]
    np.testing.assert_allclose(scorer.predict(pairs), stock_logits(folder, pairs, ENCODE)[:, 1], atol=1e-4)


def test_a_pair_comes_in_either_order_and_as_rows(folder: Path) -> None:
    scorer, image = load_blip_itm(folder, device="cpu"), picture(0)
    one = scorer.predict(("a red mug", image))
    same = [(image, "a red mug"), ({"text": "a red mug"}, {"image": image}), ["a red mug", np.asarray(image)]]
    np.testing.assert_allclose(scorer.predict(same), one, atol=1e-6)


def test_ranking_goes_both_ways_and_reads_an_image_once(folder: Path) -> None:
    scorer = load_blip_itm(folder, device="cpu")
    images = [picture(seed) for seed in range(4)]
    ranked = scorer.rank("a red mug", images)
    scores = scorer.predict([("a red mug", image) for image in images])
    assert [row["corpus_id"] for row in ranked] == list(np.argsort(-scores))
    ranked = scorer.rank(images[0], TEXTS, top_k=2)
    assert [row["corpus_id"] for row in ranked] == list(np.argsort(-scorer.predict([(images[0], t) for t in TEXTS])))[
        :2
    ]
    features = scorer.preprocess([(images[0], text) for text in TEXTS] + [(images[1], "hat")])
    assert len(features["pixel_values"]) == 2 and features["image_rows"].tolist() == [0, 0, 0, 1]


@pytest.mark.security
def test_texts_are_never_opened_and_control_tokens_are_read_as_text(folder: Path, tmp_path: Path) -> None:
    scorer, path = load_blip_itm(folder, device="cpu"), tmp_path / "secret.png"
    picture(5).save(path)
    for text in (str(path), "https://example.invalid/a.png", "data:image/png;base64,AAAA"):
        assert 0 < float(scorer.predict((text, picture(0)))) < 1
        with pytest.raises(ValueError, match="pair 1 holds str, str; expected one text and one image"):
            scorer.predict([("a mug", picture(0)), (text, "a mug")])
    ids = scorer.preprocess([("a [SEP] mug [ENC]", picture(0))])["input_ids"][0].tolist()
    assert ids.count(ENCODE) == 1 and ids[0] == ENCODE and ids.count(tiny_blip.VOCABULARY.index("[SEP]")) == 1


def test_texts_alone_are_counted_but_not_scored(folder: Path) -> None:
    scorer = load_blip_itm(folder, device="cpu")
    features = scorer.preprocess(TEXTS)
    assert features["attention_mask"].sum(dim=1).tolist() == [5, 11, 4]
    with pytest.raises(ValueError, match="texts alone have no score"):
        scorer(features)


@pytest.mark.parametrize("pair", [("a", None), ("a", "b"), (picture(0), picture(1)), ("a", picture(0), "b")])
def test_what_is_no_pair_is_refused_by_its_number(pair: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="pair 0 holds"):
        load_blip_itm(folder, device="cpu").predict([pair])


def test_a_text_is_cut_at_the_limit(folder: Path) -> None:
    scorer = load_blip_itm(folder, device="cpu")
    assert scorer.max_seq_length == 35
    assert scorer.preprocess([("mug " * 99, picture(0))])["input_ids"].shape == (1, 35)
    scorer.max_seq_length = 9
    assert scorer.preprocess([("mug " * 99, picture(0))])["input_ids"].shape == (1, 9)
    plain = scorer.preprocess([("find: a mug", picture(0))])["input_ids"]
    assert torch.equal(scorer.preprocess([("a mug", picture(0))], prompt="find: ")["input_ids"], plain)


@pytest.mark.parametrize("options", [{"first_token": "cls"}, {"score": "match"}])
def test_saved_and_loaded_it_scores_the_same(options: dict[str, str], folder: Path, tmp_path: Path) -> None:
    scorer = load_blip_itm(folder, device="cpu", **options)
    pairs = [(text, picture(seed)) for seed, text in enumerate(TEXTS)]
    wanted = scorer.predict(pairs)
    scorer.save_pretrained(str(tmp_path / "scorer"), create_model_card=False)
    np.testing.assert_array_equal(load_blip_itm(tmp_path / "scorer", device="cpu").predict(pairs), wanted)
    peer = CrossEncoder(str(tmp_path / "scorer"), device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(peer.predict(pairs), wanted)
    # The weights stay a stock model.
    state = BlipForImageTextRetrieval.from_pretrained(tmp_path / "scorer").state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in scorer[0].model.state_dict().items())


def test_options_and_folders_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first_token='sep'; choose one of enc, cls"):
        load_blip_itm(folder, first_token="sep")
    with pytest.raises(ValueError, match="score='both'; choose one of odds, match"):
        load_blip_itm(folder, score="both")
    with pytest.raises(ValueError, match="does not exist"):
        load_blip_itm(tmp_path / "absent")
    loaded = load_blip_itm(folder, device="cpu")[0]
    vocabulary = tiny_blip.VOCABULARY[:-3]  # neither BLIP's nor plain BERT's
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    processor = BlipProcessor(loaded.processor.image_processor, type(loaded.tokenizer)(str(tmp_path / "vocab.txt")))
    with pytest.raises(ValueError, match=r"no \[ENC\].*pass first_token='cls'"):
        BlipImageTextMatching(loaded.model, processor)
    assert BlipImageTextMatching(loaded.model, processor, first_token="cls").first_token == "cls"


def test_the_tokenizer_of_plain_bert_has_the_first_token_after_its_words(folder: Path, tmp_path: Path) -> None:
    """As in the folders of transformers' own conversion."""
    loaded = load_blip_itm(folder, device="cpu")[0]
    (tmp_path / "vocab.txt").write_text("\n".join(tiny_blip.VOCABULARY[:-2]) + "\n")
    processor = BlipProcessor(loaded.processor.image_processor, type(loaded.tokenizer)(str(tmp_path / "vocab.txt")))
    module = BlipImageTextMatching(loaded.model, processor)
    assert int(module.preprocess([("a mug", picture(0))])["input_ids"][0, 0]) == ENCODE


def test_a_converted_folder_is_entered_at_its_part(folder: Path) -> None:
    pair = ("a red mug", picture(0))
    assert load_blip_itm(folder.parent, device="cpu").predict(pair) == load_blip_itm(folder, device="cpu").predict(pair)


def test_binary_cross_entropy_is_the_matching_loss_and_trains_every_weight_of_it(folder: Path, tmp_path: Path) -> None:
    scorer = load_blip_itm(folder, device="cpu")
    images = [picture(seed) for seed in range(4)]
    texts, labels = ["a red mug", "green hat", "blue lamp", "fox"], [1, 0, 0, 1]
    logits = stock_logits(folder, list(zip(texts, images)), ENCODE)
    loss = BinaryCrossEntropyLoss(scorer)
    value = loss([texts, images], torch.tensor(labels, dtype=torch.float32))
    assert float(value.detach()) == pytest.approx(float(F.cross_entropy(logits, torch.tensor(labels))), abs=1e-4)

    before = {name: parameter.detach().clone() for name, parameter in scorer.named_parameters()}
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = Dataset.from_dict({"text": texts, "image": images, "label": labels})
    CrossEncoderTrainer(model=scorer, args=arguments, train_dataset=data, loss=loss).train()
    still = {
        name.split(".")[2] for name, parameter in scorer.named_parameters() if torch.equal(parameter, before[name])
    }
    assert still == {"text_proj", "vision_proj"}  # of contrast, not of matching


@torch.no_grad()
def test_golden_logits_of_blip(shared_data: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    source = shared_data / "parity" / "blip" / "itm"
    config = json.loads((source / "config.json").read_text())
    given, wanted = load_file(source / "inputs.safetensors"), load_file(source / "outputs.safetensors")
    (tmp_path / "vocab.txt").write_text("\n".join(config["vocab"]) + "\n")
    made = blip.convert(read_checkpoint(source / "original_checkpoint.pth"), config, tmp_path / "vocab.txt")
    golden = {
        "enc": wanted["itm_logits_retrieval_eval_enc_first_token"],
        "cls": wanted["itm_logits_blip_itm_cls_first_token"],
    }
    for first_token, logits in golden.items():
        scorer = CrossEncoder(
            modules=[BlipImageTextMatching(*made.beside[blip.ITM], first_token=first_token, score="match")],
            activation_fn=nn.Identity(),
            device="cpu",
        )
        features = scorer.preprocess([(caption, picture(0)) for caption in config["captions"]])
        length = features["input_ids"].shape[1]
        assert torch.equal(features["input_ids"][:, 1:], given["input_ids"][:, 1:length])
        features["pixel_values"], features["image_rows"] = given["pixel_values"], torch.arange(3)
        out = scorer(features)
        torch.testing.assert_close(out["itm_logits"], logits, atol=1e-4, rtol=0)
        if first_token == "enc":
            torch.testing.assert_close(out["scores"][:, 0], wanted["itm_score_enc"], atol=1e-4, rtol=0)
