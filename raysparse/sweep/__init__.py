"""Sweeps: a plan of trials goes in, a results table comes out, however often machines die.

`plan` says what is to be run and what it will cost; `budget` keeps a sweep below its limit;
`broker` holds the rules (who runs next, what a crash means) in plain Python; `inline` and `fleet`
are the two ways of running trials under those rules: one after another in this process, or on Ray.
`runner` ties them together, `progress` and `status` tell people where it stands.
"""
