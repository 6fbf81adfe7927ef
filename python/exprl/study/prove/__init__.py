"""`exprl prove`: will it help on my data? A pilot whose plan is written before its first step.

The same policy is trained several times on one part of the data, and measured on the other part:

    right       as the config says: the judge sees each problem's own reference
    wrong       the judge sees the reference of another problem
    shuffled    grades dealt at random among a problem's rollouts
    sparse      0 or 1 by the verifier; no judge, no reference

What `right` gains over all of them is owed to the references, and over the start to training.
"""
