"""The lab: data sets, models, training recipes and experiments, with which Secateur is its own first user.

Importing this package computes nothing and imports nothing; take what you need from its modules
(`secateur.lab.data`, `secateur.lab.models`, `secateur.lab.init`).
"""
