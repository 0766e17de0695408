"""Sweeps that are killed, stopped and starved, and what must hold of them afterwards."""
