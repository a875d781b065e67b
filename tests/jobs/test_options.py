"""Options: what a command line and a YAML file become, and what they are refused for."""

from __future__ import annotations

import dataclasses
import enum
import os
import stat
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml

from mmembed.jobs.config_file import PlainText, read_config
from mmembed.jobs.config_writing import dump_yaml
from mmembed.jobs.option_values import WrongTypeError, read_value
from mmembed.jobs.options import OptionsError, apply_extra, parse_options, save_config, to_yaml


def option(help_text: str, default: Any = dataclasses.MISSING, factory: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, default_factory=factory, metadata={"help": help_text})


@dataclasses.dataclass
class Options:
    model: str = option("name or folder of a model")
    learning_rate: float = option("the peak learning rate", 5e-5)
    epochs: int = option("passes over the data", 1)
    shuffle: bool = option("whether to shuffle", True)
    ks: list[int] = option("ranks to report", factory=lambda: [1, 10])
    language: Literal["en", "zh", "no"] = option("language of the titles", "en")
    root: Path | None = option("folder of the images", None)
    crop: tuple[float, float] = option("smallest and largest crop", (0.5, 1.0))
    loss_arguments: dict[str, Any] = option("arguments of the loss", factory=lambda: {"scale": 20})
    limit: int | None = option("rows at most", 100)


@dataclasses.dataclass
class OptionsWithExtra:
    allow_extra: ClassVar[bool] = True
    model: str = option("name or folder of a model")
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, init=False)
    sources: dict[str, str] = dataclasses.field(default_factory=dict, init=False)


class Pace(enum.Enum):
    STEPS = "steps"
    NO = "no"


@dataclasses.dataclass
class Heavy:
    output_dir: str | None = option("where to write", None)
    learning_rate: float = option("the peak learning rate", 5e-5)
    bf16: bool = option("whether to train in bfloat16", False)
    save_strategy: Pace | str = option("when to save", Pace.STEPS)
    report_to: None | str | list[str] = option("where to report", None)
    scheduler: dict[str, Any] | str | None = option("arguments of the scheduler", None)
    run_name: str | None = option("name of the run", None)
    hidden: int = dataclasses.field(default=3, init=False)


def parse(*words: str) -> Options:
    return parse_options(Options, ["--model", "tiny", *words])


def refused(*words: str, options: type = Options) -> str:
    with pytest.raises(OptionsError) as error:
        parse_options(options, list(words))
    return str(error.value)


