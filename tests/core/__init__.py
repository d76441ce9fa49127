"""Unit tests of the core: rope maths, factors, checkpoints and live transformers models."""
