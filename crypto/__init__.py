"""Cryptography of the secure sum. Pure: no torch, no network, no protobuf.

Every primitive (X25519, Ed25519, AES-GCM, HKDF, SHA-256, X.509) is `cryptography`'s. What is
written here is how they are put together, and what no library offers: Shamir's sharing, fixed
point, and masks over Z/2^k.

Import modules, or names from modules: the package itself re-exports nothing.

    rng           where randomness comes from
    kdf           injective encoding, transcript hashes, derived keys, commitments
    agreement     X25519 keys of a task
    sealed        what one party sends another through the aggregator
    signing       Ed25519 identities and their files
    certificates  a development CA for mutual TLS
    ring          vectors over Z/2^32 and Z/2^64
    fixedpoint    reals to ring elements and back, with proven headroom
    keystream     a seekable AES-256 stream of ring elements
    masking       self masks and pairwise masks
    shamir        t-of-n shares of 32-byte secrets
"""
