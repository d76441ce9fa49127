"""A tiny Llama that has really learned: its window breaks, and what a stretched rope costs can be measured.

In: a folder. Out: a checkpoint of one token a character, trained for one to two minutes on the source of Python's
standard library at a window of 64 tokens; and texts it has not seen, one to search factors on and one to judge them by.
The three share no module. Random weights (``tiny_models``) tell rotations apart; these tell good from bad.
"""

import sysconfig
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from tiny_models import SHAPE, byte_tokenizer

TRAINED_WINDOW = 64
"""In tokens."""
LONGEST = 8 * TRAINED_WINDOW
"""Documents of this many tokens, cut from a text one after the other, are each from one place of one module."""
EXCERPTS = 64
"""Documents of ``LONGEST`` tokens in each text that was not trained on."""

_EVERY = 10
_SEARCH, _HELD_OUT = 2, 7
"""Of every ten modules in alphabetical order, the one to search on and the one to judge by; eight are trained on."""

_SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": None,
}
_STEPS = 400
_ROWS = 64
_MATRIX_RATE, _OTHER_RATE = 0.015, 0.003
_WARM_UP = 50


def trained_llama(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of four layers with a plain rope and its tokenizer, trained and saved under ``folder`` in float32.

    On one thread: the same seed gives the same weights however many cores there are, and a second thread gains little.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **SHAPE | _SHAPE,
        head_dim=32,
        max_position_embeddings=TRAINED_WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    tokens = torch.frombuffer(bytearray(training_text().encode()), dtype=torch.uint8).long()  # [T], the character codes
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train(model, tokens, torch.Generator().manual_seed(seed))
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return byte_tokenizer(folder)


def search_text(folder: Path) -> Path:
    """A plain text file under ``folder`` to search factors on: ``EXCERPTS`` documents of ``LONGEST`` tokens."""
    return _excerpts(_SEARCH, folder / "search.txt")


def held_out_text(folder: Path) -> Path:
    """A plain text file under ``folder`` to judge factors by: neither trained on nor in ``search_text``."""
    return _excerpts(_HELD_OUT, folder / "held_out.txt")


def training_text() -> str:
    """What the model was trained on."""
    kept = [text for number, text in enumerate(_modules()) if number % _EVERY not in (_SEARCH, _HELD_OUT)]
    return "\n\n".join(kept)


def _modules() -> list[str]:
    """The modules of the standard library in alphabetical order, without the characters that are no token."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [file.read_bytes().decode("ascii", errors="ignore") for file in files]


def _excerpts(share: int, path: Path) -> Path:
    """``EXCERPTS`` pieces of ``LONGEST`` characters to ``path``: from each module of a share one, then another one."""
    learned, modules = training_text(), _modules()[share::_EVERY]
    rounds = range(LONGEST, max(map(len, modules)), LONGEST)  # past the first piece: beginnings are much alike
    pieces = (text[begin : begin + LONGEST] for begin in rounds for text in modules)
    unseen = (piece for piece in pieces if len(piece) == LONGEST and not _was_seen(piece, learned))
    path.write_text("".join(islice(unseen, EXCERPTS)), encoding="ascii", newline="")
    return path


def _was_seen(piece: str, learned: str) -> bool:
    """Whether a whole window of ``piece`` stands in ``learned``: some modules carry code of others, word for word."""
    windows = range(0, len(piece), TRAINED_WINDOW)
    return any(piece[begin : begin + TRAINED_WINDOW] in learned for begin in windows)


def _train(model: nn.Module, tokens: Tensor, draw: torch.Generator) -> None:
    """``_STEPS`` steps on rows of the window, drawn anywhere in ``tokens`` [T]; the rate falls to nothing.

    Muon on the matrices and AdamW on the rest: AdamW alone needs more steps to the same loss.
    """
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "layers" in name]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=_MATRIX_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=_OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, _rate) for optimizer in optimizers]
    for _ in range(_STEPS):
        begins = torch.randint(len(tokens) - TRAINED_WINDOW, (_ROWS, 1), generator=draw)
        rows = tokens[begins + torch.arange(TRAINED_WINDOW)]  # [_ROWS, TRAINED_WINDOW]
        model.zero_grad()
        model(rows, labels=rows, use_cache=False).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for step in (*optimizers, *schedules):
            step.step()


def _rate(step: int) -> float:
    """Part of the full rate at ``step``: up over the warm-up, then down to nothing at the end."""
    return min((step + 1) / _WARM_UP, 1 - step / _STEPS)
