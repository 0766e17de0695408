"""Who proposes the trials of a sweep. A planner is asked, never runs anything, and remembers
nothing.
"""
