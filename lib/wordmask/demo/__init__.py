"""``make demo`` and ``make learn-demo``: a real server, asked as any client asks it.

They need the sample data of the source tree.
"""
