from __future__ import annotations

import html
import json
import os
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load

from mmembed.export.card import CardFacts, card_text, write_card
from mmembed.models.dual_encoder.building import build_dual_encoder

HOSTILE = (
    "---\nlicense: evil\n---\n<img src=x onerror=alert(1)>\n{{ config.__class__ }} {% include 'x' %} "
    "| a | b |\n# heading\n```\n[x](javascript:alert(1)) ![y](http://t/y.png) <!-- 连衣裙 платье"
)


def figure(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


RESULTS = {
    "before": {"text_to_image": {"n": 80, "documents": 90, "recall@1": figure(0.0125, 0, 0.0375), "mrr": 0.06}},
    "after": {
        "text_to_image": {"n": 80, "documents": 90, "recall@1": figure(0.5, 0.3875, 0.6125), "mrr": 0.6},
        "image_to_text": {"n": 80, "documents": 90, "recall@1": figure(0.4, 0.2925, 0.5075), "mrr": 0.5},
        "mean_recall": 0.45,
    },
}


@pytest.fixture
def facts():
    return CardFacts(
        "red-shoes",
        inputs=("text", "image", "fused"),
        dimensions=128,
        base_model="owner/tower",
        languages=["en", "zh"],
        license="apache-2.0",
        datasets=["owner/shoes"],
        tags=["e-commerce"],
        description="Finds shoes.",
        limitations="Only shoes.",
        training_data={"training pairs": 5956, "fields": "title, image", "leakage check": "0 rows in both parts"},
        losses=["MultipleNegativesRankingLoss, temperature 0.05"],
        hyper_parameters={"learning_rate": 1e-3, "freeze": None, "ks": [1, 5], "bf16": False, "hub_token": "hf_SECRET"},
        results=RESULTS,
        gains={"text_to_image": {**figure(0.4875, 0.375, 0.6), "p_value": 0.0004, "n": 80}},
        versions={"mmembed": "0.1.0"},
    )


def test_metadata_is_what_the_hub_reads(facts, tmp_path):
    path = write_card(tmp_path, facts)
    data = ModelCard.load(path).data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert (data.base_model, data.language, data.license) == ("owner/tower", ["en", "zh"], "apache-2.0")
    assert data.datasets == ["owner/shoes"] and data.metrics == ["recall@1", "mrr"]
    assert {"sentence-transformers", "mmembed", "multimodal", "e-commerce"} <= set(data.tags)
    read = {(result.dataset_name, result.metric_type): result.metric_value for result in data.eval_results}
    assert read == {
        ("owner/shoes (text → image)", "recall@1"): 0.5,
        ("owner/shoes (text → image)", "mrr"): 0.6,
        ("owner/shoes (image → text)", "recall@1"): 0.4,
        ("owner/shoes (image → text)", "mrr"): 0.5,
        ("owner/shoes", "mean_recall"): 0.45,
    }
    assert metadata_load(path)["model-index"][0]["name"] == "red-shoes"


def test_the_card_says_what_it_was_told(facts):
    text = card_text(facts)
    assert "texts, images and texts with an image to 128-dimensional vectors" in text
    assert "fine-tuned from owner/tower" in text and "Finds shoes." in text and "## Limitations\n\nOnly shoes." in text
    for line in (
        "| direction | model | recall@1 | mrr | queries | documents |",
        "| text → image | before | 0.013 (0.000–0.037) | 0.060 | 80 | 90 |",
        "| text → image | after | 0.500 (0.388–0.613) | 0.600 | 80 | 90 |",
        "| image → text | after | 0.400 (0.292–0.507) | 0.500 | 80 | 90 |",
        "- text → image: recall@1 +0.487 (+0.375 to +0.600), p &lt; 0.001, paired over 80 queries",
        "| training pairs | 5956 |",
        "| leakage check | 0 rows in both parts |",
        "- MultipleNegativesRankingLoss, temperature 0.05",
        "| learning_rate | 0.001 |",
        "| freeze | null |",
        r"| ks | \[1, 5\] |",
        "| bf16 | false |",
        "| mmembed | 0.1.0 |",
    ):
        assert line in text.splitlines(), line
    assert "95% bootstrap intervals" in text
    assert "SECRET" not in text and "hub_token" not in text
    assert "More Information Needed" not in text and "None" not in text


def test_nothing_is_said_of_what_is_not_known(tmp_path):
    text = write_card(tmp_path, CardFacts("red-shoes", inputs=["text"])).read_text()
    assert set(re.findall(r"^## (.*)$", text, re.M)) == {"Use", "Versions"}
    assert set(metadata_load(tmp_path / "README.md")) == {"library_name", "pipeline_tag", "tags"}
    assert "PIL" not in text and "intervals" not in text
    assert "sentence-transformers |" in text  # the installed versions


@pytest.mark.security
def test_a_strangers_texts_stay_texts(tmp_path):
    figures = {"recall@1": figure(0.5, 0.4, 0.6), "n": 10, HOSTILE: 0.1}
    facts = CardFacts(
        HOSTILE,
        base_model=[HOSTILE, "owner/tower"],
        datasets=[HOSTILE, "owner/shoes"],
        description=HOSTILE,
        limitations=HOSTILE,
        training_data={HOSTILE: HOSTILE, "list": [HOSTILE]},
        losses=[HOSTILE],
        hyper_parameters={HOSTILE: {HOSTILE: HOSTILE}},
        results={HOSTILE: {HOSTILE: figures}, "after": {HOSTILE: figures}},
        gains={HOSTILE: {**figure(0.1, 0, 0.2), "p_value": 0.2, "n": 10}},
        gain_metric=HOSTILE,
        versions={HOSTILE: HOSTILE},
    )
    path = write_card(tmp_path, facts)
    text = path.read_text(encoding="utf-8")
    card = ModelCard.load(path)
    assert card.data.license is None and card.data.base_model == "owner/tower" and card.data.datasets == ["owner/shoes"]
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["library_name"] == "sentence-transformers"
    assert not re.search(r"^\s*---", body, re.M)
    for sign in ("{{", "{%", "}}", "%}"):
        assert sign not in text
    assert "<" not in front and "<" not in body

    markdown_it = pytest.importorskip("markdown_it")
    page = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)
    known = {"h1", "h2", "p", "a", "pre", "code", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"<(\w+)", page)) == known
    assert re.findall(r'href="([^"]*)"', page) == ["https://sbert.net"]
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    # Name, description, limitations, datasets, a pair, a list, loss, a pair of pairs, metric, directions, stages, gains …
    assert shown.count("连衣裙 платье") >= 15
    assert f"# {' '.join(HOSTILE.split())}"[2:] in shown


