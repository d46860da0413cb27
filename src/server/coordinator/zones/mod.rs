//! Zones of the cluster: registry, reports, progress and state.

pub(crate) mod names;
pub(crate) mod progress_view;
pub(crate) mod registration;
pub(crate) mod registry;
pub(crate) mod state;
