"""Training one trial, with no Ray: the step, what happens between steps, and the whole run."""
