"""Dashboards of ipywidgets, one file a notebook: state and wiring only.

>>> from workbench.panels.explorer import Explorer  # doctest: +SKIP
>>> Explorer()  # doctest: +SKIP
"""