def config(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--learning_rate", "2e-5"], "learning_rate", 2e-5),
        (["--learning-rate", "1"], "learning_rate", 1.0),
        (["--learning_rate=-0.5"], "learning_rate", -0.5),
        (["--epochs", "-3"], "epochs", -3),
        (["--shuffle"], "shuffle", True),
        (["--no_shuffle"], "shuffle", False),
        (["--no-shuffle"], "shuffle", False),
        (["--shuffle", "false"], "shuffle", False),
        (["--shuffle=True"], "shuffle", True),
        (["--ks", "1", "5", "10"], "ks", [1, 5, 10]),
        (["--ks", "7"], "ks", [7]),
        (["--ks", "[1,5]"], "ks", [1, 5]),
        (["--ks=[]"], "ks", []),
        (["--language", "no"], "language", "no"),
        (["--root", "images/here"], "root", Path("images/here")),
        (["--root", "null"], "root", None),
        (["--crop", "0.1", "0.9"], "crop", (0.1, 0.9)),
        (["--limit", "null"], "limit", None),
        (["--limit", "7", "--limit", "8"], "limit", 8),
        (["--loss_arguments", '{"temperature": 2e-2}'], "loss_arguments", {"temperature": 0.02}),
        (["--loss_arguments", "{}"], "loss_arguments", {}),
        (["--loss_arguments.scale", "30"], "loss_arguments", {"scale": 30}),
        (["--loss_arguments.name", "no"], "loss_arguments", {"scale": 20, "name": "no"}),
        (
            ["--loss_arguments.inner.a", "true", "--loss_arguments.inner.b", "null"],
            "loss_arguments",
            {"scale": 20, "inner": {"a": True, "b": None}},
        ),
        (["--loss_arguments", '{"a": 1}', "--loss_arguments.b", "2"], "loss_arguments", {"a": 1, "b": 2}),
    ],
)
def test_words_become_values(words: list[str], name: str, value: Any) -> None:
    options = parse(*words)
    assert getattr(options, name) == value
    assert type(getattr(options, name)) is type(value)
    for field in dataclasses.fields(Options):  # and nothing else moves
        if field.name not in (name, "model"):
            assert getattr(options, field.name) == getattr(Options("tiny"), field.name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m", "--epoch", "1"], "unknown option --epoch; did you mean --epochs?"),
        (["--model", "m", "--zzzzzz", "1"], "unknown option --zzzzzz; --help lists them"),
        (["--model", "m", "--print_confg"], "did you mean --print_config?"),
        (["--model", "m", "--epochs", "five"], "--epochs: found the text 'five', wanted whole number"),
        (["--model", "m", "--epochs", "1.5"], "--epochs: found the text '1.5', wanted whole number"),
        (["--model", "m", "--epochs", "null"], "--epochs: found null, wanted whole number"),
        (["--model", "m", "--epochs", "1", "2"], "--epochs: found list [1, 2], wanted whole number"),
        (["--model", "m", "--epochs"], "--epochs: found no value, wanted whole number"),
        (["--model", "m", "--learning_rate", "nan"], "--learning_rate: found the text 'nan', wanted number"),
        (["--model", "m", "--shuffle", "perhaps"], "--shuffle: found the text 'perhaps', wanted true or false"),
        (["--model", "m", "--no_shuffle", "true"], "--no_shuffle: found the value 'true'"),
        (
            ["--model", "m", "--ks", "1", "x"],
            "--ks: found the text 'x', wanted whole number in the list of whole numbers",
        ),
        (["--model", "m", "--crop", "0.1"], "--crop: found the text '0.1', wanted list of number, number"),
        (["--model", "m", "--language", "ru"], "--language: found the text 'ru', wanted one of en, zh, no"),
        (["--model", "m", "--loss_arguments", "3"], "--loss_arguments: found the text '3', wanted mapping"),
        (["--model", "m", "--epochs.a", "3"], "--epochs.a: epochs is whole number and has no parts"),
        (["stray", "--model", "m"], "found 'stray' where an option was expected"),
        (["--epochs", "3"], "missing: --model"),
        (["--model", "m", "--config"], "--config needs the path of a YAML file"),
        (
            ["--model", "m", "--config", "nowhere.yaml"],
            "nowhere.yaml: cannot read the configuration file: No such file",
        ),
    ],
)
def test_wrong_words_are_refused_with_what_was_wanted(words: list[str], message: str) -> None:
    assert message in refused(*words)


def test_a_value_error_of_the_dataclass_is_an_options_error() -> None:
    @dataclasses.dataclass
    class Checked:
        size: int = option("side in pixels", 1)

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ValueError(f"size must be at least 1, got {self.size}")

    assert refused("--size", "0", options=Checked) == "size must be at least 1, got 0"


def test_several_dataclasses_share_one_command_line() -> None:
    @dataclasses.dataclass
    class More:
        seed: int = option("seed of every draw", 0)

    first, second = parse_options([Options, More], ["--seed", "3", "--model", "tiny"])
    assert (first, second) == (Options("tiny"), More(3))
    with pytest.raises(TypeError, match="Options.model: an option of that name is already there"):
        parse_options([Options, Options], [])


# --- configuration files ------------------------------------------------------------------------------------------


def test_options_win_over_files_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model: one\nepochs: 2\nlimit: 5\nloss_arguments: {scale: 1, margin: 2e-1}\n")
    second.write_text("model: two\nlimit: null\n")
    words = ["--epochs", "9", "--loss_arguments.scale", "3", "--config", str(first), str(second)]
    assert parse_options(Options, words) == Options(
        "two", epochs=9, limit=None, loss_arguments={"scale": 3, "margin": 0.2}
    )


