"""Each proven fault case told as one session in virtual time; `fault case A1` names it."""
