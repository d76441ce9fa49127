"""How many tokens a step computes and how many sequences run at once.

vLLM's defaults (``EngineArgs.get_batch_defaults``) are made for short contexts. What has to change for long ones:
arrays in the host's memory hold every token of every sequence, ``max_num_seqs`` times ``max_model_len``, in each worker
process; and a step of ``max_model_len`` tokens at once, which vLLM takes where chunked prefill is off, does not fit.
"""

from longrope_vllm.gpus import Gpus

TOKEN_BYTES = 5
"""Of one token of one sequence in a worker's arrays: its id in int32, and one byte of vLLM's V1 model runner."""

ARRAY_LIMIT = 1 << 30
"""Bytes that these arrays may take in a worker process before fewer sequences are planned."""

_GIB = 1 << 30


def default_chunk(gpus: Gpus) -> int:
    """Tokens of a step: vLLM's default for these GPUs where it has one for large ones, else 8,192 from 40 GB on."""
    if gpus.memory >= 160 * _GIB:
        return 16_384
    return 8192 if gpus.memory >= 40 * 10**9 else 2048


def default_sequences(gpus: Gpus) -> int:
    """Sequences at once by vLLM's defaults for a server on these GPUs."""
    return 1024 if gpus.memory >= 70 * _GIB and not gpus.name.startswith("a100") else 256


def array_bytes(context: int, sequences: int) -> int:
    """Bytes of the token arrays of one worker process."""
    return context * sequences * TOKEN_BYTES


def sane_sequences(context: int, default: int) -> int:
    """``default``, or the largest power of two whose token arrays stay within ``ARRAY_LIMIT``."""
    if array_bytes(context, default) <= ARRAY_LIMIT:
        return default
    affordable = max(1, ARRAY_LIMIT // (context * TOKEN_BYTES))
    return 1 << (affordable.bit_length() - 1)
