"""Drag σ, C, batch and length, and watch ε and the noise follow."""
