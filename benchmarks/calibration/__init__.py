"""Simulation-based calibration: are the errors of a fit right?"""
