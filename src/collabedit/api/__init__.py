"""CollabEdit as a library; the public names are those of `collabedit` itself (docs/api.md)."""
