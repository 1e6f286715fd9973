"""Engines: short, interchangeable launchers over one command on one folder, ``scaling sweep run-one DIR``.

What is done is decided by the files in the run folders alone, so a sweep begun with one engine goes on with another.
"""
