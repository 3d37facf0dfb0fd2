"""The lab: data sets, models, training recipes and experiments, with which Secateur is its own first user.

Importing this package computes nothing and imports nothing; take what you need from its rooms:

    repeat       named random streams, files written whole, values named by their content
    data         data sets as tensors
    models       networks, and how their weights are drawn
    experiment   one experiment as a value
    running      the phases of a run, each an artefact
    comparing    many experiments side by side, in one process or several
    cluster      the same on a cluster
    language     language models from a folder, pruned and written again
    paper        published tables and figures over again
"""
