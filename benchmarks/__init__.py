"""Speed and memory as ratios against others, taken in turn in one run: `make bench`.

A time says something of a machine, a ratio something of the code. Each benchmark prints its goals beside what it
measured, and ends with a status other than 0 where one is missed.
"""
