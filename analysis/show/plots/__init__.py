"""Pictures: `style` (how they look), `fitted`, `losses` and `optimal` (what they show), `pictures`
(the list).

Only these files import matplotlib, and nothing below the report imports them.
"""
