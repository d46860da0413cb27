//! A whole parade on one machine, as real processes; also the harness of the integration tests.
