"""The MEMIT engine. The only code that imports torch or transformers."""
