"""The demonstration: real processes, a real model, and the proof that it was worth it."""
