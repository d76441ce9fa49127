"""Memory that was freed goes back to the system at once, so that a long pass on the CPU takes what it needs.

glibc maps large pieces apart and unmaps them when they are freed, but with each one it frees it raises the size from
which on it does so, up to 32 MB. The tensors of a pass over thousands of tokens lie just below: they come to share
heaps with what is kept from layer to layer, and the holes between add up to several times what is in use.
"""

import ctypes
import platform

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of <malloc.h>; a threshold that is set is raised no more
_FROM = 1 << 20


def give_back_freed_memory() -> None:
    """Have glibc map every piece from 1 MB on apart, in this process; elsewhere nothing is done."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _FROM)
