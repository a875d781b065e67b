"""Shopee kernels' checkpoints → image towers: equal to the originals in a process with timm, refused well without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import is_timm_available

from mmembed.conversion import image_tower
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint
from mmembed.conversion.converting import convert_checkpoint
from tests.conversion import tiny_image_tower as tiny

ORIGINALS = ["dm_nfnet_f0", "eca_nfnet_l0"]


def checkpoint(tensors: dict[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint(Path("shopee.pt"), tensors)


CONVERT_AND_RUN = """
import json
import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor
import mmembed.models
from mmembed.conversion.checkpoint_reading import read_checkpoint
from mmembed.conversion.converting import recognise
from mmembed.conversion import image_tower
from mmembed.losses.arcface import ArcFaceLoss
from mmembed.conversion.converting import convert_checkpoint

original, out, results = sys.argv[1:]
config = json.load(open(original + "/config.json"))
assert image_tower.recognises(read_checkpoint(original + "/original_state_dict.safetensors"))
convert_checkpoint("image_tower", original + "/original_state_dict.safetensors", out, config=original + "/config.json")
model, inputs = AutoModel.from_pretrained(out).eval(), load_file(original + "/inputs.safetensors")
(head,) = image_tower.convert(
    read_checkpoint(original + "/original_state_dict.safetensors"), config, None
).beside["head"]
found = {}
stem = []
model.backbone.timm_model.stem.register_forward_hook(lambda module, given, output: stem.append(output))
output = model(pixel_values=inputs["pixel_values"])
found["backbone_stem"], found["backbone_final_act"] = stem[0], output.last_hidden_state
found["feature"] = model.neck(output.last_hidden_state.mean(dim=(2, 3)))
found["feature_normalized"] = output.pooler_output
loss = ArcFaceLoss(
    model, len(head.weight), scale=head.settings["scale"], margin=head.settings["margin"],
    easy_margin=head.settings["easy_margin"],
    dim=model.config.projection_dim,
)
loss.weight.data.copy_(head.weight)
found["arcface_logits"] = loss.logits(found["feature"], inputs["labels"])
found["arcface_loss"] = loss.classify(found["feature"], inputs["labels"])
found["arcface_loss"].backward()
found["grad_final_weight"] = loss.weight.grad
found["grad_stem_conv1_gain"] = model.backbone.timm_model.stem.conv1.gain.grad
picture = Image.fromarray(inputs["raw_image_uint8_hwc"].numpy())
pixels = AutoProcessor.from_pretrained(out)(images=[picture])["pixel_values"]
found["resized_cv2_linear_uint8"] = pixels[0].permute(1, 2, 0)
found["preprocessed_cv2_linear"] = model._normalized(pixels)[0]
save_file({name: value.detach().contiguous().clone() for name, value in found.items()}, results)
"""
ATOL = {"arcface_logits": 1e-4, "arcface_loss": 1e-4, "grad_final_weight": 1e-4, "grad_stem_conv1_gain": 1e-4}


@pytest.mark.parametrize("name", ORIGINALS)
def test_it_is_the_original(name: str, shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "parity" / "nfnet_arcface" / name
    tiny.run_with_timm(CONVERT_AND_RUN, original, tmp_path / "model", tmp_path / "found.safetensors")
    found, wanted = load_file(tmp_path / "found.safetensors"), load_file(original / "outputs.safetensors")
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], atol=ATOL.get(key, 1e-5), rtol=1e-5, msg=key)
    assert set(wanted) - set(found) == {
        key for key in wanted if key.startswith("head_")
    }  # in tests/losses/test_arcface.py
    report = json.loads((tmp_path / "model" / "conversion_report.json").read_text())
    keys = set(load_file(original / "original_state_dict.safetensors"))
    assert set(report["mapped"]) | set(report["dropped"]) == keys and not report["dropped"]
    kept = load_file(tmp_path / "model" / "head" / "arcface_head.safetensors")["weight"]
    assert torch.equal(kept, load_file(original / "original_state_dict.safetensors")["final.weight"])


CONTRACT = """
import numpy as np
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from mmembed.conversion.converting import convert_checkpoint
from mmembed.models.loading import load_model
from tests.conversion import tiny_image_tower as tiny
from tests.training.tiny_runs import make_trainer, training_pairs

