//! Reads zones and proves or refutes their chains.