def test_a_plain_yaml_scalar_means_what_its_option_wants(tmp_path: Path) -> None:
    text = "model: 007\nlearning_rate: 2e-5\nlanguage: no\nroot: 2024-01-01\nks: [1, 5]\nshuffle: off\nlimit:\n"
    options = parse_options(Options, ["--config", config(tmp_path, text)])
    assert options == Options("007", 2e-5, 1, False, [1, 5], "no", Path("2024-01-01"), limit=None)
    # the reason for a reader of our own: YAML 1.1 makes a text of the number and a bool of the language
    assert yaml.safe_load(text)["learning_rate"] == "2e-5" and yaml.safe_load(text)["language"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\n\nlaerning_rate: 1\n", ":3: unknown option 'laerning_rate'; did you mean 'learning_rate'?"),
        ("model: m\nconfig: other.yaml\n", ":2: unknown option 'config'"),
        ("model: m\nepochs: 1.5\n", ":2: epochs: found the text '1.5', wanted whole number"),
        ("model: m\nepochs: [1]\n", ":2: epochs: found list [1], wanted whole number"),
        ("model: [a, b]\n", ":1: model: found list ['a', 'b'], wanted text"),
        ("model:\n", ":1: model: found null, wanted text"),
        ("model: m\nks: {a: 1}\n", ":2: ks: found mapping {'a': 1}, wanted list of whole numbers"),
        ("model: m\nmodel: n\n", ":2: the key 'model' stands twice"),
        ("model: m\nloss_arguments:\n  a: 1\n  a: 2\n", ":4: the key 'a' stands twice"),
        ("- model\n", ":1: found list, wanted a mapping"),
        ("just words\n", ":1: found PlainText, wanted a mapping"),
        ("model: 'm\n", "not valid YAML"),
        ("model: m\n---\nmodel: n\n", ":2: not valid YAML: but found another document"),
        ("? [a]\n: b\n", ":1: a key must be a text"),
    ],
)
def test_wrong_files_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = config(tmp_path, text)
    found = refused("--config", path)
    assert found.startswith(path) and message in found


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert parse("--config", config(tmp_path, "# nothing yet\n")) == Options("tiny")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.security
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: !!python/object/apply:os.system ['touch marker']\n", "the tag 'tag:yaml.org,2002:python/object"),
        ("model: !!python/name:os.system\n", "the tag 'tag:yaml.org,2002:python/name"),
        ("!!python/object/new:os.system [touch marker]\n", "is refused"),
        ("loss_arguments: !!set {a, b}\n", "the tag 'tag:yaml.org,2002:set' is refused"),
        ("model: !secret abc\n", "the tag '!secret' is refused"),
        ("env:\n  LD_PRELOAD: ./evil.so\n", ":1: an `env` block is refused"),
        ("env: {HF_ENDPOINT: 'http://evil'}\n", ":1: an `env` block is refused"),
        ("model: &a m\nloss_arguments:\n  <<: {b: 1}\n", ":3: merge keys"),
        (BOMB, "the configuration is too large"),
        ("a: &a [*a]\n", "the configuration is too large"),
        ("ks: [" + "1," * 10_001 + "]\n", "the configuration is too large"),
        ("ks: " + "[" * 5_000 + "]" * 5_000 + "\n", "the configuration is too large"),
        ("model: " + "x" * 1_000_001, "at most 1,000,000 bytes"),
        ("model: a\x00b\n", "not valid YAML"),
    ],
)
@pytest.mark.parametrize("options", [Options, OptionsWithExtra])
def test_hostile_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, options: type
) -> None:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    assert message in refused("--config", config(tmp_path, text), options=options)
    assert os.environ == before
    assert not (tmp_path / "marker").exists()


@pytest.mark.security
def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"model: caf\xe9\n")
    assert refused("--config", str(path)).endswith("byte 10 is not UTF-8; save the file as UTF-8")


def test_what_is_dumped_reads_back(tmp_path: Path) -> None:
    """Against PyYAML's own loader and against ours, for texts that look like something else."""
    texts = [
        "2e-5",
        "1e5",
        "-0",
        "089",
        ".5",
        "5.",
        "yes",
        "no",
        "null",
        "~",
        "",
        "true",
        "2024-01-01",
        "a: b",
        "[1]",
        "1_0",
    ]
    texts += [
        "*x",
        "&x",
        "!x",
        "<<",
        "=",
        "0x1f",
        "1:30",
        "тапки",
        "鞋",
        "two\nlines",
        " spaced ",
        "'",
        '"',
        "#",
        "🦊",
        ".inf",
    ]
    values = {
        "texts": texts,
        "numbers": [1, -7, 0.1, 2e-5, 1e22, float("inf")],
        "others": [True, False, None, {"a": []}],
    }
    path = config(tmp_path, dump_yaml(values))
    assert yaml.safe_load(Path(path).read_text(encoding="utf-8")) == values
    read = read_config(path).values
    assert {name: read_value(value, list[Any]) for name, value in read.items()} == values


