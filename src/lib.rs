//! pghc: a consensus-ordered write layer over plain PostgreSQL.
//!
//! This crate holds the command lines of `pghc` and `chain-verify`; each crate below `src/` holds a
//! layer (ARCHITECTURE.md says what each is for, and cargo that no two need each other).

pub mod cli;
