"""The bridge to lm-eval: its short benchmarks and its RULER, measured under our ropes and on servers."""
