"""A model in process under fixed factors, against plain transformers: losses from all logits, answers by generate."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrope_vllm.errors import EvaluationError, FactorsError
from longrope_vllm.evaluation.asked import Asked, by_rope
from longrope_vllm.evaluation.documents import Document
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.greedy import greedy_tokens
from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
from longrope_vllm.evaluation.harness.bridge import Bridge, short_work
from longrope_vllm.evaluation.in_process import InProcess, LoadedModel
from longrope_vllm.evaluation.losses import longppl_work, perplexity_work
from longrope_vllm.evaluation.methods import named_method
from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.subject import Subject
from longrope_vllm.geometry import read_config
from longrope_vllm.hf import fixed_rope
from short_tasks import WRITE, write_tasks
from tiny_models import LONG, SHAPE, VOCABULARY, WINDOW, byte_tokenizer, tiny_llama

METHODS = ("none", "pi", "yarn")
LENGTHS = (WINDOW, 2 * WINDOW, LONG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def subjects(folder: Path) -> list[InProcess]:
    loaded = LoadedModel(folder, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [InProcess(loaded, tokenizer, named_method(name, read_config(folder), lengths=LENGTHS)) for name in METHODS]


@pytest.fixture(scope="module")
def asked(folder: Path, subjects: list[Subject]) -> Asked:
    generator = torch.Generator().manual_seed(0)
    documents = [
        Document(
            group="random",
            index=index,
            source="",
            sha256="",
            tokens=torch.randint(3, VOCABULARY, (LONG,), generator=generator),
        )
        for index in range(2)
    ]
    return Asked(
        subjects=subjects,
        lengths=LENGTHS,
        documents=documents,
        encoder=Encoder(AutoTokenizer.from_pretrained(folder)),
        depths=(0.5,),
        trials=1,
        seed=0,
    )


def plain_losses(folder: Path, name: str, tokens: torch.Tensor) -> torch.Tensor:
    """Oracle: all logits at once, under the factors for exactly this length."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    factors = named_method(name, read_config(folder), lengths=LENGTHS).factors
    with fixed_rope(model, factors, length=len(tokens)), torch.inference_mode():
        logits = model(tokens[None]).logits[0, :-1].log_softmax(-1)
    return -logits[torch.arange(len(tokens) - 1), tokens[1:]]


