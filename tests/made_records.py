"""Made-up records of a whole evaluation: five methods, five lengths, three kinds of text; ``none`` explodes past 8k."""

import math
import random
from itertools import product

from longrope_vllm.evaluation.records import Key, Record

METHODS = ("none", "pi", "dynamic-ntk", "yarn", "longrope2-32k.json")
LENGTHS = (4096, 8192, 12288, 16384, 32768)
WINDOW = 8192
_GROUPS = {"prose": 2.28, "source": 1.62, "scripture": 2.05}
_COST = {"none": 0.0, "pi": 0.9, "dynamic-ntk": 0.05, "yarn": 0.04, "longrope2-32k.json": 0.01}
_SLOPE = {"none": 2.4, "pi": 0.03, "dynamic-ntk": 0.16, "yarn": 0.05, "longrope2-32k.json": -0.02}
_TASKS = ("niah_single", "niah_multikey", "variable_tracking", "common_words", "qa")
_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def made_records() -> list[Record]:
    """All tasks of all methods, the same ones at each call."""
    chance = random.Random(7)
    return [*_perplexities(chance), *_answers(chance), *_ruler(chance), *_short(chance)]


def _loss(method: str, group: str, position: float) -> float:
    """Loss expected at ``position``: it falls with context, and past the window it grows as the method does."""
    beyond = max(0.0, math.log2(position / WINDOW)) if position else 0.0
    return _GROUPS[group] + _COST[method] + 0.5 / math.sqrt(1 + position / 256) + _SLOPE[method] * beyond


def _perplexities(chance: random.Random) -> list[Record]:
    made = []
    hardness = {(group, sample): chance.gauss(0, 0.06) for group in _GROUPS for sample in range(4)}
    for method in METHODS:
        for length in LENGTHS:
            for (group, sample), known in hardness.items():
                hard = known + chance.gauss(0, 0.03)
                runs = length // 512
                curve = [_loss(method, group, 512 * (run + 0.5)) + hard + chance.gauss(0, 0.05) for run in range(runs)]
                values = {
                    "loss": math.fsum(curve) / runs,
                    "tokens": length - 1.0,
                    "last_loss": math.fsum(curve[-2:]) / 2,
                    "last_tokens": 1024.0,
                }
                key = Key("ppl", method, length, group, str(sample))
                made.append(Record(key=key, values=values, curve=tuple(curve)))
                if group == "prose":
                    made.append(
                        Record(
                            key=key._replace(task="longppl"),
                            values={"loss": 1.4 * values["loss"], "tokens": 0.07 * length},
                        )
                    )
    return made


def _right(luck: float, method: str, length: int, ease: float) -> bool:
    beyond = max(0.0, math.log2(length / WINDOW))
    return luck < ease - 0.25 * _COST[method] - 0.4 * max(0.0, _SLOPE[method]) * beyond


def _answers(chance: random.Random) -> list[Record]:
    made = []
    for task, ease in (("passkey", 1.0), ("needle", 0.95)):
        for length, depth, trial in product(LENGTHS, _DEPTHS, range(4)):
            luck, number = chance.random(), str(chance.randrange(10000, 99999))
            for method in METHODS:
                right = _right(luck + chance.gauss(0, 0.05), method, length, ease)
                made.append(
                    Record(
                        key=Key(task, method, length, task, f"{depth:g}/{trial}"),
                        values={"score": float(right), "depth": depth},
                        expected=number,
                        answer=f"The pass key is {number if right else number[:2] + '000'}.",
                    )
                )
    return made


def _ruler(chance: random.Random) -> list[Record]:
    made = []
    for length, (hard, task), index in product(LENGTHS, enumerate(_TASKS), range(10)):
        lucks = [chance.random() for _ in range(4)]
        for method in METHODS:
            found = [_right(luck + chance.gauss(0, 0.05), method, length, 1.0 - 0.08 * hard) for luck in lucks]
            key = Key("ruler", method, length, task, str(index))
            made.append(Record(key=key, values={"score": sum(found) / len(found)}))
    return made


def _short(chance: random.Random) -> list[Record]:
    modes = {"own": 0.0, "per-request tiers": 0.0, "long for all": 0.08}
    luck = {
        (benchmark, index): chance.random() for benchmark in ("arc_easy", "hellaswag", "gsm8k") for index in range(200)
    }
    return [
        Record(
            key=Key("short", mode, 0, benchmark, str(index)),
            values={"score": float(lucky * (1 + chance.gauss(0, 0.03) * (mode != "own")) < 0.6 - worse)},
        )
        for mode, worse in modes.items()
        for (benchmark, index), lucky in luck.items()
    ]
