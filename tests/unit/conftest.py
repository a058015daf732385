"""Property tests take the time that they take: the machine may be busy with something else."""

from hypothesis import settings

settings.register_profile("keystay", deadline=None)
settings.load_profile("keystay")