root, variant = Path(sys.argv[1]), sys.argv[2]
state = getattr(tiny, "original_state_dict" + variant)()
state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
torch.save({"epoch": 3, "state_dict": {"module." + name: value for name, value in state.items()}}, root / "tower.pt")
config = getattr(tiny, "CONFIG" + variant.upper())
report = convert_checkpoint(None, root / "tower.pt", root / "model", config=config)
assert report["family"] == "image_tower" and report["source"]["nesting"] == ("state_dict", "module."), report
model = load_model(root / "model", device="cpu")
random = np.random.default_rng(0)
pictures = [Image.fromarray(random.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)) for i in range(9)]
together = model.encode(pictures, batch_size=64)
np.testing.assert_allclose(together, model.encode(pictures, batch_size=1), atol=1e-5)
np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
assert len(np.unique(np.round(together, 4), axis=0)) == 9
np.testing.assert_allclose(SentenceTransformer(str(root / "model"), device="cpu").encode(pictures), together, atol=1e-6)
half = load_model(root / "model", device="cpu", model_kwargs={"dtype": torch.bfloat16})
assert (half.encode(pictures).astype(np.float32) * together).sum(axis=1).min() > 0.98
model.save_pretrained(str(root / "again"), create_model_card=False)
np.testing.assert_array_equal(load_model(root / "again", device="cpu").encode(pictures), together)

data = training_pairs(query_use="image", document_use="image")
model = load_model(root / "model", device="cpu")
before = {name: value.detach().clone() for name, value in model.named_parameters()}
make_trainer(root / "two_steps", data, model, max_steps=2, learning_rate=1e-2).train()
still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
assert not still, still
results = []
for checkpointing in (False, True):
    model = load_model(root / "model", device="cpu")
    settings = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.01, "gradient_checkpointing": checkpointing}
    make_trainer(root / str(checkpointing), data, model, **settings).train()
    results.append({name: value.detach() for name, value in model.named_parameters()})
for name, value in results[0].items():
    torch.testing.assert_close(results[1][name], value, atol=1e-5, rtol=1e-4)
lora = make_trainer(root / "lora", data, load_model(root / "model", device="cpu"), lora={"r": 2, "target_modules": r".*stages.*conv1"})
lora.train()
assert np.abs(lora.model.encode(pictures) - together).max() > 1e-5
"""


@pytest.mark.parametrize("variant", ["", "_dm"])
def test_it_encodes_saves_and_trains_like_any_other(variant: str, tmp_path: Path) -> None:
    tiny.run_with_timm(CONTRACT, tmp_path, variant)


PLAIN_TIMM = """
import timm
from safetensors.torch import save_file
from mmembed.models.image_tower.modeling_image_tower import ImageTowerModel
from transformers import AutoModel
from tests.conversion import tiny_image_tower as tiny

