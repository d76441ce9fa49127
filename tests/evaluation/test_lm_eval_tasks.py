"""What cannot be measured is refused in one sentence; RULER's documents are the same for any number of them."""

from pathlib import Path

import pytest

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
from longrope_vllm.evaluation.harness.ruler_bounds import Ruler
from short_tasks import CHOICE, write_task, write_tasks
from tiny_models import byte_tokenizer, tiny_llama

WRITES = "output_type: generate_until\ndataset_path: json\ndoc_to_text: q\n"


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_tasks(tmp_path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("model")))


def ruler_tasks() -> Path:
    """lm-eval's own folder, named by itself: going through all of its tasks takes seconds."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent / "ruler"


def test_an_unknown_name_is_answered_with_near_ones(tasks: Path) -> None:
    with pytest.raises(EvaluationError, match=r"lm-eval benchmark, found 'tiny_choise': did you mean tiny_choice"):
        Benchmarks(include_path=tasks).load("tiny_choise")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"found none at .*nowhere"):
        Benchmarks(include_path=tmp_path / "nowhere")


def test_a_group_is_answered_with_its_members(tasks: Path) -> None:
    (tasks / "all.yaml").write_text(f"group: tiny_all\ntask: [{CHOICE}, tiny_write]\n")
    with pytest.raises(EvaluationError, match=r"the group 'tiny_all' of several: name those .*tiny_choice, tiny_write"):
        Benchmarks(include_path=tasks).load("tiny_all")


def test_data_out_of_reach_is_one_sentence(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # as without a network, and without the waiting
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    write_task(tasks, "far", WRITES + "dataset_path: allenai/ai2_arc\ndataset_name: ARC-Easy\ntest_split: test\n")
    with pytest.raises(
        EvaluationError,
        match=r"data of the benchmark far \(the data set allenai/ai2_arc ARC-Easy\), found ConnectionError: .*HF_HOME"
        r".*--include-path",
    ):
        Benchmarks(include_path=tasks).load("far")


def test_local_data_that_is_not_there_is_one_sentence(tasks: Path) -> None:
    write_task(tasks, "gone", WRITES + "dataset_kwargs: {data_files: {test: nowhere.jsonl}}\ntest_split: test\n")
    with pytest.raises(EvaluationError, match=r"data of the benchmark gone .*FileNotFoundError: .*nowhere.jsonl"):
        Benchmarks(include_path=tasks).load("gone")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("unsafe_code: true\n", "one that runs the code a model writes"),
        ("output_type: loglikelihood_rolling\n", "the output type loglikelihood_rolling"),
        ("output_type: generate_until\ngeneration_kwargs: {until: [x], do_sample: true}\n", "sampled answers"),
    ],
)
def test_what_is_not_measured_is_refused_by_name(change: str, found: str, tasks: Path) -> None:
    lines = (tasks / "tiny_write.yaml").read_text().splitlines()
    stated = {line.split(":")[0] for line in change.splitlines()}
    kept = [line for line in lines[1:] if line.split(":")[0] not in stated]
    metrics = [line for line in kept if "metric" not in line] if "rolling" in change else kept
    write_task(tasks, "odd", "\n".join(metrics) + "\n" + change)
    with pytest.raises(EvaluationError, match=f"found {found} in odd"):
        Benchmarks(include_path=tasks).load("odd")


def test_ruler_makes_as_many_documents_as_are_asked_for_and_always_the_same(tokenizer: Path) -> None:
    def documents(samples: int) -> list[str]:
        ruler = Ruler(length=8192, samples=samples, tokenizer=tokenizer)
        benchmark = Benchmarks(include_path=ruler_tasks(), ruler=ruler).load("ruler_cwe")
        assert benchmark.length == 8192
        return [document["input"] for document in benchmark.documents]

    few, more = documents(2), documents(4)
    assert len(set(more)) == 4
    assert few == more[:2]


def test_ruler_says_what_it_needs(tokenizer: Path) -> None:
    with pytest.raises(EvaluationError, match="a length, a number of samples and a tokenizer for ruler_vt"):
        Benchmarks(include_path=ruler_tasks()).load("ruler_vt")
    with pytest.raises(EvaluationError, match="1 to 500 samples of a RULER task, found 501"):
        Ruler(length=8192, samples=501, tokenizer=tokenizer)
    with pytest.raises(EvaluationError, match="folder with a tokenizer for RULER, found none"):
        Ruler(length=8192, samples=2, tokenizer=tokenizer / "nowhere")


@pytest.mark.parametrize(
    ("name", "length", "told"),
    [
        ("ruler_vt", 1024, "at least 2048 tokens for ruler_vt, found 1024"),
        ("ruler_cwe", 512, "at least 1024 tokens for ruler_cwe, found 512"),
        ("ruler_vt", 8192, r"its example of ruler_vt within 500 tokens, found \d+ with this tokenizer"),
        ("ruler_cwe", 1024, r"its smallest document of ruler_cwe within 1024 tokens, found \d+"),
    ],
)
def test_a_length_at_which_lm_eval_would_search_without_end_is_refused(
    name: str, length: int, told: str, tokenizer: Path
) -> None:
    ruler = Ruler(length=length, samples=2, tokenizer=tokenizer)
    with pytest.raises(EvaluationError, match=told):
        Benchmarks(include_path=ruler_tasks(), ruler=ruler).load(name)
