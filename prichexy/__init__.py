"""Anonymizes a data lake of chest radiographs: anatomy, header and burned-in text in one distributed pass."""
