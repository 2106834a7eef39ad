"""Restored images as plain files."""
