"""Exposition text to values: the strict path and the fast one."""
