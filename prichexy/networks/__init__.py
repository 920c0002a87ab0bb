"""The networks of PriCheXy-Net and the deformation they steer; pure torch (arXiv 2209.11531, section 2).

Nothing is imported here on purpose: `verifier` and `classifier` pull in MONAI, which takes seconds, and a worker
that only deforms images needs neither.
"""