def test_one_pass_a_rope_gives_every_method_and_length_its_own_perplexity(folder: Path, asked: Asked) -> None:
    work = perplexity_work(asked)
    records: dict[tuple[str, int, str], Record] = {}
    for piece in work:
        for record in piece.measure():
            records[record.key.method, record.key.length, record.key.sample] = record
    # The model's own rope at all lengths, and two ropes for each of the two methods: five passes a document.
    assert len(work) == 5 * len(asked.documents)
    assert len(records) == len(METHODS) * len(LENGTHS) * len(asked.documents)
    for (method, length, sample), record in records.items():
        losses = plain_losses(folder, method, asked.documents[int(sample)].tokens[:length])
        assert record.values["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
        assert record.values["tokens"] == length - 1
        assert record.values["last_loss"] == pytest.approx(losses[-1024:].mean().item(), rel=1e-5)


def test_methods_share_the_own_rope_and_nothing_else(subjects: list[InProcess]) -> None:
    ropes = by_rope(subjects, LENGTHS)
    shared = [{length: [s.label for s in sharing] for length, sharing in rope.items()} for rope in ropes]
    assert shared == [
        {512: ["pi"]},
        {512: ["yarn"]},
        {256: ["none", "pi", "yarn"], 512: ["none"], 1024: ["none"]},
        {1024: ["pi"]},
        {1024: ["yarn"]},
    ]


def test_an_answer_is_the_greedy_one_under_the_tier_of_its_length(folder: Path, subjects: list[InProcess]) -> None:
    prompt = torch.randint(3, VOCABULARY, (300,), generator=torch.Generator().manual_seed(1))
    yarn = subjects[METHODS.index("yarn")]
    for length in (512, LONG):
        answer = yarn.answer(prompt.tolist(), max_tokens=8, length=length)
        assert answer.tier == length
        tokens = prompt.clone()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        factors = named_method("yarn", read_config(folder), lengths=LENGTHS).factors
        with fixed_rope(model, factors, length=length), torch.inference_mode():
            for _ in range(8):
                following = model(tokens[None]).logits[0, -1].argmax()
                if following == 2:  # end of sequence
                    break
                tokens = torch.cat([tokens, following[None]])
        assert answer.text == AutoTokenizer.from_pretrained(folder).decode(tokens[300:], skip_special_tokens=True)


def test_what_a_checkpoint_recommends_for_sampling_changes_no_answer(folder: Path) -> None:
    loaded = LoadedModel(folder, dtype=torch.float32, device=torch.device("cpu"))
    subject = InProcess(
        loaded, AutoTokenizer.from_pretrained(folder), named_method("none", read_config(folder), lengths=LENGTHS)
    )
    prompt = torch.randint(3, VOCABULARY, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    plain = subject.answer(prompt, max_tokens=16, length=WINDOW)
    assert len(set(plain.text)) < len(plain.text)  # it repeats itself, which the penalties would keep it from
    for name, value in {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_new_tokens": 16}.items():
        setattr(loaded.module.generation_config, name, value)
    assert subject.answer(prompt, max_tokens=16, length=WINDOW) == plain


def test_an_answer_ends_at_the_end_of_the_tokenizer_and_at_those_of_the_checkpoint(
    folder: Path, subjects: list[InProcess]
) -> None:
    prompt = list(range(10, 60))
    whole = greedy_tokens(subjects[0]._model.module, prompt, max_tokens=6, end=frozenset())
    loaded = LoadedModel(folder, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    subject = InProcess(loaded, tokenizer, named_method("none", read_config(folder), lengths=LENGTHS))
    for token in whole[1:4]:
        for ends in (token, [token, VOCABULARY - 1], None):
            loaded.module.generation_config.eos_token_id = ends
            tokenizer.eos_token = chr(token) if ends is None else chr(2)
            found = subject.answer(prompt, max_tokens=6, length=WINDOW).text
            assert found == tokenizer.decode(whole[: whole.index(token)], skip_special_tokens=True)


def test_benchmarks_are_planned_without_weights(folder: Path, tmp_path: Path) -> None:
    loaded = LoadedModel(folder, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    subject = InProcess(loaded, tokenizer, named_method("yarn", read_config(folder), lengths=LENGTHS))
    bridge = Bridge(subject.harness_model(), Benchmarks(include_path=write_tasks(tmp_path)))
    work = short_work(bridge, WRITE, methods=["yarn"], indices=[0])
    assert subject.rope(max(bridge.lengths(WRITE, [0])))
    assert "module" not in vars(loaded)
    assert work[0].measure()
    assert "module" in vars(loaded)


def test_longppl_counts_the_key_tokens_of_one_evaluator_for_every_method(asked: Asked) -> None:
    evaluator = asked.subjects[METHODS.index("yarn")]
    work = longppl_work(asked, evaluator=evaluator, context=64, step=16)
    found: dict[tuple[int, str], set[float]] = {}
    for piece in work:
        for record in piece.measure():
            assert record.notes == {"evaluator": "yarn"}
            if record.key.length > WINDOW:  # up to there one method reads for all
                assert record.tier == (LONG if record.key.method == "none" else record.key.length)
            found.setdefault((record.key.length, record.key.sample), set()).add(record.values["tokens"])
    assert {length for length, _ in found} == set(LENGTHS)
    assert all(len(tokens) == 1 for tokens in found.values())
    assert any(tokens != {0.0} for tokens in found.values())


def test_a_length_past_the_factors_is_refused(folder: Path) -> None:
    loaded = LoadedModel(folder, dtype=torch.float32, device=torch.device("cpu"))
    subject = InProcess(loaded, None, named_method("yarn", read_config(folder), lengths=[512]))
    subject.check(512)
    with pytest.raises(FactorsError, match="Expected at most 512 tokens for these factors, found 513"):
        subject.check(513)


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EvaluationError, match="Expected a causal language model in"):
        _ = LoadedModel(tmp_path, dtype=torch.float32, device=torch.device("cpu")).module


def test_too_little_memory_is_one_sentence(subjects: list[InProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("longrope_vllm.evaluation.in_process.token_losses", fail)
    with pytest.raises(EvaluationError, match="Expected memory for one pass over 512 tokens"):
        subjects[0].score(torch.zeros(512, dtype=torch.int64), length=512)


def test_a_model_that_scales_its_logits_besides_is_refused_by_name(tmp_path: Path) -> None:
    """Losses are taken from the lm head chunk by chunk: what comes after it would be left out without a word."""
    from transformers import CohereConfig, CohereForCausalLM

    shape = {name: value for name, value in SHAPE.items() if name != "dtype"}
    config = CohereConfig(**shape, max_position_embeddings=WINDOW, logit_scale=0.0625)
    CohereForCausalLM(config).save_pretrained(tmp_path)
    model = LoadedModel(tmp_path, dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(EvaluationError, match="found others in CohereForCausalLM"):
        _ = model.module
