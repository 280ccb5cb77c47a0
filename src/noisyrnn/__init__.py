"""Recurrent networks as stochastic differential equations: trained with noise, used without it, hard to upset.

A name is imported when it is first used, so that `import noisyrnn` loads neither torch nor what only some tasks need.
`__init__.pyi` lists the names.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
