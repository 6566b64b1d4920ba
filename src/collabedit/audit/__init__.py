"""The audit: attacks x views x defences on sessions of the real machines, and its report."""
