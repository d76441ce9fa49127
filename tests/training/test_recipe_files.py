"""Oracle: the dataclass itself. What a file or a command line says is the ``Recipe`` that Python would construct."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from longrope_training.presets import PRESETS
from longrope_training.recipe import DataSource, Recipe, Stage
from longrope_training.recipe_file import read_recipe, recipe_of
from longrope_training.recipe_options import add_recipe_options, field_docstrings, values_of
from longrope_vllm.errors import TrainingError

WHOLE = """
model = "checkpoint"
out = "tuned"
factors = "factors.json"
batch = 4
learning_rate = 1
betas = [0.9, 0.99]
checkpointing = false
mlp_tokens = "8k"
first_loss = "none"

[[stage]]
length = "128k"
steps = 400

[[stage]]
length = 262144
steps = 600
factors = "longer.json"

[[data]]
source = "books.jsonl#body"
weight = 3
upsample_from = "64k"

[[data]]
source = "stdlib"
rows = "short"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("factors.json", "longer.json", "books.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "recipe.toml").write_text(WHOLE)
    return tmp_path


def read(folder: Path, text: str = WHOLE, **changed: object) -> Recipe:
    (folder / "recipe.toml").write_text(text)
    return read_recipe(folder / "recipe.toml", changed)


def asked(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_recipe_options(parser)
    return values_of(parser.parse_args(words))


def test_a_file_is_the_recipe_that_python_would_construct(folder: Path) -> None:
    assert read(folder) == Recipe(
        model=folder / "checkpoint",
        out=folder / "tuned",
        factors=folder / "factors.json",
        batch=4,
        learning_rate=1.0,
        betas=(0.9, 0.99),
        checkpointing=False,
        mlp_tokens=8192,
        first_loss=None,
        stages=(
            Stage(length=131_072, steps=400),
            Stage(length=262_144, steps=600, factors=folder / "longer.json"),
        ),
        data=(
            DataSource(source=f"{folder / 'books.jsonl'}#body", weight=3.0, upsample_from=65_536),
            DataSource(source="stdlib", rows="short"),
        ),
    )


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(folder: Path) -> None:
    text = 'preset = "longrope2"\n' + WHOLE
    found = read(folder, text, **asked("--batch", "2", "--stage", "64k:10"))
    assert found.batch == 2
    assert found.stages == (Stage(length=65_536, steps=10),)
    assert found.learning_rate == 1.0  # of the file
    assert found.learning_rate_schedule == "cosine"  # of the preset
    assert found.save_every == 50  # of neither
    assert read(folder, text, **asked("--preset", "budget")).tuning == "lora"


def test_options_alone_make_the_same_recipe_as_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = "--factors factors.json --out tuned --batch 4 --learning-rate 1 --betas 0.9 0.99 --no-checkpointing"
    more = "--mlp-tokens 8k --first-loss none --stage 128k:400,256k:600:longer.json --data books.jsonl#body*3 stdlib"
    values = {**asked(*words.split(), *more.split()), "model": "checkpoint"}
    found, filed = recipe_of(values), read(folder)
    assert [stage.length for stage in found.stages] == [stage.length for stage in filed.stages]
    assert found.stages[1].factors == Path("longer.json")
    assert [source.weight for source in found.data] == [3.0, 1.0]
    paths = ("model", "out", "factors", "stages", "data")
    for field in dataclasses.fields(Recipe):
        if field.name not in paths:
            assert getattr(found, field.name) == getattr(filed, field.name), field.name


def test_options_that_are_not_given_have_no_value() -> None:
    assert asked() == {}
    assert asked("--seed", "3") == {"seed": 3}
    assert asked("--data", "a*2", "b", "--data", "*.txt")["data"] == [
        {"source": "a", "weight": 2.0},
        {"source": "b"},
        {"source": "*.txt"},
    ]


def test_every_field_is_explained_and_has_an_option() -> None:
    for kind in (Recipe, Stage, DataSource):
        assert set(field_docstrings(kind)) == {field.name for field in dataclasses.fields(kind)}
    parser = argparse.ArgumentParser()
    add_recipe_options(parser)
    options = {action.dest for action in parser._actions} - {"help", "preset"}
    assert options == {field.name for field in dataclasses.fields(Recipe)} - {"model"}
    for name in PRESETS:
        assert name in parser.format_help()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_recipe_but_for_what_only_a_user_can_name(name: str, folder: Path) -> None:
    assert not {"model", "data", "out", "factors"} & set(PRESETS[name])
    user = {"model": "m", "out": "o", "factors": folder / "factors.json", "data": [{"source": "stdlib"}]}
    found = recipe_of({**user, "preset": name})
    for field, value in PRESETS[name].items():
        assert field == "stages" or getattr(found, field) == value


def test_the_steps_of_longrope2_are_ten_billion_tokens(folder: Path) -> None:
    user = {"model": "m", "out": "o", "factors": folder / "factors.json", "data": [{"source": "stdlib"}]}
    found = recipe_of({**user, "preset": "longrope2"})
    tokens = found.steps * found.batch * found.stages[0].length
    assert abs(tokens - 10e9) < found.batch * found.stages[0].length


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("batch = 4", "batch_size = 4", "found 'batch_size' in .*recipe.toml: did you mean batch.*Known are attention"),
        ("batch = 4", "batch = 'four'", "Expected a whole number as batch, found 'four' in .*recipe.toml"),
        ("batch = 4", "batch = true", "Expected a whole number as batch, found True"),
        ("batch = 4", "batch = 0", "Expected batch of 1 or more, found 0. .in .*recipe.toml"),
        ("learning_rate = 1", "learning_rate = 'high'", "Expected a number as learning_rate, found 'high'"),
        ("checkpointing = false", "checkpointing = 0", "Expected true or false as checkpointing, found 0"),
        ("betas = [0.9, 0.99]", "betas = [0.9]", "Expected 2 numbers as betas, found"),
        ("betas = [0.9, 0.99]", "betas = 0.9", "Expected 2 numbers as betas, found 0.9"),
        ("batch = 4", "tuning = 'half'", "Expected auto, full or lora as tuning, found 'half'"),
        ("batch = 4", "preset = 'huge'", "Expected preset out of paper-llama2, .*, found 'huge'"),
        ('model = "checkpoint"', "", "Expected model .a path., found none in .*recipe.toml"),
        ('length = "128k"', "", "Expected length .a whole number or a length such as 128k., found none in stage in"),
        (
            'length = "128k"',
            'length = "far"',
            "Expected a length in tokens .*found 'far'. .as stage.length in .*recipe",
        ),
        ("steps = 400", "step = 400", "found 'step' in stage in .*recipe.toml: did you mean steps"),
        ('rows = "short"', 'rows = "few"', "Expected long, short or both as data.rows, found 'few'"),
        (
            'upsample_from = "64k"',
            "upsample = 5",
            "Expected upsample_from, the length of a long document, with upsample",
        ),
        ('source = "stdlib"', 'source = ""', "Expected a source of text in data, found an empty one"),
        ('factors = "longer.json"', 'factors = "none.json"', "found no file at .*none.json. .in .*recipe.toml"),
        ("batch = 4", "batch = ", "Expected a recipe in TOML in .*recipe.toml, found"),
        ("batch = 4", "data = 'stdlib'", "Expected a recipe in TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(before: str, after: str, said: str, folder: Path) -> None:
    assert WHOLE.count(before) == 1
    with pytest.raises(TrainingError, match=said) as found:
        read(folder, WHOLE.replace(before, after))
    assert "\n" not in str(found.value)


def test_tables_are_asked_for_by_their_name(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"Expected tables \[\[stage\]\] in .*, found 'stages'"):
        read(folder, "stages = []")
    with pytest.raises(TrainingError, match=r"Expected tables \[\[stage\]\] as stage, found 3"):
        read(folder, "stage = 3")
    with pytest.raises(TrainingError, match="Expected at least one source of text, found none: give --data"):
        read(folder, WHOLE.partition("[[data]]")[0], data=[])
    with pytest.raises(TrainingError, match=r"Expected data \(one or more\), found none in"):
        read(folder, WHOLE.partition("[[data]]")[0])
    with pytest.raises(TrainingError, match="found no file at"):
        read_recipe(folder / "none.toml", {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stage", "128k"), "Expected --stage LENGTH:STEPS"),
        (("--stage", "128k:many"), "Expected --stage LENGTH:STEPS"),
        (("--batch", "four"), "invalid int value: 'four'"),
        (("--first-loss", "low"), "invalid float value: 'low'"),
        (("--mlp-tokens", "far"), "Expected a length in tokens"),
        (("--tuning", "half"), "invalid choice: 'half'"),
        (("--preset", "huge"), "invalid choice: 'huge'"),
    ],
)
def test_a_wrong_option_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises((TrainingError, argparse.ArgumentError), match=said):
        asked(*words)
