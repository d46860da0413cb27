//! Load generation, WAN emulation and benchmarks.
