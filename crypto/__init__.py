"""Cryptography of the secure sum. Pure: no torch, no network, no protobuf."""