# --- the effective configuration ----------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], options: type, words: list[str], **keywords: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_options(options, [*words, "--print_config"], **keywords)
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--learning_rate", "2e-5", "--no_shuffle", "--ks", "[]", "--language", "no", "--root", "a: b"],
        ["--limit", "null", "--loss_arguments.text", "2e-5 ", "--loss_arguments.number", "2e-5", "--crop", "0", "1"],
    ],
)
def test_print_config_round_trips(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    text = printed(capsys, Options, ["--model", "null me not", *words])
    direct = parse_options(Options, ["--model", "null me not", *words])
    assert parse_options(Options, ["--config", config(tmp_path, text)]) == direct
    assert to_yaml(direct) == text
    assert list(yaml.safe_load(text)) == [field.name for field in dataclasses.fields(Options)]


def test_print_config_refuses_what_a_run_would(tmp_path: Path) -> None:
    assert refused("--model", "m", "--print_config", "--epoch", "1").startswith("unknown option --epoch")


@pytest.mark.security
def test_saved_configurations_hold_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET123")
    mapping = {
        "hub_token": "abc-SECRET123",
        "OPENAI_API_KEY": "SECRET123",
        "nested": {"password": 123, "client_secret": "SECRET123", "list": [{"api-key": "SECRET123"}]},
        "note": "curl -H 'Bearer hf_SECRET123'",
        "tokenizer": "bert",
        "max_new_tokens": 77,
        "use_auth_token": True,
    }
    path = tmp_path / "deep" / "config.yaml"
    save_config(path, mapping)
    text = path.read_text()
    assert "SECRET123" not in text and "123" not in text
    assert yaml.safe_load(text) == {
        "hub_token": None,
        "OPENAI_API_KEY": None,
        "nested": {"password": None, "client_secret": None, "list": [{"api-key": None}]},
        "note": None,
        "tokenizer": "bert",
        "max_new_tokens": 77,
        "use_auth_token": True,
    }


def test_a_configuration_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    save_config(path, {"a": Path("x"), "b": Pace.NO, "c": (1, 2), "d": Options("tiny")})
    saved = path.read_text()
    assert yaml.safe_load(saved)["d"]["model"] == "tiny" and yaml.safe_load(saved)["b"] == "no"
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044 & ~_umask()
    with pytest.raises(TypeError, match="loss.at: a object has no plain form|loss.at: a object"):
        save_config(path, {"loss": {"at": object()}})

    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        save_config(path, {"a": 2})
    assert path.read_text() == saved
    assert os.listdir(tmp_path) == ["config.yaml"]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


# --- options known only after a heavy import ------------------------------------------------------------------------


def extra(*words: str) -> dict[str, Any]:
    options = parse_options(OptionsWithExtra, ["--model", "tiny", *words])
    return apply_extra(Heavy, options.extra, options.sources, known=["model"])


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (["--learning_rate", "2e-5", "--bf16"], {"learning_rate": 2e-5, "bf16": True}),
        (["--no_bf16"], {"bf16": False}),
        (["--save_strategy", "no"], {"save_strategy": Pace.NO}),
        (["--save_strategy", "sometimes"], {"save_strategy": "sometimes"}),
        (["--report_to", "none"], {"report_to": "none"}),
        (["--report_to", "a", "b"], {"report_to": ["a", "b"]}),
        (["--report_to", "null"], {"report_to": None}),
        (["--scheduler", '{"eta": 1e-3}'], {"scheduler": {"eta": 0.001}}),
        (["--scheduler.eta", "1e-3"], {"scheduler": {"eta": 0.001}}),
        (["--scheduler", "file.json"], {"scheduler": "file.json"}),
        (["--run_name", "2024"], {"run_name": "2024"}),
    ],
)
def test_extra_options_are_read_late(tmp_path: Path, capsys: Any, words: list[str], values: dict[str, Any]) -> None:
    assert extra(*words) == values
    # and by way of the printed configuration, checked or not
    for passthrough in (None, lambda: Heavy):
        text = printed(capsys, OptionsWithExtra, ["--model", "tiny", *words], passthrough=passthrough)
        options = parse_options(OptionsWithExtra, ["--config", config(tmp_path, text)])
        assert options.model == "tiny"
        assert apply_extra(Heavy, options.extra, options.sources) == values


