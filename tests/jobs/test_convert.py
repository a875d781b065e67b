"""The verb: a checkpoint in, a folder out, and one line for what is wrong."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmembed.conversion import converting
from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.jobs.convert import main, summary
from mmembed.jobs.options import OptionsError


def test_options_reach_the_conversion_and_its_report_is_said(tmp_path, monkeypatch, capsys) -> None:
    given = {}

    def converted(family, path, output_dir, *, config, tokenizer):
        given.update(family=family, path=path, output_dir=output_dir, config=config, tokenizer=tokenizer)
        return {"family": "blip", "model": "M", "parameters": 1200, "mapped": {"a": ["b"], "c": ["d", "e"]},
                "dropped": {"q1": "of training", "q2": "of training"}, "missing": ["a tokenizer"], "notes": ["n"]}  # fmt: skip

    monkeypatch.setattr(converting, "convert_checkpoint", converted)
    words = ["--checkpoint", "w.pt", "--output_dir", str(tmp_path), "--family", "blip", "--config", "c.json"]
    assert main([*words, "--tokenizer", "bert"]) == 0
    assert given == {"family": "blip", "path": Path("w.pt"), "output_dir": tmp_path, "config": Path("c.json"), "tokenizer": "bert"}  # fmt: skip
    said = capsys.readouterr().out
    assert "blip → M, 1,200 parameters: 2 keys mapped, 2 dropped" in said
    assert "2 keys: of training" in said and "missing  a tokenizer" in said and "note     n" in said


def test_a_yaml_configuration_holds_options(tmp_path, monkeypatch) -> None:
    (tmp_path / "c.yaml").write_text(f"checkpoint: w.pt\noutput_dir: {tmp_path / 'out'}\nfamily: ruclip\n")
    seen = []
    report = {
        "family": "ruclip",
        "model": "M",
        "parameters": 1,
        "mapped": {},
        "dropped": {},
        "missing": [],
        "notes": [],
    }
    monkeypatch.setattr(converting, "convert_checkpoint", lambda *given, **more: seen.append(given) or report)
    assert main(["--config", str(tmp_path / "c.yaml"), "--config=c.json"]) == 0
    assert seen == [("ruclip", Path("w.pt"), tmp_path / "out")]


def test_wrong_families_and_files_leave_nothing_behind(tmp_path) -> None:
    with pytest.raises(OptionsError, match="family"):
        main(["--checkpoint", "w.pt", "--output_dir", str(tmp_path / "out"), "--family", "blop"])
    torch.save({"nothing.of.ours": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ConversionError, match="no family has keys such as nothing.of.ours"):
        main(["--checkpoint", str(tmp_path / "w.pt"), "--output_dir", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt"]


def test_the_summary_of_a_report_read_from_its_file_is_the_same() -> None:
    report = {
        "family": "blip",
        "model": "M",
        "parameters": 1,
        "mapped": {"a": ["b"]},
        "dropped": {},
        "missing": [],
        "notes": [],
    }
    assert summary(json.loads(json.dumps(report)), Path("x")) == summary(report, Path("x"))


@pytest.mark.parametrize(
    ("back", "family", "file"),
    [
        ("open_clip", "open_clip", "open_clip_model.safetensors"),
        ("cn_clip", "chinese_clip", "clip_cn.pt"),
        ("cn_clip_flash", "chinese_clip", "clip_cn.pt"),
    ],
)
def test_there_and_back_again_has_the_very_bits(tmp_path, capsys, back: str, family: str, file: str) -> None:
    from mmembed.conversion.checkpoint_reading import read_checkpoint

    tiny = importlib.import_module(f"tests.conversion.tiny_{family}")
    state = tiny.original_state_dict()
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pt"
    )
    (tmp_path / "c.json").write_text(json.dumps(tiny.CONFIG))
    words = ["--checkpoint", str(tmp_path / "w.pt"), "--config", str(tmp_path / "c.json")]
    assert main([*words, "--output_dir", str(tmp_path / "model")]) == 0
    assert main(["--back", back, "--checkpoint", str(tmp_path / "model"), "--output_dir", str(tmp_path / "back")]) == 0
    assert str(tmp_path / "back") in capsys.readouterr().out
    written = read_checkpoint(tmp_path / "back" / file)
    if back == "cn_clip_flash":  # another layout: the same model again, when it is read
        assert "bert.encoder.layer.0.attention.self.Wqkv.weight" in written.tensors
        given = ["--checkpoint", str(tmp_path / "back" / file), "--config", str(tmp_path / "c.json")]
        assert main([*given, "--output_dir", str(tmp_path / "again")]) == 0
        first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "again"))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    else:
        assert written.tensors.keys() == state.keys()
        assert all(torch.equal(written.tensors[name], value) for name, value in state.items())
    with pytest.raises(OptionsError, match="leave it out"):
        main(["--back", back, "--family", family, "--checkpoint", "m", "--output_dir", str(tmp_path / "x")])
