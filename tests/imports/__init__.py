# SPDX-License-Identifier: GPL-2.0
"""Checks which Rust file uses which, against the order in Documentation/architecture.md."""
