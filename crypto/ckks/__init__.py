"""Sums of CKKS ciphertexts: parties upload when they like, and one of them opens the sum.

`parameters` and `flooding` say what is safe, `packing` turns reals into polynomials, `wire` is the
form of bytes, `keys`, `encryption`, `adding` and `opening` are the four steps. `seal` alone imports
TenSEAL (extra `ckks`); an aggregator that adds needs neither it nor any key.
"""