for variant in ("", "_dm"):
    config, state = getattr(tiny, "CONFIG" + variant.upper()), getattr(tiny, "original_state_dict" + variant)()
    plain = timm.create_model(config["timm_model"], num_classes=0, global_pool="", **config["timm_tiny_kwargs"]).eval()
    plain.load_state_dict({n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone.")})
    from mmembed.conversion.converting import convert_checkpoint
    folder = sys.argv[1] + "/" + config["timm_model"]
    save_file(state, folder + ".safetensors")
    convert_checkpoint("image_tower", folder + ".safetensors", folder, config=config)
    ours = AutoModel.from_pretrained(folder).eval()
    pixels = torch.randn(3, 3, config["image_size"], config["image_size"])
    with torch.no_grad():
        feature = plain(pixels)
        if variant:
            p = state["pooling.p"]
            feature = feature.clamp(min=1e-6).pow(p).mean(dim=(2, 3)).pow(1 / p)
            feature = torch.nn.functional.linear(feature, state["fc.weight"], state["fc.bias"])
            feature = torch.nn.functional.batch_norm(
                feature, state["bn.running_mean"], state["bn.running_var"], state["bn.weight"], state["bn.bias"]
            )
        else:
            feature = feature.mean(dim=(2, 3))
        wanted = torch.nn.functional.normalize(feature)
        torch.testing.assert_close(ours(pixels).pooler_output, wanted, atol=1e-5, rtol=1e-5)
    # timm's own models become towers too
    tower = ImageTowerModel.from_backbone(ours.backbone, embedding_dim=6, image_size=config["image_size"])
    torch.testing.assert_close(tower(pixels).last_hidden_state, ours(pixels).last_hidden_state)
"""


def test_it_is_timm_and_the_neck_written_out(tmp_path: Path) -> None:
    tiny.run_with_timm(PLAIN_TIMM, tmp_path)


def test_misfits_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    script = """
from pathlib import Path
from safetensors.torch import save_file
from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.conversion.converting import convert_checkpoint
from tests.conversion import tiny_image_tower as tiny

root, good = Path(sys.argv[1]), tiny.original_state_dict_dm()
def without(name): return {n: v for n, v in good.items() if n != name}
cases = {
    "missing": (without("backbone.stem.conv2.gain"), tiny.CONFIG_DM, "backbone.stem.conv2.gain"),
    "misshapen": ({**good, "fc.weight": torch.zeros(12, 41)}, tiny.CONFIG_DM, "fc.weight"),
    "extra": ({**good, "backbone.stages.0.9.conv1.gain": torch.zeros(1)}, tiny.CONFIG_DM, "backbone.stages.0.9.conv1.gain"),
    "head": ({**good, "final.weight": torch.zeros(5, 13)}, tiny.CONFIG_DM, "final.weight"),
    "size": (good, None, "instead of"),
    "model": (good, {"timm_model": "no_such_model"}, "no_such_model"),
    "argument": (good, {"timm_model": "dm_nfnet_f0", "model_args": {"colour": 3}}, "colour"),
}
for name, (state, config, said) in cases.items():
    save_file(state, root / (name + ".safetensors"))
    try:
        convert_checkpoint("image_tower", root / (name + ".safetensors"), root / name, config=config)
    except ConversionError as error:
        assert said in str(error), (name, str(error))
    else:
        raise AssertionError(name)
    assert not (root / name).exists()
"""
    tiny.run_with_timm(script, tmp_path)


@pytest.mark.skipif(is_timm_available(), reason="timm is installed")
def test_without_timm_it_says_how_to_install_it(tmp_path: Path) -> None:
    save_file(tiny.original_state_dict(), tmp_path / "tower.safetensors")
    with pytest.raises(ConversionError, match=r"needs timm, which is not installed: pip install 'mmembed\[timm\]'"):
        convert_checkpoint("image_tower", tmp_path / "tower.safetensors", tmp_path / "out", config=tiny.CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_is_refused() -> None:
    with pytest.raises(ConversionError, match="reads no text"):
        image_tower.convert(checkpoint(tiny.original_state_dict()), tiny.CONFIG, "bert-base-uncased")


def test_only_its_own_are_recognised(shared_data: Path) -> None:
    found = {}
    for path in sorted((shared_data / "parity").rglob("*")):
        if path.suffix in (".safetensors", ".bin", ".pt", ".pth") and not path.name.startswith(("inputs", "outputs")):
            found[path.relative_to(shared_data / "parity").as_posix()] = image_tower.recognises(read_checkpoint(path))
    assert len(found) > 8
    assert [name for name, mine in found.items() if mine] == [
        f"nfnet_arcface/{name}/original_state_dict.safetensors" for name in ORIGINALS
    ]


def test_published_models_are_told_by_their_keys() -> None:
    eca, dm = tiny.original_state_dict(), tiny.original_state_dict_dm()
    assert image_tower._timm_name(eca) == "eca_nfnet_l0" and image_tower._timm_name(dm) == "dm_nfnet_f0"
    deeper = {name.replace("stages.0.0.", "stages.0.1."): value for name, value in eca.items()}
    assert image_tower._timm_name({**eca, **deeper}) == "eca_nfnet_l1"
    with pytest.raises(ConversionError, match="timm_model"):
        image_tower._timm_name({name: value for name, value in dm.items() if "skipinit" not in name})


def test_unknown_keys_are_named() -> None:
    state = {**tiny.original_state_dict(), "fc.scale": torch.zeros(1)}
    with pytest.raises(ConversionError, match="fc.scale"):
        image_tower.convert(checkpoint(state), tiny.CONFIG, None)


def test_the_head_is_kept_with_its_settings(tmp_path: Path) -> None:
    head = image_tower.ArcFaceHead(torch.ones(5, 4, dtype=torch.float16), {"scale": 30.0})
    head.save_pretrained(tmp_path / "head")
    with safe_open(tmp_path / "head" / "arcface_head.safetensors", "np") as file:
        assert json.loads(file.metadata()["settings"]) == {"scale": 30.0}
        np.testing.assert_array_equal(file.get_tensor("weight"), np.ones((5, 4), dtype=np.float32))
