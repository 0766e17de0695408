"""Measurements behind every claim about speed and memory; each script writes its rows to
benchmarks/results/ with its command.
"""
