"""Tables in: which column means what (`columns`), which rows are usable (`table`), where they lie
(`points`).
"""
