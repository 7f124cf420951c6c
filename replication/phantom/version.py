"""The version of the phantom's pictures and populations."""

from __future__ import annotations

phantom_version = "1"
"""Freezing a version means: for the same seed, every scene and every pixel stays what it is.

The difficulty of the phantom is settled before any two methods are compared on it and is not touched
afterwards, so that no method can be favoured by it. Whatever changes a scene, an image or a mask
(a new habitus range, another noise level, a reordered random draw) needs a new version, and numbers
of different versions never share a table. The golden hashes in the tests guard the frozen state.
"""
