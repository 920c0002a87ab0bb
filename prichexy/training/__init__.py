"""Training of the classifier, the verifier and the generator (arXiv 2209.11531, sections 2.2 and 2.3).

A step function for each thing trained, in pure torch (`*_step.py`): a batch, networks and optimisers in, losses out.
Nothing is imported here on purpose: the networks pull in MONAI, which takes seconds.
"""
