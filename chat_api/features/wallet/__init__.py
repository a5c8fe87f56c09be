"""Wallets: money in whole minor units, kept by double entry."""
