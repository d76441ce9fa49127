"""Show the rope of a checkpoint: geometry, tiers in force, wavelengths, findings and a plot of the factors.

The tiers come from --factors, --preset or --tiers, else from the checkpoint's own longrope block, else they are its own
rope.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longrope_vllm.atomic import write_atomically
from longrope_vllm.chosen_factors import ChosenFactors, add_factor_options
from longrope_vllm.engine_views import length_ranges
from longrope_vllm.errors import CheckpointError, LongRopeError
from longrope_vllm.factor_plot import draw_png, draw_text, factor_plot
from longrope_vllm.factors import Factors, Origin, Tier, own_tier
from longrope_vllm.geometry import Config, Geometry, read_config
from longrope_vllm.lengths import format_length, parse_length
from longrope_vllm.rope import critical_pair, inverse_frequencies, rescaled_inverse_frequencies, wavelengths
from longrope_vllm.rope_block import check_fits, read_rope_block
from longrope_vllm.rope_lint import lint

ROWS = 16
"""Wavelengths shown for a wide head; narrow heads show every pair."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope show``."""
    parser.add_argument("model", help="checkpoint directory")
    add_factor_options(parser)
    parser.add_argument(
        "--target", metavar="LENGTH", help="length that PI, NTK and YaRN reach, such as 128k (default: longest tier)"
    )
    parser.add_argument("--png", metavar="FILE", help="write the plot as a PNG too")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Print everything; write the PNG when asked for."""
    asked = parser.parse_args(arguments)
    config = read_config(asked.model)
    geometry = Geometry.from_config(config)
    chosen = ChosenFactors.from_arguments(asked).for_config(config)
    factors = factors_in_force(config, geometry, chosen)
    target = target_length(geometry, factors, asked.target)
    if target is None and asked.png:
        raise LongRopeError("Expected a long tier or --target LENGTH to draw, found neither: add --target 128k.")

    console = Console(highlight=False)
    console.print(geometry_table(geometry), "")
    print_tiers(console, geometry, factors)
    console.print(wavelength_table(geometry, None if factors is None else factors.tiers[-1]), "")
    if chosen is None:
        for finding in lint(config):
            console.print(Text.assemble(("Note: ", "yellow"), f"{finding}."))
    if target is None:
        console.print("No long tier to draw: --target 128k shows what PI, NTK and YaRN would do.")
        return 0
    plot = factor_plot(
        Path(asked.model).resolve().name, geometry, () if factors is None else factors.tiers, target=target
    )
    console.print(Text(draw_text(plot, width=min(console.width, 110))), soft_wrap=True)
    if asked.png:
        write_png(Path(asked.png), draw_png(plot))
        console.print(Text(f"Wrote {asked.png}."), soft_wrap=True)
    return 0


def factors_in_force(config: Config, geometry: Geometry, chosen: Factors | None) -> Factors | None:
    """The chosen ones, else the longrope block, else the checkpoint's own rope; None if that is not supported."""
    if chosen is not None:
        return chosen.with_own_tier(check_fits(config, chosen))
    if (block := read_rope_block(config)) is not None:
        return block
    try:
        own = own_tier(geometry)
    except CheckpointError:
        return None
    return Factors(
        rotary_dim=geometry.rotary_dim,
        base=geometry.base,
        trained_window=geometry.trained_window,
        tiers=(own,),
        origin=Origin(method="own"),
        rope_type=geometry.rope_type,
        rope=geometry.rope,
    )


def target_length(geometry: Geometry, factors: Factors | None, asked: str | None) -> int | None:
    """Where the baselines are drawn; None when there is nothing to compare."""
    if asked is not None:
        target = parse_length(asked)
        if target <= geometry.trained_window:
            raise LongRopeError(
                f"Expected a --target above the trained window of {geometry.trained_window}, found {target}: up to "
                "there no factors are needed."
            )
        return target
    if factors is None or all(tier.is_plain for tier in factors.tiers):
        return None
    return factors.max_length


