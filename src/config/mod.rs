//! Settings of the processes: command line, environment `PGHC_…` and a TOML file.
