"""What a running session is made of beside its core: waiting events, lockstep, reads of the account, watches."""