def geometry_table(geometry: Geometry) -> Table:
    """What ``config.json`` says, two columns."""
    critical = critical_pair(geometry.rotary_dim, geometry.base, geometry.trained_window)
    fits = critical >= geometry.pairs
    rows = {
        "head size": f"{geometry.head_size}",
        "rotary dimensions": f"{geometry.rotary_dim} ({geometry.pairs} pairs)",
        "base": f"{geometry.base:,.0f}",
        "trained window": f"{geometry.trained_window:,} tokens",
        "declared length": f"{geometry.max_positions:,} tokens",
        "rope type": geometry.rope_type,
        "critical pair": "none: every pair turns fully in the trained window"
        if fits
        else f"{critical}: pairs from {critical} on never turn fully in the trained window (arXiv 2502.20082)",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def print_tiers(console: Console, geometry: Geometry, factors: Factors | None) -> None:
    """One row a tier, or one sentence when there is nothing to tabulate."""
    if factors is None:
        console.print(
            f"No tiers: a {geometry.rope_type} rope up to {format_length(geometry.max_positions)}, "
            "scaled by the engine.\n"
        )
        return
    if len(factors.tiers) == 1 and factors.tiers[0].is_plain:
        console.print(f"Tiers: plain rope up to {format_length(factors.max_length)}.\n")
        return
    console.print(tier_table(factors), "")


def tier_table(factors: Factors) -> Table:
    """Range of lengths, magnitude, start tokens, factors and origin of each tier."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("tokens", "attention factor", "start tokens", "factors", "monotone", "origin"):
        table.add_column(heading, no_wrap=heading in ("tokens", "factors"))
    for tier, span in zip(factors.tiers, length_ranges(factors.tiers), strict=True):
        table.add_row(
            span,
            f"{tier.attention_factor:.6g}",
            f"{tier.start_tokens}",
            "1 (plain)" if set(tier.factors) == {1.0} else f"{min(tier.factors):.4g} – {max(tier.factors):.4g}",
            "yes" if is_monotone(tier) else "no",
            Text(origin_text(factors.origin)),
        )
    return table


def origin_text(origin: Origin) -> str:
    """Method, and the model and revision it was made for when known."""
    return " ".join(part for part in (origin.method, origin.model, origin.revision) if part)


def is_monotone(tier: Tier) -> bool:
    """True when no factor is below the one before it."""
    return all(earlier <= later for earlier, later in zip(tier.factors, tier.factors[1:], strict=False))


def wavelength_table(geometry: Geometry, longest: Tier | None) -> Table:
    """Tokens in one turn of each pair, plain and in the longest tier, and the turns in the trained window."""
    critical = critical_pair(geometry.rotary_dim, geometry.base, geometry.trained_window)
    scaled = longest is not None and not longest.is_plain
    plain = wavelengths(inverse_frequencies(geometry.rotary_dim, geometry.base)).tolist()
    table = Table(box=None, pad_edge=False, header_style="bold", title="Tokens in one turn", title_justify="left")
    columns = ["pair", "period", f"turns in {format_length(geometry.trained_window)}"]
    if scaled and longest is not None:
        long = wavelengths(rescaled_inverse_frequencies(geometry.rotary_dim, geometry.base, longest.factors)).tolist()
        length = format_length(longest.max_length)
        columns += ["factor", f"period in {length}", f"turns in {length}"]
    for column in [*columns, ""]:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for pair in shown_pairs(geometry.pairs, critical):
        row = [f"{pair}", f"{plain[pair]:,.1f}", f"{geometry.trained_window / plain[pair]:,.2f}"]
        if scaled and longest is not None:
            turns = longest.max_length / long[pair]
            row += [f"{longest.factors[pair]:.4g}", f"{long[pair]:,.1f}", f"{turns:,.2f}"]
        table.add_row(*row, "← critical" if pair == critical else "")
    return table


def shown_pairs(pairs: int, critical: int) -> list[int]:
    """About ``ROWS`` pairs, evenly spaced, with the critical and the last one always among them."""
    step = max(1, -(-pairs // ROWS))
    chosen = {*range(0, pairs, step), pairs - 1}
    if 0 <= critical < pairs:
        chosen.add(critical)
    return sorted(chosen)


def write_png(path: Path, content: bytes) -> None:
    """Write the picture. Raises ``LongRopeError`` when its folder is missing or read-only."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise LongRopeError(f"Expected a place to write at --png {path}, found: {error.strerror}.") from None
