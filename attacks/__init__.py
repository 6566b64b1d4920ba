"""Adversaries as code: what each one sees and what it can reconstruct from that."""
