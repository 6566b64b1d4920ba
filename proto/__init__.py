"""The wire: domain messages, their codec, signed envelopes."""
