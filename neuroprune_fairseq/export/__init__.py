"""Exporting a fairseq Transformer to another engine. Needs the extra ``ctranslate2``."""
