"""From a fitted law to what to do: costs, optima, recommendations with intervals, designs,
hold-outs, the study.
"""
