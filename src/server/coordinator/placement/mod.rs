//! Round trips, write rates, Raft timing, and the input of leader placement.

pub(crate) mod auto_placement;
pub(crate) mod rtt_monitor;
pub(crate) mod rtt_samples;
pub(crate) mod timing_advisor;
pub(crate) mod topology_view;
pub(crate) mod write_rates;
