"""Bytes on the wire, sans I/O: frames between daemon and runner."""
