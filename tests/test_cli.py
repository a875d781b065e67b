"""The command: its verbs, its exit statuses, and how soon it answers."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

import mmembed
from mmembed import cli
from mmembed.cli import VERBS, Verb, main
from mmembed.images import ImageError, ImagePolicy
from mmembed.jobs.config_file import OptionsError


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mmembed", *words], capture_output=True, text=True)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Add a verb ``try`` whose job is the function given."""

    def add(function) -> None:
        module = types.ModuleType("mmembed_try")
        module.job = function
        monkeypatch.setitem(sys.modules, "mmembed_try", module)
        monkeypatch.setitem(cli.VERBS, "try", Verb("mmembed_try", "job", "try it"))

    return add


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_is_there_and_helps(name: str) -> None:
    assert find_spec(VERBS[name].module) is not None
    shown = run(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: mmembed {name} ") and "--print_config" in shown.stdout


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], *([name, "--help"] for name in sorted(VERBS))], ids=" ".join
)
def test_help_answers_within_a_second(words: list[str]) -> None:
    """Measured in processor time, which other programs on the machine do not stretch; the first run warms the disk."""
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert seconds[-1] < 1.0


@pytest.mark.parametrize("name", sorted(VERBS))
def test_help_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys\nfrom mmembed.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'PIL', 'numpy'} & set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)"
    )
    shown = subprocess.run([sys.executable, "-c", code, name, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name}" in text and verb.summary in text
    assert main([]) == 2  # nothing was done


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mmembed {mmembed.__version__}\n"


def test_a_wrong_verb_or_option_exits_with_2_and_the_nearest() -> None:
    wrong = run("trian")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "mmembed: error: unknown verb 'trian'; did you mean 'train'?\n"
    assert "the verbs are train" in run("zzzz").stderr
    wrong = run("catalogue", "--output_dri", "x")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "mmembed catalogue: error: unknown option --output_dri; did you mean --output_dir?\n"


def test_our_errors_are_one_line_and_others_keep_their_traceback(verb, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (OptionsError("no such thing"), ImageError("no such thing")):

        def fail(_: list[str], error: Exception = error) -> int:
            raise error

        verb(fail)
        assert main(["try"]) == 2
        assert capsys.readouterr().err == "mmembed try: error: no such thing\n"
        with pytest.raises(type(error)):
            main(["--debug", "try"])

    def surprise(_: list[str]) -> int:
        raise ValueError("of somebody else")

    verb(surprise)
    with pytest.raises(ValueError, match="of somebody else"):
        main(["try"])


def test_a_job_gets_its_words_and_gives_its_status(verb) -> None:
    got = []

    def job(words: list[str]) -> int:
        got.append(words)
        return 7

    verb(job)
    assert main(["try", "--debug", "a", "--x"]) == 7
    assert got == [["--debug", "a", "--x"]]


def test_an_interrupt_is_130(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: list[str]) -> int:
        raise KeyboardInterrupt

    verb(stop)
    assert main(["try"]) == 130
    assert capsys.readouterr().err == "mmembed try: interrupted\n"


def test_env_names_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import version

    from mmembed.jobs import env

    monkeypatch.setenv("HF_TOKEN", "hf_SECRET123")
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    for name in ("torch", "transformers", "sentence-transformers", "datasets", "accelerate", "pillow"):
        assert f"{name}: {version(name)}\n" in text
    assert f"CPU cores: {os.cpu_count()}" in text and "SECRET123" not in text

    versions = {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
    monkeypatch.setattr(env, "_version", versions.get)
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert "torchvision: 0.28.0 (warning: beside a CPU build of torch" in text and "faiss-cpu: not installed" in text


def test_the_catalogue_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "catalogue"
    words = ["catalogue", "--output_dir", str(folder), "--products", "3", "--photos", "2", "--size", "32"]
    assert main([*words, "--language", "ru"]) == 0
    assert os.listdir(folder.parent) == ["catalogue"]
    products = mmembed.read_items(folder / "products.jsonl")
    photos = mmembed.read_items(folder / "photos.jsonl")
    pairs = mmembed.read_pairs(folder / "pairs.jsonl")
    assert (len(products), len(photos), len(pairs)) == (3, 6, 3)
    assert products["text"][:] == products["title_ru"][:]
    for pair in pairs:
        assert len(pair["positive_ids"]) == 2 and set(pair["positive_ids"]) <= set(photos["id"])
    for item in (*products, *photos):
        assert Path(item["image"]["path"]).is_relative_to(folder)
        policy = ImagePolicy(root=str(folder))
        assert mmembed.load_image(item["image"]["path"], policy=policy).size == (32, 32)
    # a folder that is there is not touched
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert mmembed.read_items(folder / "products.jsonl")["text"][:] == products["title_ru"][:]


def test_a_catalogue_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmembed.data.writing

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(mmembed.data.writing, "write_pairs", full)
    with pytest.raises(OSError, match="disk full"):
        main(["catalogue", "--output_dir", str(tmp_path / "c"), "--products", "1", "--photos", "1", "--size", "32"])
    assert os.listdir(tmp_path) == []


def test_catalogue_options_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--output_dir", str(tmp_path / "c"), "--products", "0"]) == 2
    assert "--products" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
