"""Options of ``longrope eval`` against ``Request``, where every default stands."""

import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from longrope_vllm.cli.eval import _request, add_arguments
from longrope_vllm.evaluation.request import Request
from longrope_vllm.presets import preset_path


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_arguments(made)
    return made


def test_every_field_of_a_request_is_an_option(parser: argparse.ArgumentParser) -> None:
    options = {action.dest for action in parser._actions} - {"help", "preset"}  # a preset is a file of factors
    assert options == {field.name for field in fields(Request)}


def test_what_is_left_out_is_left_to_the_request(parser: argparse.ArgumentParser) -> None:
    assert vars(parser.parse_args(["model", "--out", "here"])) == {"target": "model", "out": Path("here")}


def test_help_shows_the_defaults_of_the_request(parser: argparse.ArgumentParser) -> None:
    helps = {action.dest: action.help or "" for action in parser._actions}
    assert helps["lengths"].endswith("(4k,8k)")
    assert helps["tasks"].endswith("(ppl,passkey)")
    assert helps["documents"].endswith("(pydoc stdlib)")
    for name in ("samples", "depths", "trials", "ruler_samples", "seed", "concurrency", "protocol", "dtype", "device"):
        assert helps[name].endswith(f"({getattr(Request, name)})")


def test_words_between_commas_are_taken_once_and_lengths_in_their_order(parser: argparse.ArgumentParser) -> None:
    asked = parser.parse_args(["m", "--out", "x", "--lengths", "8k, 4k,8k", "--tasks", "ppl,,passkey,ppl"])
    assert (asked.lengths, asked.tasks) == ((4096, 8192), ("ppl", "passkey"))


def test_files_and_tiers_are_gathered_from_all_their_options(parser: argparse.ArgumentParser) -> None:
    asked = parser.parse_args(["m", "--out", "x", "--factors", "a", "b=c", "--factors", "d", "--tiers", "1k:pi"])
    assert (asked.factors, asked.tiers) == (["a", "b=c", "d"], ["1k:pi"])


def test_presets_are_factors_by_their_names(parser: argparse.ArgumentParser) -> None:
    name = "smollm2-135m"
    asked = parser.parse_args(["m", "--out", "x", "--factors", "mine.json", "--preset", name])
    assert _request(asked).factors == ("mine.json", f"{name}={preset_path(name)}")
