"""Patients and images for learning: the catalog of a lake, findings, and the phantom cohort."""