@pytest.mark.security
def test_folders_of_the_machine_are_not_published(facts):
    for path in ("/home/anna/secret-project/clip", "C:\\Users\\anna\\clip", "./anna/clip/"):
        text = card_text(replace(facts, base_model=path))
        assert "fine-tuned from clip with" in text and "anna" not in text
        assert "base_model" not in yaml.safe_load(text.split("---\n")[1])


def test_a_folder_that_is_here_is_no_hub_model(facts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs/clip")
    text = card_text(replace(facts, base_model="runs/clip"))
    assert "fine-tuned from clip with" in text and "base_model" not in yaml.safe_load(text.split("---\n")[1])


def test_the_example_runs(tmp_path, monkeypatch):
    small = {"text_hidden_size": 16, "text_layers": 1, "image_embedding_size": 8, "projection_dim": 8, "image_size": 32}
    model = build_dual_encoder(["a red dress", "a blue mug"], image_hidden_sizes=[8], image_depths=[1], **small)
    model.save_pretrained(str(tmp_path), create_model_card=False)
    facts = CardFacts("red-shoes", inputs=("text", "image", "fused"))
    text = write_card(tmp_path, facts).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    names: dict = {}
    exec(code, names)
    assert names["texts"].shape == (2, 8) and names["images"].shape == names["fused"].shape == (1, 8)
    assert names["scores"].shape == (2, 1)
    for verb, rows in (
        ("texts", [{"text": "a red dress"}, {"text": "a blue mug"}]),
        ("images", [{"image": names["photo"]}]),
    ):
        assert names[verb] == pytest.approx(model.encode(rows), abs=1e-6)


@pytest.mark.parametrize("folder", [".", "0_Transformer"])
def test_own_code_is_announced(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}))
    assert 'SentenceTransformer(".", trust_remote_code=True)' in write_card(tmp_path, CardFacts("shoes")).read_text()
    (tmp_path / folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert "trust_remote_code" not in write_card(tmp_path, CardFacts("shoes", model_id="owner/shoes")).read_text()
    assert 'SentenceTransformer("owner/shoes")' in (tmp_path / "README.md").read_text()


def test_contact_sheet_is_a_file_beside_the_card(facts, tmp_path):
    for name in ("sheet.png", "../sheet.png", "/etc/passwd"):
        with pytest.raises(ValueError, match="is not the name of a file in"):
            write_card(tmp_path, replace(facts, contact_sheet=name))
    (tmp_path / "contact sheet).png").write_bytes(b"png")
    text = write_card(tmp_path, replace(facts, contact_sheet="contact sheet).png")).read_text()
    assert "![Queries and their top results](contact%20sheet%29.png)" in text


def test_the_old_card_stays_until_the_new_one_is_whole(facts, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_card(tmp_path, facts)
    assert (tmp_path / "README.md").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    write_card(tmp_path, facts)
    assert "red-shoes" in (tmp_path / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".eval_results", "README.md"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["sound"]}, "inputs must be some of text, image, fused"),
        ({"languages": ["English"]}, "languages: the Hub does not take 'English'"),
        ({"languages": "en"}, "in a list"),
        ({"license": "Apache 2"}, "license: the Hub does not take 'Apache 2'"),
        ({"tags": ["{{x}}"]}, "tags: the Hub does not take"),
        ({"model_id": "a/b/c"}, "model_id: the Hub does not take 'a/b/c'"),
    ],
)
def test_errors_say_what_was_got(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CardFacts("shoes", **options)


def test_a_folder_is_needed(tmp_path):
    with pytest.raises(ValueError, match="save the model first"):
        write_card(tmp_path / "absent", CardFacts("shoes"))


def test_the_command_and_the_datas_hashes_are_told(facts):
    command = "mmembed train --items shoes.jsonl --catalogue '{\"size\": 48}'"
    text = card_text(replace(facts, command=command, data_hashes={"shoes.jsonl": "ab" * 32}))
    assert f"## Training\n\nThe command:\n\n```bash\n{command}\n```\n" in text
    training, after = text.split("## Training data\n")[1].split("## Training\n")
    assert f"| shoes.jsonl | {'ab' * 32} |" in training and "shoes.jsonl" in after
    alone = card_text(CardFacts("shoes", data_hashes={"a": "b"}))
    assert "## Training data\n\n| data | SHA-256 |" in alone


@pytest.mark.security
def test_a_command_cannot_leave_its_fence_and_holds_no_secret():
    command = (
        f"mmembed train --run_name '{HOSTILE}' ```` --hub_token hf_SECRET --api-key='two words' --wandb_password=x"
    )
    text = card_text(CardFacts("shoes", command=command, versions={}))
    for hidden in ("SECRET", "two words", "password=x", "{{", "{%", "}}", "%}"):
        assert hidden not in text
    markdown_it = pytest.importorskip("markdown_it")
    page = markdown_it.MarkdownIt("commonmark", {"html": True}).render(text.split("---\n", 2)[2])
    assert page.count("<pre>") == 2 and "<img" not in page and "<h1>" in page and page.count("<h1>") == 1
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "sentence-transformers"
