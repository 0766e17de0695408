"""The only room that imports ray: a fleet of resident workers, Tune's trials before them, and the
broker between.
"""