def test_wrong_extra_options_are_refused_as_others_are(tmp_path: Path) -> None:
    for words, message in [
        (["--leraning_rate", "1"], "unknown option --leraning_rate; did you mean --learning_rate?"),
        (["--modle", "x"], "unknown option --modle; did you mean --model?"),
        (["--bf16", "perhaps"], "--bf16: found the text 'perhaps', wanted true or false"),
        (["--hidden", "1"], "unknown option --hidden"),
        (["--config", config(tmp_path, "\nbf61: true\n")], ":2: unknown option 'bf61'; did you mean 'bf16'?"),
    ]:
        with pytest.raises(OptionsError) as error:
            extra(*words)
        assert message in str(error.value)
    missing = refused("--modle", "x", options=OptionsWithExtra)
    assert missing == "missing: --model (--modle is unknown; did you mean --model?)"


def test_extra_options_are_merged_with_their_parts_in_a_file(tmp_path: Path) -> None:
    path = config(tmp_path, "scheduler: {eta: 1, power: 2}\n")
    assert extra("--config", path, "--scheduler.eta", "5") == {"scheduler": {"eta": 5, "power": 2}}


def test_nothing_heavy_is_imported_to_parse(capsys: pytest.CaptureFixture[str]) -> None:
    def heavy() -> type:
        raise AssertionError("imported")

    parse_options(OptionsWithExtra, ["--model", "m", "--bf16"], passthrough=heavy)
    with pytest.raises(SystemExit):
        parse_options(OptionsWithExtra, ["--help"], passthrough=heavy)
    assert "--help_all" in capsys.readouterr().out


def test_the_arguments_of_a_trainer_are_understood() -> None:
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    words = "--learning_rate 2e-5 --no_bf16 --eval_strategy steps --batch_sampler no_duplicates --warmup_steps 0.1"
    options = parse_options(
        OptionsWithExtra, ["--model", "m", *words.split(), "--learning_rate_mapping", '{"a.*": 1e-4}']
    )
    arguments = Arguments(**apply_extra(Arguments, options.extra, options.sources), output_dir="runs")
    assert (arguments.learning_rate, arguments.warmup_steps, arguments.bf16) == (2e-5, 0.1, False)
    assert arguments.eval_strategy.value == "steps" and arguments.batch_sampler.value == "no_duplicates"
    assert arguments.learning_rate_mapping == {"a.*": 1e-4}
    with pytest.raises(OptionsError, match="unknown option --evaluation_strategy; did you mean --eval"):
        apply_extra(Arguments, {"evaluation_strategy": PlainText("steps")})


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_lists_every_option_with_its_help_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_options(Options, ["--help"], prog="mmembed try", description="Try it.")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: mmembed try ") and "Try it." in text
    for field in dataclasses.fields(Options):
        assert f"--{field.name}" in text and field.metadata["help"] in text
    for shown in (
        "(required)",
        "(default: 5e-05)",
        "(default: true)",
        "(default: [1, 10])",
        "(default: null)",
        "--no_shuffle",
    ):
        assert shown in text


def test_help_all_lists_what_is_passed_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(OptionsWithExtra, ["--help_all"], passthrough=lambda: Heavy)
    text = capsys.readouterr().out
    assert "passed through:" in text and "whether to train in bfloat16 (default: false)" in text
    assert "hidden" not in text and "(default: steps)" in text


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        (PlainText("5"), int | float, 5),
        (PlainText("5.0"), int | float, 5.0),
        (PlainText("true"), bool | str, True),
        ("true", bool | str, "true"),
        (PlainText("1"), bool | int, 1),
        (PlainText("x"), bool | int | str, "x"),
        (5, float, 5.0),
        ("2e-5", float, 2e-5),
        (PlainText("-inf"), float, float("-inf")),
        ([PlainText("1"), "1"], list[Any], [1, "1"]),
        ({"768": PlainText("1"), "64": PlainText(".5")}, dict[int, float], {768: 1.0, 64: 0.5}),
        (PlainText("[a, [b]]"), list[str | list[str]], ["a", ["b"]]),
        ([PlainText("1"), PlainText("2")], tuple[int, ...], (1, 2)),
        (None, Literal["a", None], None),
        (PlainText("3"), Literal[1, 3], 3),
        (PlainText("STEPS-not"), Pace | None | str, "STEPS-not"),
    ],
)
def test_values_of_many_types(value: Any, kind: Any, read: Any) -> None:
    found = read_value(value, kind)
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int),
        (1, bool),
        (1, str),
        (True, float),
        ("x", int | None),
        (None, int),
        ([], str),
        (PlainText("1"), Pace),
        ("a", bytes),
    ],
)
def test_values_that_do_not_fit(value: Any, kind: Any) -> None:
    with pytest.raises(WrongTypeError, match="found"):
        read_value(value, kind)
