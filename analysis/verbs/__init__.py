"""What each verb of the command line does: parsed options in, text (or JSON) out.

Separate from `cli`, which only declares options, so that either can be read in one go. A verb calls
the package's public functions and formats their values.
"""

from analysis.verbs.answers import design_table, optimum_table, report_table
from analysis.verbs.common import Verb
from analysis.verbs.fitted import compare_table, fit_table
from analysis.verbs.simulated import simulate_table

__all__ = ["Verb", "compare_table", "design_table", "fit_table", "optimum_table", "report_table", "simulate_table"]
