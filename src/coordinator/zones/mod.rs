//! The zones of the cluster: which are registered, what they report, and how far each is.

pub(crate) mod names;
pub(crate) mod progress_view;
pub(crate) mod registration;
pub(crate) mod registry;
pub(crate) mod state;
