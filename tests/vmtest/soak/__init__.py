# SPDX-License-Identifier: GPL-2.0
"""Everything at once, for a long time, at random, with every page checked."""
