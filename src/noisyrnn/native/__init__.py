"""The compiled library: C++ sources, the compiler that builds them at their first use, and its typed functions."""
