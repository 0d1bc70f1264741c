"""Tests of the benchmarks themselves, and the part that pytest-benchmark runs. May import every other room."""
