"""Audit: ROC curves of trained models, a threshold to drag, and what each ε from them can prove."""
