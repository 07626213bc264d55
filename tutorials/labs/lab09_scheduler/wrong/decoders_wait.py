"""Strictly by age: a long prompt takes the tokens of younger sequences that decode."""
# Rejected: step 1, "serves those that decode, then prompts by age": split_budget(8, [20, 1, 1])


def split_budget(budget, missing):
    left = budget
    shares = []
    for count in missing:
        share = min(count, left)
        left -= share
        shares.append(share)
    return shares
