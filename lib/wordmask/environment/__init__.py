"""Is this installation sound, and can this machine run it?"""
