"""One file per baseline, each the same shape inside."""
