"""An exchange as a model, in process: orders, matching, account, margin and refusals, driven by a tape of trades."""
