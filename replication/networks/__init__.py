"""Shared parts of methods: image trunk, text tower, query decoder, books, and what their losses share."""
