"""Fuzz targets: `python -m fuzz --list` names them, docs/fuzzing-the-core.md tells the rest."""
