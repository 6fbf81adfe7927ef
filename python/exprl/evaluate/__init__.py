"""How often a policy is right: pass@k and majority votes, with intervals."""
